using System.Globalization;
using System.Text.Json.Nodes;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Files;
using Peft.Tensors;
using static TorchSharp.torch;

namespace Peft.Adapters.Files;

/// <summary>
/// LoRA and DoRA as MLX (mlx-lm) keeps them: <c>adapters.safetensors</c>, whose factors lie the other way round than PEFT's (lora_a [in, rank], lora_b [rank, out]) and act at one scale,
/// beside an <c>adapter_config.json</c> of another form.
/// </summary>
public static class MlxAdapter
{
    private const string WeightsName = "adapters.safetensors";
    private const string KindKey = "fine_tune_type";
    private const string SettingsKey = "lora_parameters";
    private const string FactorA = ".lora_a";
    private const string FactorB = ".lora_b";
    private const string Length = ".m";

    /// <summary>Whether a folder holds such an adapter.</summary>
    internal static bool IsIn(string folder)
    {
        var path = Path.Combine(folder, AdapterConfig.FileName);
        return File.Exists(path) && File.Exists(Path.Combine(folder, WeightsName)) && JsonFile.ReadNode(path) is var document && !document.ContainsKey("peft_type")
            && (document.ContainsKey(SettingsKey) || document.ContainsKey(KindKey));
    }

    /// <summary>The configuration in PEFT's terms; which layers are adapted is told by the weights.</summary>
    /// <exception cref="PeftException"><c>AdapterConfigInvalid</c>.</exception>
    /// <exception cref="NotSupportedByPeftException"><c>AdapterFormatNotSupported</c>: weights that were trained in full.</exception>
    internal static LoraConfig ReadConfig(string folder)
    {
        var path = Path.Combine(folder, AdapterConfig.FileName);
        var document = JsonFile.ReadNode(path);
        var kind = (document[KindKey] as JsonValue)?.ToString() ?? "lora";
        if (kind is not ("lora" or "dora"))
        {
            throw new NotSupportedByPeftException("AdapterFormatNotSupported", $"'{path}' is of MLX's kind '{kind}', which is no adapter.")
            {
                Target = path,
                RecommendedAction = "Fuse it into the model in MLX (mlx_lm.fuse), or extract an adapter from the model: ConvertTo-LoraAdapter -BaseModel -TunedModel.",
            };
        }

        using var file = OpenFile(folder);
        string[] layers = [.. file.Names.Where(static name => name.EndsWith(FactorA, StringComparison.Ordinal)).Select(static name => name[..^FactorA.Length]).Order(StringComparer.Ordinal)];
        var settings = document[SettingsKey] as JsonObject ?? document;
        var ranks = layers.ToDictionary(static layer => layer, layer => file.Entry(layer + FactorA).Shape is [_, var own] ? (int)own : throw Invalid(path, $"'{layer}{FactorA}' beside it is no matrix"));
        var rank = ranks.Count == 0 ? throw Invalid(path, $"{WeightsName} beside it has no {FactorA}") : ranks.Values.Max();
        var scale = Number(settings["scale"]) ?? Number(settings["alpha"]) / rank ?? throw Invalid(path, "it lacks the scale of the change");
        var others = ranks.Where(entry => entry.Value != rank).ToDictionary(static entry => entry.Key, static entry => entry.Value);
        return new LoraConfig
        {
            Rank = rank,
            Alpha = scale * rank,
            Dropout = Number(settings["dropout"]) ?? 0,
            UseDora = kind == "dora" || file.Names.Any(static name => name.EndsWith(Length, StringComparison.Ordinal)),
            RankPattern = others,
            AlphaPattern = others.ToDictionary(static entry => entry.Key, entry => scale * entry.Value),
            TargetModules = ModuleNames.Of(layers),
            TaskType = "CAUSAL_LM",
            BaseModelName = (document["model"] as JsonValue)?.ToString(),
        };

        static double? Number(JsonNode? node) => node?.GetValueKind() == System.Text.Json.JsonValueKind.Number ? (double)node : null;
    }

    /// <summary>The weights under PEFT's names, turned over.</summary>
    internal static TensorStore Open(string folder)
    {
        var file = OpenFile(folder);
        Dictionary<string, FormedTensor> formed = new(StringComparer.Ordinal);
        foreach (var name in file.Names)
        {
            var (layer, key) = name.EndsWith(FactorA, StringComparison.Ordinal) ? (name[..^FactorA.Length], "lora_A.weight")
                : name.EndsWith(FactorB, StringComparison.Ordinal) ? (name[..^FactorB.Length], "lora_B.weight")
                : name.EndsWith(Length, StringComparison.Ordinal) ? (name[..^Length.Length], "lora_magnitude_vector") : (name, "");
            if (key.Length > 0)
            {
                var shape = file.Entry(name).Shape;
                formed[$"{AdapterFile.Prefix}{layer}.{key}"] = new FormedTensor([.. shape.Reverse()], () =>
                {
                    using var stored = file.Read(name, ScalarType.Float32);
                    using var turned = stored.dim() == 2 ? stored.t() : stored.alias();
                    return turned.contiguous().clone();
                });
            }
        }

        return new FormedTensors(file, file.Names.ToHashSet(StringComparer.Ordinal), formed, ownsFile: true);
    }

