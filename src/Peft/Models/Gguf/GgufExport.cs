using System.Globalization;
using System.Text.Json.Nodes;
using Peft.Tensors.Gguf;
using static TorchSharp.torch;

namespace Peft.Models.Gguf;

/// <summary>A model as llama.cpp names it and orders its rows: the way back of <see cref="GgufModel"/>.</summary>
internal static class GgufExport
{
    /// <summary>The sizes and settings that the file states.</summary>
    /// <param name="tree">A model of a family with a <see cref="GgufMap"/>.</param>
    /// <param name="model">The model.</param>
    /// <param name="name">The model's name for people.</param>
    /// <param name="types">How weights are stored.</param>
    /// <exception cref="NotSupportedByPeftException"><c>GgufRotaryNotSupported</c> or <c>GgufSettingNotSupported</c>.</exception>
    public static List<(string Key, object Value)> Metadata(GgufTree tree, PretrainedModel model, string name, GgufTypes types)
    {
        var (map, config) = (tree.Map, tree.Config);
        foreach (var setting in map.Fixed)
        {
            RefuseOther(setting, map, config);
        }

        if (map.HeadIsEmbedding && !IsTied(model))
        {
            throw GgufMaps.Refused("tie_word_embeddings", $"llama.cpp takes the embedding for the output layer in '{map.Architecture}'; this model has an output layer of its own.");
        }

        List<(string Key, object Value)> metadata =
        [
            ("general.architecture", map.Architecture),
            ("general.name", name),
            ("general.file_type", types.Number),
            ("general.quantization_version", 2u),
            (map.Key("vocab_size"), (uint)model.Backbone.TokenEmbeddings!.Weight.Shape[0]),
        ];
        metadata.AddRange(map.Stated.Select(stated => (map.Key(stated.Key), stated.Value)));
        foreach (var key in map.Keys)
        {
            if (Value(key, model, config) is { } value)
            {
                metadata.Add((map.Key(key.File), value));
            }
        }

        metadata.AddRange(map.Further?.Invoke(model, config).Select(further => (map.Key(further.Key), further.Value)) ?? []);
        metadata.AddRange(GgufRotaryKeys.Metadata(map, config, HeadSize(metadata, map)));
        metadata.AddRange(Window(map, config));
        return metadata;
    }

    /// <summary>The weights in the file's order; each is read when it is written.</summary>
    /// <param name="tree">A loaded model's parameters.</param>
    /// <param name="model">The model.</param>
    /// <param name="metadata">What the file states.</param>
    /// <param name="types">How they are stored.</param>
    /// <param name="importance">By how much errors count in each column of a weight, by its path; null where nothing is known of it.</param>
    /// <exception cref="NotSupportedByPeftException"><c>GgufTensorNotSupported</c>: a weight that the format has no name for.</exception>
    public static List<GgufOutput> Tensors(GgufTree tree, PretrainedModel model, IReadOnlyList<(string Key, object Value)> metadata, GgufTypes types, IReadOnlyDictionary<string, float[]>? importance = null)
    {
        var isTied = IsTied(model);
        var layers = tree.Layers;
        List<GgufOutput> outputs = [.. GgufRotaryKeys.Tensors(tree.Map, tree.Config, HeadSize(metadata, tree.Map))];
        foreach (var group in tree.Weights().GroupBy(static weight => weight.Files[0], StringComparer.Ordinal))
        {
            GgufWeight[] weights = [.. group];
            var first = weights[0];
            for (var i = 0; i < first.Files.Count; i++)
            {
                var (part, file) = (i, first.Files[i]);
                var shape = first.Row is null ? first.Shapes[i] : [weights.Length, .. first.Shapes[i]];
                var givesLogits = file == "output.weight" || (isTied && file == "token_embd.weight");
                var (type, intended) = types.Of(file, shape, first.Layer is { } layer ? (layer, layers) : null, givesLogits);
                outputs.Add(new GgufOutput(file, shape, type, () => Blocks(first, part, type) ?? Read(weights, part))
                {
                    Intended = intended,
                    Importance = shape.Count == 2 && importance?.GetValueOrDefault(first.Path) is { } known && known.Length == shape[1] ? known : null,
                });
            }
        }

        return isTied && tree.Map.NeedsHead && outputs.Find(static output => output.Name == "token_embd.weight") is { } embedding
            ? [.. outputs, embedding with { Name = "output.weight" }]
            : outputs;
    }

