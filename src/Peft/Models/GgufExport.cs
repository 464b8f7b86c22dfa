using System.Globalization;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using Peft.Tensors.Gguf;
using static TorchSharp.torch;

namespace Peft.Models;

/// <summary>A model as llama.cpp names it and orders its rows: the way back of <see cref="GgufModel"/>.</summary>
internal static partial class GgufExport
{
    /// <summary>The sizes and settings that the file states.</summary>
    /// <param name="model">A model of a family with a <see cref="GgufMap"/>.</param>
    /// <param name="name">The model's name for people.</param>
    /// <param name="types">How weights are stored.</param>
    /// <exception cref="NotSupportedByPeftException"><c>GgufArchitectureNotSupported</c> or <c>GgufRotaryNotSupported</c>.</exception>
    public static List<(string Key, object Value)> Metadata(PretrainedModel model, string name, GgufTypes types)
    {
        var (map, config) = (MapOf(model), model.Config);
        var heads = config.RequiredInteger("num_attention_heads");
        var size = config.Integer("head_dim") ?? config.RequiredInteger("hidden_size") / heads;
        List<(string, object)> metadata =
        [
            ("general.architecture", map.Architecture),
            ("general.name", name),
            ("general.file_type", types.Number),
            ("general.quantization_version", 2u),
            Whole("vocab_size", model.Backbone.TokenEmbeddings!.Weight.Shape[0]),
            Whole("context_length", config.Integer("max_position_embeddings") ?? 2048),
            Whole("embedding_length", config.RequiredInteger("hidden_size")),
            Whole("block_count", config.RequiredInteger("num_hidden_layers")),
            Whole("feed_forward_length", config.RequiredInteger("intermediate_size")),
            Whole("attention.head_count", heads),
            Whole("attention.head_count_kv", config.Integer("num_key_value_heads") ?? heads),
            Whole("attention.key_length", size),
            Whole("attention.value_length", size),
            Whole("rope.dimension_count", size),
            (map.Architecture + ".attention.layer_norm_rms_epsilon", (float)(config.Number("rms_norm_eps") ?? 1e-6)),
            (map.Architecture + ".rope.freq_base", (float)(Rope(config)?.Number("rope_theta") ?? config.Number("rope_theta") ?? 10000)),
        ];
        metadata.AddRange(map.Numbers.Where(number => config.Number(number.Tree) is not null).Select(number => ($"{map.Architecture}.{number.File}", (object)(float)config.Number(number.Tree)!)));
        AddScaling(metadata, map, config);
        return metadata;

        (string, object) Whole(string key, long value) => ($"{map.Architecture}.{key}", (uint)value);
    }

    /// <summary>The weights in the file's order; each is read when it is written.</summary>
    /// <param name="model">A loaded model.</param>
    /// <param name="types">How they are stored.</param>
    /// <exception cref="NotSupportedByPeftException"><c>GgufTensorNotSupported</c>: a weight that the format has no name for.</exception>
    public static List<GgufOutput> Tensors(PretrainedModel model, GgufTypes types)
    {
        var map = MapOf(model);
        var owners = model.NamedWeights().Where(static named => named.Parameter.IsOwner).ToArray();
        var layers = (int)model.Config.RequiredInteger("num_hidden_layers");
        var isTied = IsTied(model);
        List<GgufOutput> outputs = [];
        if (Frequencies(model.Config) is { } factors)
        {
            outputs.Add(new GgufOutput("rope_freqs.weight", [factors.Length], GgufType.Named("F32"), () => tensor(factors)));
        }

        foreach (var (path, parameter, _) in owners)
        {
            var (name, layer) = NameOf(path, map);
            if (!map.HasOutputBias && path.EndsWith(".o_proj.bias", StringComparison.Ordinal))
            {
                throw NoName(path, map);
            }

            var givesLogits = name == "output.weight" || (isTied && name == "token_embd.weight");
            outputs.Add(new GgufOutput(name, parameter.Shape, types.Of(name, parameter.Shape, layer is { } index ? (index, layers) : null, givesLogits), () => Read(model, path, parameter, map)));
        }

        return outputs;
    }

