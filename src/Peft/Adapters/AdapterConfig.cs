using System.Text.Json;
using System.Text.Json.Nodes;
using Peft.Adapters.Configuration;
using Peft.Adapters.Files;
using Peft.Adapters.Methods;
using Peft.Files;
using Peft.Models;
using Peft.Tensors;

namespace Peft.Adapters;

/// <summary>
/// What an <c>adapter_config.json</c> says, as far as all methods share it. Each method derives its own record, whose properties declare
/// the file's fields (<see cref="ConfigFieldAttribute"/>).
/// Keys that nobody here knows are kept and written back.
/// </summary>
[ConfigVariant("auto_mapping", IsIdle = true)]
[ConfigVariant("inference_mode", "true", IsIdle = true)]
[ConfigVariant("peft_type", IsIdle = true)]
public abstract record AdapterConfig
{
    /// <summary>Name of the file in an adapter's folder.</summary>
    public const string FileName = "adapter_config.json";

    /// <summary>The PEFT release whose file layout is written.</summary>
    public const string LayoutVersion = "0.21.0";

    /// <summary>PEFT's name of the method, such as <c>LORA</c>.</summary>
    public abstract string PeftType { get; }

    /// <summary>What the model is for, as PEFT spells it. With <c>SEQ_CLS</c> and <c>TOKEN_CLS</c> the classification head is saved as well.</summary>
    [ConfigField("task_type", Choices = ["CAUSAL_LM", "SEQ_2_SEQ_LM", "SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION"], Preset = "CAUSAL_LM", ErrorId = "TaskTypeUnknown")]
    public string? TaskType { get; init; }

    /// <summary>Folder or hub name of the base model, where it shouldn't be that of the model that the adapter is added to.</summary>
    [ConfigField("base_model_name_or_path")]
    public string? BaseModelName { get; init; }

    /// <summary>Revision of the base model on the hub.</summary>
    [ConfigField("revision")]
    public string? Revision { get; init; }

    /// <summary>Modules that are trained in full and saved beside the adapter; null for none.</summary>
    public virtual IReadOnlyList<string>? ModulesToSave { get; init; }

    /// <summary>Whether a file of the adapter has the base's weights of embeddings and output layers that its configuration names.</summary>
    internal virtual bool SavesEmbeddings => true;

    /// <summary>Whether what is trained stands between singular vectors of the base that are computed anew for each file: what it says then depends on the library that computes them.</summary>
    internal virtual bool ComputesSingularVectors => false;

    /// <summary>Whether layers that share their weights share what is trained of them as well.</summary>
    public virtual bool EnsureWeightTying { get; init; }

    /// <summary>Keys of the file that Peft doesn't interpret.</summary>
    public JsonObject OtherKeys { get; init; } = [];

    /// <summary>Keys under which the file has a single value where a list may stand, and gets it back so.</summary>
    private HashSet<string> SingleKeys { get; init; } = [];

    /// <summary>Reads the configuration in an adapter's folder.</summary>
    /// <exception cref="PeftException"><c>AdapterNotFound</c>, <c>AdapterConfigInvalid</c>, or what reading the file throws.</exception>
    /// <exception cref="NotSupportedByPeftException"><c>MethodNotSupported</c>.</exception>
    public static AdapterConfig FromFolder(string folder)
    {
        FileSet.Complete(folder);
        var path = Path.Combine(folder, FileName);
        return MlxAdapter.IsIn(folder) ? MlxAdapter.ReadConfig(folder)
            : File.Exists(path) ? FromFile(path) : throw new PeftException("AdapterNotFound", $"There is no adapter in '{folder}': it has no {FileName}.")
        {
            Target = folder,
            RecommendedAction = FoldersBelow(folder) is [var first, ..] below
                ? $"There {(below.Count == 1 ? "is one" : "are some")} below it: import '{first}', which is the newest."
                : $"Point to the folder that holds {FileName}; several adapters saved together lie in subfolders of their names.",
        };
    }

    /// <summary>Folders with adapters at most two levels below one, the newest first: those of a training that was stopped lie in its checkpoints.</summary>
    private static List<string> FoldersBelow(string folder)
    {
        var options = new EnumerationOptions { RecurseSubdirectories = true, MaxRecursionDepth = 2, IgnoreInaccessible = true };
        return !Directory.Exists(folder) ? [] : [.. Directory.EnumerateFiles(folder, FileName, options).OrderByDescending(File.GetLastWriteTimeUtc).Select(static path => Path.GetDirectoryName(path)!)];
    }

    /// <summary>Reads an <c>adapter_config.json</c>.</summary>
    /// <exception cref="PeftException"><c>AdapterConfigInvalid</c>, or what reading the file throws.</exception>
    /// <exception cref="NotSupportedByPeftException"><c>MethodNotSupported</c>.</exception>
    public static AdapterConfig FromFile(string path) => FromJson(JsonFile.ReadNode(path), path);

    /// <summary>Reads a configuration from an object in PEFT's spelling.</summary>
    /// <param name="document">The object; keys it lacks take PEFT's defaults.</param>
    /// <param name="origin">What messages call it.</param>
    /// <exception cref="PeftException"><c>AdapterConfigInvalid</c>: a key has a value of the wrong kind.</exception>
    /// <exception cref="NotSupportedByPeftException"><c>MethodNotSupported</c>.</exception>
    public static AdapterConfig FromJson(JsonObject document, string origin = FileName)
    {
        var reader = new ConfigReader(document, origin);
        var peftType = reader.Text("peft_type") ?? throw reader.Invalid("peft_type", "is missing: it names the method, such as \"LORA\"");
        var config = (AdapterConfig)Activator.CreateInstance(AdapterMethods.ConfigOf(peftType))!;
        foreach (var field in config.Fields)
        {
            field.Property.SetValue(config, field.Read(reader));
        }

        return config with { OtherKeys = reader.Rest(), SingleKeys = [.. config.Fields.Select(static field => field.Name).Where(reader.IsSingle)] };
    }