    /// <summary>Which weights are stored otherwise than the file's type has them, as its blocks don't fill their rows: a sentence for each type and the one in its place.</summary>
    public static IEnumerable<string> Replacements(IReadOnlyList<GgufOutput> tensors) =>
        from tensor in tensors
        where tensor.Intended is { } intended && intended != tensor.Type
        group tensor by (tensor.Intended, tensor.Type) into replaced
        let widths = replaced.Select(static tensor => tensor.Shape[^1]).Distinct().Order()
        select string.Create(CultureInfo.InvariantCulture, $"{replaced.Count()} of {tensors.Count} tensors {(replaced.Count() == 1 ? "is" : "are")} {replaced.Key.Type.Name} instead of {replaced.Key.Intended!.Name}, whose blocks of {replaced.Key.Intended.BlockValues} don't fill rows of {string.Join(" or ", widths)}: {Some([.. replaced.Select(static tensor => tensor.Name)])}.");

    /// <summary>Whether the embedding gives the logits too.</summary>
    public static bool IsTied(PretrainedModel model) =>
        !model.NamedWeights().Any(named => named.Parameter.IsOwner && named.Path == model.OutputEmbeddings + ".weight");

    /// <summary>What llama.cpp computes otherwise than the model.</summary>
    public static IEnumerable<string> Differences(GgufTree tree)
    {
        var config = tree.Config;
        if (tree.Map.Window is null && config.Boolean("use_sliding_window") != false && config.Integer("sliding_window") is { } window && window > 0
            && window < (config.Integer("max_position_embeddings") ?? long.MaxValue))
        {
            yield return FormattableString.Invariant($"llama.cpp knows no window of attention for this architecture: beyond {window} tokens it sees more of a text than the model was made for.");
        }

        var (kind, rope) = (GgufRotaryKeys.Kind(config), GgufRotaryKeys.Parameters(config));
        if (tree.Map.Rotary is not null && kind == "yarn" && ((rope!.Number("beta_fast") ?? 32) != 32 || (rope.Number("beta_slow") ?? 1) != 1))
        {
            yield return "llama.cpp takes YaRN's usual bounds, 32 and 1, for the model's own unless it is told them: --yarn-beta-fast and --yarn-beta-slow.";
        }

        if (tree.Map.Rotary is not null && kind is "longrope" or "su")
        {
            yield return "llama.cpp takes the factors of long texts wherever its context (-c) is longer than the one the model was first made for, whatever the length of a text.";
        }

        if (tree.Map.Recurs?.Invoke(config) is { Length: > 0 } recurs && recurs.Distinct().Count() == 1)
        {
            yield return $"All layers {(recurs[0] ? "are recurrent" : "have attention")}: llama.cpp expects layers of both kinds in '{tree.Map.Architecture}', and ends the process that runs this file.";
        }
    }

    private static string Some(IReadOnlyList<string> names) => string.Join(", ", names.Take(3)) + (names.Count > 3 ? ", …" : "");

    private static object? Value(GgufKey key, PretrainedModel model, ModelConfig config)
    {
        if (key.Kind == GgufKind.Flag)
        {
            return key.Tree is null ? null : config.Boolean(key.Tree);
        }

        var number = key.Of?.Invoke(model) ?? (key.Tree is null ? null : config.Number(key.Tree)) ?? key.Otherwise?.Invoke(model, config);
        return number is null ? key.IsRequired ? config.RequiredInteger(key.Tree!) : null
            : key.Kind == GgufKind.Whole ? (object)(uint)number : (float)number;
    }

    /// <summary>Width of a head, as the metadata says it.</summary>
    private static long HeadSize(IReadOnlyList<(string Key, object Value)> metadata, GgufMap map)
    {
        return Find("attention.key_length") ?? (Find("embedding_length") / Find("attention.head_count")) ?? 0;

        long? Find(string name) => metadata.FirstOrDefault(entry => entry.Key == map.Key(name)).Value is uint value ? value : null;
    }