    /// <summary>Whether the embedding gives the logits too.</summary>
    public static bool IsTied(PretrainedModel model) =>
        !model.NamedWeights().Any(named => named.Parameter.IsOwner && named.Path.StartsWith(model.OutputEmbeddings + ".", StringComparison.Ordinal));

    /// <summary>What llama.cpp computes otherwise than the model, or null.</summary>
    public static string? Difference(PretrainedModel model)
    {
        var config = model.Config;
        if (config.Boolean("use_sliding_window") != false && config.Integer("sliding_window") is { } window && window < (config.Integer("max_position_embeddings") ?? long.MaxValue))
        {
            return FormattableString.Invariant($"llama.cpp knows no window of attention for this architecture: beyond {window} tokens it sees more of a text than the model was made for.");
        }

        return Kind(config) == "yarn" && Rope(config) is { } rope && ((rope.Number("beta_fast") ?? 32) != 32 || (rope.Number("beta_slow") ?? 1) != 1)
            ? "llama.cpp takes YaRN's usual bounds, 32 and 1, for the model's own unless it is told them: --yarn-beta-fast and --yarn-beta-slow."
            : null;
    }

    /// <summary>How a family's files are written.</summary>
    /// <exception cref="NotSupportedByPeftException"><c>GgufArchitectureNotSupported</c>.</exception>
    public static GgufMap MapOf(PretrainedModel model) => model.Config.KnownFamily?.Gguf ?? throw new NotSupportedByPeftException(
        "GgufArchitectureNotSupported", $"Models of the type '{model.Config.ModelType}' are not written as GGUF.")
    {
        Target = model.Config.ModelType,
        RecommendedAction = $"Supported are: {string.Join(", ", ArchitectureRegistry.Families.Where(static family => family.Gguf is not null).Select(static family => family.ModelType))}. Export the model as safetensors and convert it with llama.cpp's own script.",
    };

    /// <summary>The name in the file of a weight or a module in the tree, and the layer that it belongs to.</summary>
    /// <exception cref="NotSupportedByPeftException"><c>GgufTensorNotSupported</c>.</exception>
    public static (string Name, int? Layer) NameOf(string path, GgufMap map)
    {
        var match = LayerPath().Match(path);
        var (own, names) = match.Success ? (match.Groups["part"].Value, map.InLayer) : (path, map.Whole);
        foreach (var (file, tree) in names)
        {
            if (own == tree || own.StartsWith(tree + ".", StringComparison.Ordinal))
            {
                var prefix = match.Success ? $"blk.{match.Groups["layer"].Value}." : "";
                return (prefix + file + own[tree.Length..], match.Success ? int.Parse(match.Groups["layer"].Value, CultureInfo.InvariantCulture) : null);
            }
        }

        throw NoName(path, map);
    }

    private static NotSupportedByPeftException NoName(string path, GgufMap map) =>
        new("GgufTensorNotSupported", $"GGUF has no name for '{path}' in a model of the architecture '{map.Architecture}'.")
        {
            Target = path,
            RecommendedAction = "Export the model as safetensors.",
        };

    /// <summary>Puts rows of a query's or a key's heads in the order in which neighbours turn together.</summary>
    /// <param name="weight">[heads · size, …].</param>
    /// <param name="heads">Number of heads.</param>
    public static Tensor Interleaved(Tensor weight, long heads)
    {
        using var scope = NewDisposeScope();
        return weight.reshape(heads, 2, weight.size(0) / heads / 2, -1).transpose(1, 2).contiguous().view(weight.shape).MoveToOuterDisposeScope();
    }