    /// <summary>The configuration in PEFT's spelling, keys sorted, every key of PEFT's own file present.</summary>
    public JsonObject ToJson()
    {
        var keys = (JsonObject)OtherKeys.DeepClone();
        keys["peft_type"] = PeftType;
        keys["peft_version"] = LayoutVersion;
        keys["inference_mode"] = true;
        foreach (var field in Fields)
        {
            var written = field.Write(field.Property.GetValue(this));
            keys[field.Name] = written is JsonArray { Count: 1 } list && SingleKeys.Contains(field.Name) ? list[0]!.DeepClone() : written;
        }

        foreach (var variant in Variants.Where(static variant => !variant.IsFormer))
        {
            keys.TryAdd(variant.Name, JsonNode.Parse(variant.Unused));
        }

        return new JsonObject(keys.OrderBy(static entry => entry.Key, StringComparer.Ordinal)
            .Select(static entry => KeyValuePair.Create(entry.Key, entry.Value?.DeepClone())));
    }

    /// <summary>The value of a field as it is typed and as the file has it, such as <c>lora_only</c>.</summary>
    /// <param name="name">The field's key in the file.</param>
    /// <returns>The value as text; null where there is no such field, or no value.</returns>
    public string? Spelt(string name) => Fields.FirstOrDefault(field => field.Name == name) is { } field ? field.Write(field.Property.GetValue(this))?.ToString() : null;

    /// <summary>The method's own fields that hold something, as its file has them: <c>r=8, alpha=16</c>.</summary>
    public string Settings => string.Join(", ", Fields.Where(static own => own.Property.DeclaringType != typeof(AdapterConfig) && own.Property.DeclaringType != typeof(LayerwiseConfig))
        .Select(own => (own.Name, Value: own.Write(own.Property.GetValue(this))))
        .Where(static own => own.Value is { } value && !IsEmpty(value)).Select(static own => $"{own.Name}={(own.Value is JsonValue ? own.Value.ToString() : own.Value!.ToJsonString())}"));

    /// <summary>Refuses what the method can't do, before anything is changed.</summary>
    /// <exception cref="PeftException">A value that makes no sense, named by its key.</exception>
    /// <exception cref="NotSupportedByPeftException">A variant that Peft has no code for, named by its key.</exception>
    public virtual void Validate()
    {
        foreach (var field in Fields)
        {
            field.Validate(field.Property.GetValue(this));
        }

        foreach (var variant in Variants.Where(static variant => !variant.IsIdle))
        {
            if (OtherKeys[variant.Name] is { } value && !IsEmpty(value) && !JsonNode.DeepEquals(value, JsonNode.Parse(variant.Unused)))
            {
                throw new NotSupportedByPeftException(VariantErrorId, $"{PeftType} with {variant.Name} = {value.ToJsonString()} is a variant that is not supported.")
                {
                    Target = variant.Name,
                    RecommendedAction = $"For a new adapter leave {variant.Name} out; one that was trained with it would compute something else without it.",
                };
            }
        }
    }

    /// <summary>Keys of the file that neither Peft nor the PEFT release it follows knows; they are kept and say nothing.</summary>
    public IReadOnlyList<string> UnknownKeys => [.. OtherKeys.Select(static entry => entry.Key).Where(key => !Variants.Any(variant => variant.Name == key))];

    /// <summary>Id of the error for a variant without code.</summary>
    protected virtual string VariantErrorId => "VariantNotSupported";

    private IReadOnlyList<ConfigField> Fields => ConfigField.Of(GetType());

    private IReadOnlyList<ConfigVariantAttribute> Variants => ConfigField.VariantsOf(GetType());

    /// <summary>The configuration of a new adapter as a model has its layers today, where it names what they were before.</summary>
    /// <param name="model">The model.</param>
    /// <exception cref="PeftException">What it names can't be adapted by itself any more.</exception>
    internal virtual AdapterConfig ForNew(PretrainedModel model) => this;

    /// <summary>The configuration and the tensors of an adapter's file as a model has its layers today.</summary>
    /// <param name="file">The file.</param>
    /// <param name="model">The model.</param>
    /// <returns>The tensors live as long as the file.</returns>
    internal virtual (AdapterConfig Config, TensorStore Tensors) ForFile(TensorStore file, PretrainedModel model) => (this, file);

    /// <summary>The method, and the fields that say something else than their defaults do, as the file spells them.</summary>
    public sealed override string ToString()
    {
        var said = Fields.Where(field => field.Property.GetValue(this) is { } value && !Equals(value, field.Default))
            .Select(field => (field.Name, Value: field.Write(field.Property.GetValue(this))?.ToJsonString()))
            .Where(static entry => entry.Value is not (null or "{}" or "[]"));
        return $"{PeftType} {string.Join(", ", said.Select(static entry => $"{entry.Name}={entry.Value}"))}".TrimEnd();
    }

    /// <summary>Makes the adapter that this describes; nothing is attached yet.</summary>
    /// <param name="name">The adapter's name.</param>
    public abstract Adapter CreateAdapter(string name);

    /// <summary>An error about values that don't go together.</summary>
    protected static PeftException Contradiction(string message) => new("AdapterConfigContradictory", message);

    private static bool IsEmpty(JsonNode value) => value switch
    {
        JsonArray several => several.Count == 0,
        JsonObject entries => entries.Count == 0,
        _ => value.GetValueKind() == JsonValueKind.False,
    };
}
