using System.Text.Json.Nodes;
using Peft.Adapters.Files;
using Peft.Adapters.Methods;
using Peft.Adapters.Targets;
using Peft.Files;

namespace Peft.Adapters;

/// <summary>
/// What an <c>adapter_config.json</c> says, as far as all methods share it. Each method derives its own record.
/// Keys that nobody here knows are kept and written back.
/// </summary>
public abstract record AdapterConfig
{
    /// <summary>Name of the file in an adapter's folder.</summary>
    public const string FileName = "adapter_config.json";

    /// <summary>The PEFT release whose file layout is written.</summary>
    public const string LayoutVersion = "0.21.0";

    private static readonly string[] s_taskTypes = ["SEQ_CLS", "SEQ_2_SEQ_LM", "CAUSAL_LM", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION"];

    /// <summary>PEFT's name of the method, such as <c>LORA</c>.</summary>
    public abstract string PeftType { get; }

    /// <summary>What the model is used for (<c>CAUSAL_LM</c>, <c>SEQ_CLS</c>, …), or null. With <c>SEQ_CLS</c> and <c>TOKEN_CLS</c> the classification head is saved as well.</summary>
    public string? TaskType { get; init; }

    /// <summary>Folder or hub name of the base model; set by the model the adapter is added to when null.</summary>
    public string? BaseModelName { get; init; }

    /// <summary>Revision of the base model on the hub, or null.</summary>
    public string? Revision { get; init; }

    /// <summary>Modules to adapt; null for the defaults of the base's family.</summary>
    public ModuleNames? TargetModules { get; init; }

    /// <summary>What is adapted, by the base's <c>model_type</c>, where <see cref="TargetModules"/> is null.</summary>
    public virtual IReadOnlyDictionary<string, ModuleNames> DefaultTargetModules => DefaultTargets.Lora;

    /// <summary>Modules to leave out although they are targeted; null for none.</summary>
    public ModuleNames? ExcludeModules { get; init; }

    /// <summary>Indices of the layers to adapt; null for all.</summary>
    public IReadOnlyList<int>? LayersToTransform { get; init; }

    /// <summary>Names of the list of layers in module paths (<c>layers</c>, <c>h</c>), for <see cref="LayersToTransform"/>; null to take any number in a path.</summary>
    public IReadOnlyList<string>? LayersPattern { get; init; }

    /// <summary>Whether the file gave the only one of <see cref="LayersToTransform"/> without a list, and gets it back so.</summary>
    private bool HasSingleLayer { get; init; }

    /// <summary>The same for <see cref="LayersPattern"/>.</summary>
    private bool HasSinglePattern { get; init; }

    /// <summary>Modules that are trained in full and saved beside the adapter; null for none.</summary>
    public IReadOnlyList<string>? ModulesToSave { get; init; }

    /// <summary>Which biases of the base are trained; only some methods have the choice.</summary>
    public BiasTraining Bias { get; init; }

    /// <summary>Keeps layers that share their weights sharing them under the adapter (<c>ensure_weight_tying</c>).</summary>
    public bool EnsureWeightTying { get; init; }

    /// <summary>Whether linear layers of the base hold their weight as [in, out]; corrected by what the layer is.</summary>
    public bool FanInFanOut { get; init; }

    /// <summary>Keys of the file that Peft doesn't interpret.</summary>
    public JsonObject OtherKeys { get; init; } = [];

    /// <summary>Reads the configuration in an adapter's folder.</summary>
    /// <exception cref="PeftException"><c>AdapterNotFound</c>, <c>AdapterConfigInvalid</c>, or what reading the file throws.</exception>
    /// <exception cref="NotSupportedByPeftException"><c>MethodNotSupported</c>.</exception>
    public static AdapterConfig FromFolder(string folder)
    {
        FileSet.Complete(folder);
        var path = Path.Combine(folder, FileName);
        return File.Exists(path) ? FromFile(path) : throw new PeftException("AdapterNotFound", $"There is no adapter in '{folder}': it has no {FileName}.")
        {
            Target = folder,
            RecommendedAction = $"Point to the folder that holds {FileName}; several adapters saved together lie in subfolders of their names.",
        };
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
        var peftType = reader.String("peft_type") ?? throw reader.Invalid("peft_type", "is missing: it names the method, such as \"LORA\"");
        return AdapterMethods.Read(peftType, reader);
    }

    /// <summary>The configuration in PEFT's spelling, keys sorted, every key of PEFT's own file present.</summary>
    public JsonObject ToJson()
    {
        var fields = (JsonObject)OtherKeys.DeepClone();
        fields["peft_type"] = PeftType;
        fields["task_type"] = TaskType;
        fields["base_model_name_or_path"] = BaseModelName;
        fields["revision"] = Revision;
        fields["peft_version"] = LayoutVersion;
        fields["inference_mode"] = true;
        fields.TryAdd("auto_mapping", null);
        Write(fields);
        return new JsonObject(fields.OrderBy(static field => field.Key, StringComparer.Ordinal)
            .Select(static field => KeyValuePair.Create(field.Key, field.Value?.DeepClone())));
    }

    /// <summary>Refuses what the method can't do, before anything is changed.</summary>
    /// <exception cref="PeftException">A value that makes no sense, named by its key.</exception>
    /// <exception cref="NotSupportedByPeftException">A variant that Peft has no code for, named by its key.</exception>
    public virtual void Validate()
    {
        if (TaskType is not null && !s_taskTypes.Contains(TaskType))
        {
            throw new PeftException("TaskTypeUnknown", $"'{TaskType}' is no task type. Known are {string.Join(", ", s_taskTypes)}.") { Target = TaskType };
        }

        if (LayersToTransform is not null && TargetModules?.Pattern is not null && !TargetModules.IsAllLinear)
        {
            throw Contradiction("layers_to_transform can't be used when target_modules is a regular expression; say the layers in the expression.");
        }

        if (LayersPattern is { Count: > 0 } && TargetModules?.Pattern is not null && !TargetModules.IsAllLinear)
        {
            throw Contradiction("layers_pattern can't be used when target_modules is a regular expression; say the layers in the expression.");
        }

        if (LayersPattern is { Count: > 0 } && LayersToTransform is null)
        {
            throw Contradiction("layers_pattern needs layers_to_transform.");
        }
    }

    /// <summary>Keys of the file that neither Peft nor the PEFT release it follows knows; they are kept and say nothing.</summary>
    public IReadOnlyList<string> UnknownKeys => [.. OtherKeys.Select(static entry => entry.Key).Where(key => key != "auto_mapping" && !IsPeftKey(key))];

    /// <summary>Makes the adapter that this describes; nothing is attached yet.</summary>
    /// <param name="name">The adapter's name.</param>
    public abstract Adapter CreateAdapter(string name);

    /// <summary>Whether PEFT's configuration of the method has a key that this record doesn't interpret.</summary>
    protected virtual bool IsPeftKey(string key) => false;

    /// <summary>Adds the method's own keys in PEFT's spelling.</summary>
    protected abstract void Write(JsonObject fields);

    /// <summary>An error about values that don't go together.</summary>
    protected static PeftException Contradiction(string message) => new("AdapterConfigContradictory", message);

    /// <summary>Refuses ranks below 1.</summary>
    private protected static void RefuseRanks(IEnumerable<int> ranks)
    {
        foreach (var rank in ranks.Where(static rank => rank <= 0))
        {
            throw new PeftException("RankInvalid", $"The rank (r, and every value of rank_pattern) has to be at least 1; {rank} was given.") { Target = "r" };
        }
    }

    /// <summary>Takes the keys that all methods share, and then whatever nobody asked for.</summary>
    protected AdapterConfig WithShared(ConfigReader reader) => this with
    {
        TaskType = reader.String("task_type"),
        BaseModelName = reader.String("base_model_name_or_path"),
        Revision = reader.String("revision"),
        TargetModules = reader.Names("target_modules"),
        ExcludeModules = reader.Names("exclude_modules"),
        LayersToTransform = reader.Integers("layers_to_transform"),
        LayersPattern = reader.Strings("layers_pattern"),
        HasSingleLayer = reader.IsSingle("layers_to_transform"),
        HasSinglePattern = reader.IsSingle("layers_pattern"),
        ModulesToSave = reader.Strings("modules_to_save"),
        OtherKeys = reader.Rest(),
    };

    /// <summary>Writes the keys by which modules are chosen.</summary>
    protected void WriteTargets(JsonObject fields)
    {
        fields["target_modules"] = Json(TargetModules);
        fields["exclude_modules"] = Json(ExcludeModules);
        fields["modules_to_save"] = Json(ModulesToSave);
    }

    /// <summary>Writes the keys by which layers are chosen, for methods whose file has them.</summary>
    protected void WriteLayers(JsonObject fields)
    {
        fields["layers_to_transform"] = LayersToTransform switch
        {
            null => null,
            [var only] when HasSingleLayer => JsonValue.Create(only),
            var layers => new JsonArray([.. layers.Select(static layer => JsonValue.Create(layer))]),
        };
        fields["layers_pattern"] = HasSinglePattern && LayersPattern is [var name] ? JsonValue.Create(name) : Json(LayersPattern);
    }

    /// <summary>Names as JSON: an array, or the pattern.</summary>
    protected static JsonNode? Json(ModuleNames? names) => names is null ? null : names.Pattern is { } pattern ? JsonValue.Create(pattern) : Json(names.Names);

    /// <summary>Strings as JSON.</summary>
    protected static JsonNode? Json(IReadOnlyList<string>? texts) => texts is null ? null : new JsonArray([.. texts.Select(static text => JsonValue.Create(text))]);

    /// <summary>Numbers by key as JSON, whole ones without a fraction.</summary>
    protected static JsonNode Json<T>(IReadOnlyDictionary<string, T> numbers)
        where T : struct, IConvertible =>
        new JsonObject(numbers.OrderBy(static entry => entry.Key, StringComparer.Ordinal)
            .Select(static entry => KeyValuePair.Create(entry.Key, (JsonNode?)Number(Convert.ToDouble(entry.Value, System.Globalization.CultureInfo.InvariantCulture)))));

    /// <summary>A number as JSON, always with a fraction, as Python writes what it holds as a float.</summary>
    protected static JsonNode Real(double value)
    {
        var text = value.ToString("R", System.Globalization.CultureInfo.InvariantCulture);
        return JsonNode.Parse(value == Math.Floor(value) && !text.Contains('E', StringComparison.Ordinal) ? text + ".0" : text)!;
    }

    /// <summary>A number as JSON, a whole one without a fraction.</summary>
    protected static JsonValue Number(double value) => value == Math.Floor(value) && Math.Abs(value) < 1e15 ? JsonValue.Create((long)value) : JsonValue.Create(value);
}

/// <summary>Which biases of the base an adapter trains.</summary>
public enum BiasTraining
{
    /// <summary>None.</summary>
    None,

    /// <summary>Every bias of the model.</summary>
    All,

    /// <summary>Those of adapted layers.</summary>
    Adapted,
}