    private static void RefuseOther(GgufFixed setting, GgufMap map, ModelConfig config)
    {
        var parts = setting.Key.Split('.');
        var node = config.Node(parts[0]);
        node = parts.Length > 1 ? (node as JsonObject)?[parts[1]] : node;
        if (node is null || setting.Accepted.Any(accepted => IsSame(node, accepted)))
        {
            return;
        }

        throw new NotSupportedByPeftException("GgufSettingNotSupported", $"llama.cpp computes '{map.Architecture}' with {setting.Key} = {JsonValue.Create(setting.Accepted[0])?.ToJsonString() ?? "null"}, but this model has {node.ToJsonString()}.")
        {
            Target = setting.Key,
            RecommendedAction = "Export the model as safetensors.",
        };
    }

    private static bool IsSame(JsonNode node, object? accepted) => accepted switch
    {
        string text => node is JsonValue value && value.TryGetValue<string>(out var own) && own == text,
        bool flag => node is JsonValue value && value.TryGetValue<bool>(out var own) && own == flag,
        double number => node is JsonValue { } value && value.GetValueKind() == System.Text.Json.JsonValueKind.Number && Math.Abs(double.Parse(value.ToJsonString(), CultureInfo.InvariantCulture) - number) <= 1e-9,
        _ => node is JsonArray { Count: 0 },
    };

    /// <summary>A window, and which layers see it.</summary>
    private static IEnumerable<(string Key, object Value)> Window(GgufMap map, ModelConfig config)
    {
        if (map.Window is not { } form || config.Integer("sliding_window") is not { } window)
        {
            yield break;
        }

        var count = (int)config.RequiredInteger(map.LayersKey);
        var usual = (int)(form.PeriodKey is { } key ? config.Integer(key) ?? config.Integer("_" + key) ?? form.Period : form.Period);
        var sees = Enumerable.Range(0, count).Select(layer => config.TextOf("layer_types", layer) is { } kind ? kind != "sliding_attention" : (layer + 1) % usual == 0).ToArray();
        if (form.ListsLayers)
        {
            sees[^1] |= form.LastSeesAll;
            yield return (map.Key("attention.sliding_window"), (uint)window);
            yield return (map.Key("attention.sliding_window_pattern"), sees.Select(static full => !full).ToArray());
            yield break;
        }

        var period = Array.IndexOf(sees, true) + 1;
        period = period == 0 ? Math.Max(form.Period, count + 1) : period;
        if ((period != form.Period && !form.ReadsPeriod && count >= Math.Min(period, form.Period)) || sees.Where((full, layer) => full != ((layer + 1) % period == 0)).Any())
        {
            throw new NotSupportedByPeftException("GgufSettingNotSupported", $"llama.cpp has a layer that sees everything after each {form.Period - 1} with a window in '{map.Architecture}'; this model's layers stand otherwise.")
            {
                Target = "layer_types",
                RecommendedAction = "Export the model as safetensors.",
            };
        }

        yield return (map.Key("attention.sliding_window"), (uint)window);
        if (form.ReadsPeriod)
        {
            yield return (map.Key("attention.sliding_window_pattern"), (uint)period);
        }
    }

    /// <summary>What a weight that is kept as a file's blocks has for a part of the file, as it is; null where it is held otherwise.</summary>
    private static Tensor? Blocks(GgufWeight weight, int part, GgufType type)
    {
        if (weight.Row is not null || !weight.Name.Layout.HoldsRows || weight.Parameter.Packed?.Blocks(type.Name) is not { } blocks)
        {
            return null;
        }

        using var noGrad = no_grad();
        return weight.RowsToFile(blocks)[part].contiguous().alias();
    }

    private static Tensor Read(GgufWeight[] weights, int part)
    {
        using var noGrad = no_grad();
        var parts = weights.Select(weight => weight.ToFile(weight.Parameter.Unpacked(weight.Parameter.DataType))[part]).ToArray();
        return weights[0].Row is null ? parts[0].contiguous().alias() : stack(parts.Zip(weights).OrderBy(static entry => entry.Second.Row).Select(static entry => entry.First));
    }
}