    /// <summary>Writes a LoRA or DoRA adapter so that MLX reads it. A layer whose scale or rank isn't the largest has it in its factors.</summary>
    /// <param name="model">The model.</param>
    /// <param name="name">The adapter's name.</param>
    /// <param name="folder">The folder, made when it isn't there.</param>
    /// <exception cref="PeftException"><c>AdapterNotFound</c>, or what writing throws.</exception>
    /// <exception cref="NotSupportedByPeftException"><c>AdapterFormatNotSupported</c>: MLX has no such adapters.</exception>
    public static void Save(PeftModel model, string name, string folder)
    {
        ArgumentNullException.ThrowIfNull(model);
        using var held = model.Acquire("saving an adapter");
        var adapter = model[name].Adapter;
        if (adapter.Config is not LoraConfig { TargetParameters: null or { Count: 0 }, LoraBias: false, LosesItsStart: false } config || adapter.Overlays.Count > 0
            || adapter.Layers.Any(static layer => layer.Adapter is not LoraLayer { Layer: Models.Layers.Linear or Models.Layers.Embedding, BaseEdit: null } lora || lora.GetType() is var type && type != typeof(LoraLayer) && type != typeof(DoraLayer)))
        {
            throw new NotSupportedByPeftException("AdapterFormatNotSupported", $"'{adapter.Name}' can't be written for MLX, which has LoRA and DoRA of linear layers and embeddings alone, on the base as it is.")
            {
                Target = adapter.Name,
                RecommendedAction = "Turn it into plain LoRA first: ConvertTo-LoraAdapter.",
            };
        }

        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        LoraLayer[] layers = [.. adapter.Layers.Select(static layer => (LoraLayer)layer.Adapter)];
        var (rank, scale) = (layers.Max(static layer => layer.A.Shape[0]), layers[0].ChangeScale);
        List<(string, Tensor)> tensors = [];
        foreach (var layer in layers)
        {
            var (a, b) = (layer.A.Data.t(), layer.B.Data.t() * (layer.ChangeScale / scale));
            var missing = rank - a.size(1);
            tensors.Add((layer.Layer.Path + FactorA, missing == 0 ? a.contiguous() : cat([a, zeros(a.size(0), missing)], 1)));
            tensors.Add((layer.Layer.Path + FactorB, missing == 0 ? b.contiguous() : cat([b, zeros(missing, b.size(1))], 0)));
            if (layer is DoraLayer)
            {
                tensors.Add((layer.Layer.Path + Length, layer.Parameters.Single(static entry => entry.Key.StartsWith("lora_magnitude", StringComparison.Ordinal)).Parameter.Data.alias()));
            }
        }

        AtomicFile.MakeFolder(folder);
        var blocks = model.Base.Descendants().Select(static module => BlockOf(module.Path.Split('.')).Block).Max() + 1;
        var document = Document(config, layers, blocks, rank, scale);
        FileSet.Replace(folder, [(AdapterConfig.FileName, stream => JsonFile.Write(stream, document)), (WeightsName, stream => SafetensorsWriter.Write(stream, tensors))]);
    }

    private static JsonObject Document(LoraConfig config, LoraLayer[] layers, int blocks, long rank, double scale)
    {
        var inside = layers.Select(static layer => BlockOf(layer.Layer.Path.Split('.'))).Where(static place => place.Block >= 0).ToArray();
        var keys = inside.Select(static place => place.Inside).Distinct(StringComparer.Ordinal).Order(StringComparer.Ordinal);
        return new JsonObject
        {
            [KindKey] = config.UseDora ? "dora" : "lora",
            ["model"] = config.BaseModelName,
            ["num_layers"] = inside.Length == 0 ? 0 : blocks - inside.Min(static place => place.Block),
            [SettingsKey] = new JsonObject
            {
                ["rank"] = rank,
                ["scale"] = scale,
                ["dropout"] = config.Dropout,
                ["keys"] = new JsonArray([.. keys.Select(static key => JsonValue.Create(key))]),
            },
        };
    }

    /// <summary>Which block a path is in, and what of the block: 3 and self_attn.q_proj of model.layers.3.self_attn.q_proj; -1 for none.</summary>
    private static (int Block, string Inside) BlockOf(string[] parts)
    {
        var at = Array.FindIndex(parts, static part => int.TryParse(part, NumberStyles.None, CultureInfo.InvariantCulture, out _));
        return at < 0 ? (-1, "") : (int.Parse(parts[at], CultureInfo.InvariantCulture), string.Join('.', parts[(at + 1)..]));
    }

    private static SafetensorsFile OpenFile(string folder) => SafetensorsFile.Open(Path.Combine(folder, WeightsName));

    private static PeftException Invalid(string path, string what) => new("AdapterConfigInvalid", $"'{path}': {what}.")
    {
        Target = path,
        RecommendedAction = "Fetch the adapter's files again.",
    };
}