    /// <summary>The heads whose rows a path's weight holds in the file's order; null where the order is the tree's.</summary>
    public static long? TurnedHeads(PretrainedModel model, string path, GgufMap map)
    {
        var heads = model.Config.RequiredInteger("num_attention_heads");
        return !map.PairsNeighbours ? null
            : path.Contains(".q_proj", StringComparison.Ordinal) ? heads
            : path.Contains(".k_proj", StringComparison.Ordinal) ? model.Config.Integer("num_key_value_heads") ?? heads
            : null;
    }

    [GeneratedRegex(@"^model\.layers\.(?<layer>[0-9]{1,6})\.(?<part>.+)$", RegexOptions.CultureInvariant, matchTimeoutMilliseconds: 1000)]
    private static partial Regex LayerPath();

    private static Tensor Read(PretrainedModel model, string path, Parameter parameter, GgufMap map)
    {
        using var noGrad = no_grad();
        var values = parameter.Unpacked(parameter.DataType);
        return TurnedHeads(model, path, map) is { } heads ? Interleaved(values, heads)
            : map.AddsOneToNorms && path.EndsWith("norm.weight", StringComparison.Ordinal) ? values.to(ScalarType.Float32) + 1
            : values.alias();
    }

    private static ModelConfig? Rope(ModelConfig config) =>
        (config.Node("rope_parameters") ?? config.Node("rope_scaling")) is JsonObject rope ? new ModelConfig(rope) : null;

    private static string Kind(ModelConfig config) => Rope(config) is { } rope ? rope.String("rope_type") ?? rope.String("type") ?? "default" : "default";

    private static void AddScaling(List<(string, object)> metadata, GgufMap map, ModelConfig config)
    {
        switch (Kind(config))
        {
            case "default" or "llama3":
                return;
            case "linear" or "yarn":
                var rope = Rope(config)!;
                metadata.Add((map.Architecture + ".rope.scaling.type", Kind(config)));
                metadata.Add((map.Architecture + ".rope.scaling.factor", (float)(rope.Number("factor") ?? 1)));
                if (rope.Integer("original_max_position_embeddings") is { } original)
                {
                    metadata.Add((map.Architecture + ".rope.scaling.original_context_length", (uint)original));
                }

                if (Kind(config) == "yarn" && rope.Number("attention_factor") is { } attention)
                {
                    metadata.Add((map.Architecture + GgufMap.YarnAttentionKey, (float)(attention / GgufMap.YarnAttention(rope.Number("factor") ?? 1))));
                }

                foreach (var key in GgufMap.YarnNumbers.Where(key => rope.Number(key.Tree) is not null))
                {
                    metadata.Add((map.Architecture + key.File, (float)rope.Number(key.Tree)!));
                }

                return;
            case var kind:
                throw new NotSupportedByPeftException("GgufRotaryNotSupported", $"Rotary scaling '{kind}' is not written as GGUF.")
                {
                    Target = kind,
                    RecommendedAction = "Supported are: default, linear, yarn and llama3. Export the model as safetensors.",
                };
        }
    }

    /// <summary>By how much each frequency is slowed down with Llama 3's scaling; null without it.</summary>
    private static float[]? Frequencies(ModelConfig config)
    {
        if (Kind(config) != "llama3" || Rope(config) is not { } rope)
        {
            return null;
        }

        var size = config.Integer("head_dim") ?? config.RequiredInteger("hidden_size") / config.RequiredInteger("num_attention_heads");
        var theta = rope.Number("rope_theta") ?? config.Number("rope_theta") ?? 10000;
        double factor = rope.Number("factor") ?? 8, low = rope.Number("low_freq_factor") ?? 1, high = rope.Number("high_freq_factor") ?? 4;
        var original = rope.Number("original_max_position_embeddings") ?? 8192;
        return [.. Enumerable.Range(0, (int)(size / 2)).Select(i =>
        {
            var turns = original * Math.Pow(theta, -2.0 * i / size) / (2 * Math.PI);
            var share = Math.Clamp((turns - low) / (high - low), 0, 1);
            return (float)(1 / (((1 - share) / factor) + share));
        })];
    }
}
