using System.Globalization;
using System.Text.Json.Nodes;
using Peft.Models.Gguf;
using Peft.Models.Layers;

namespace Peft.Models.Architectures;

/// <summary>What a Gemma 4's configuration says of its language model; what it leaves out is transformers' default.</summary>
internal sealed class Gemma4Config
{
    private const int FullEvery = 6;
    private const string Sliding = "sliding_attention";
    private const string Full = "full_attention";

    private readonly ModelConfig _source;
    private readonly long _heads;
    private readonly int _firstShared;
    private readonly bool[] _slides;
    private readonly int[] _sources;

    public Gemma4Config(ModelConfig config)
    {
        _source = config;
        VocabularySize = config.Size("vocab_size", 262_144);
        Width = config.Size("hidden_size", 2304);
        Layers = (int)config.Size("num_hidden_layers", 30, least: 0, most: 10_000);
        _heads = config.Size("num_attention_heads", 8);
        _firstShared = Layers - (int)config.Size("num_kv_shared_layers", 0, least: 0, most: Layers);
        if (config.String("use_bidirectional_attention") == "all")
        {
            throw new NotSupportedByPeftException("ArchitectureNotSupported", "A decoder whose positions see those after them (use_bidirectional_attention) is not supported.")
            {
                RecommendedAction = "Use a model that reads from left to right.",
            };
        }

        var kinds = config.Texts("layer_types") ?? [];
        _slides = [.. Enumerable.Range(0, Layers).Select(layer => layer < Layers - 1 && (layer < kinds.Count ? kinds[layer] == Sliding : (layer + 1) % FullEvery != 0))];
        _sources = [.. Enumerable.Range(0, Layers).Select(layer => layer < _firstShared ? layer : _firstShared == 0 ? -1 : Array.LastIndexOf(_slides, _slides[layer], _firstShared - 1))];
        if (Array.FindIndex(_sources, static source => source < 0) is >= 0 and var orphan)
        {
            throw new PeftException("ModelConfigInvalid", FormattableString.Invariant(
                $"Layer {orphan} takes keys and values of another (num_kv_shared_layers), but none of its kind before it has its own.")) { Target = "num_kv_shared_layers" };
        }

        RefuseMixedHeads();
    }

    /// <summary>The families: the language model by itself, and the one beside towers for images and sound.</summary>
    public static IReadOnlyList<Family> Rows { get; } =
    [
        new("gemma4_text", "Gemma4", static config => new Gemma4Model(config)) { Gguf = GgufGemma4Map.Map, Defaults = new() { ["pad_token_id"] = 0, ["rope_parameters"] = Positions } },
        Family.Around("gemma4", "Gemma4", textType: "gemma4_text"),
    ];

    private static JsonObject Positions => new()
    {
        [Sliding] = new JsonObject { ["rope_type"] = "default", ["rope_theta"] = 10_000.0 },
        [Full] = new JsonObject { ["rope_type"] = "proportional", ["partial_rotary_factor"] = 0.25, ["rope_theta"] = 1_000_000.0 },
    };

    public long VocabularySize { get; }

    public long Width { get; }

    public int Layers { get; }

    public long Window => _source.Size("sliding_window", 512);

    public bool HasAttentionBias => _source.Boolean("attention_bias") ?? false;

    /// <summary>Whether layers that see everything have no values beside their keys.</summary>
    public bool KeysAreValues => _source.Boolean("attention_k_eq_v") ?? false;

    /// <summary>Width of what tokens say to each layer; 0 for nothing.</summary>
    public long PerLayerSize => _source.Size("hidden_size_per_layer_input", 256, least: 0);

    public bool HasExperts => _source.Boolean("enable_moe_block") ?? false;

    public long Experts => _source.Size("num_experts", 128, most: 4096);

    public long ChosenExperts => _source.Size("top_k_experts", 8, most: Experts);

    public long ExpertSize => _source.Size("moe_intermediate_size", 704);

    public RmsNorm Norm(long size) => new(size, Epsilon, "Gemma4RMSNorm", printsDetails: false);

    public PlainRmsNorm PlainNorm() => new(Epsilon, "Gemma4RMSNorm");

    public Activation Activation() => new(_source.String("hidden_activation") ?? "gelu_pytorch_tanh");

    /// <summary>Whether a layer sees a window; the last one sees everything, whatever <c>layer_types</c> says.</summary>
    public bool IsSliding(int layer) => _slides[layer];

    /// <summary>The layer whose keys and values a layer reads: itself, or the last of its kind before those that share.</summary>
    public int KeySource(int layer) => _sources[layer];

    /// <summary>Whether later layers read a layer's keys and values.</summary>
    public bool GivesKeys(int layer) => layer < _firstShared && Array.IndexOf(_sources, layer, _firstShared) >= 0;

    public long InnerSize(int layer)
    {
        var size = _source.Size("intermediate_size", 9216);
        return layer >= _firstShared && _source.Boolean("use_double_wide_mlp") == true ? 2 * size : size;
    }

    public AttentionShape Attention(int layer)
    {
        var (size, keyValueHeads) = HeadSizes(layer);
        return _heads % keyValueHeads == 0
            ? new AttentionShape(_heads, keyValueHeads, size, Scale: 1) { Dropout = _source.Number("attention_dropout") ?? 0 }
            : throw new PeftException("ModelConfigInvalid", FormattableString.Invariant($"{_heads} attention heads can't share {keyValueHeads} key and value heads evenly."));
    }

    /// <summary>Key and value heads of the layer whose are widest.</summary>
    public (long Heads, long Size)? WidestKeys =>
        Enumerable.Range(0, Layers).Select(HeadSizes).OrderByDescending(static sizes => sizes.Size).Select(static sizes => ((long, long)?)(sizes.KeyValueHeads, sizes.Size)).FirstOrDefault();

    /// <summary>Rotary positions of layers with a window, or of those that see everything.</summary>
    public RotaryEmbedding Rotary(bool isSliding)
    {
        var layer = Math.Max(0, Array.IndexOf(_slides, isSliding));
        var parameters = (_source.Node("rope_parameters") as JsonObject)?[isSliding ? Sliding : Full] as JsonObject
            ?? (JsonObject)Positions[isSliding ? Sliding : Full]!;
        return new RotaryEmbedding(new RotaryFrequencies(_source, HeadSizes(layer).Size, parameters: parameters), "Gemma4TextRotaryEmbedding");
    }

    /// <summary>Layers of a kind share its rotary table, and those that take another's keys share its heads as well.</summary>
    private void RefuseMixedHeads()
    {
        for (var layer = 0; layer < Layers; layer++)
        {
            var (own, kind, source) = (HeadSizes(layer), HeadSizes(Array.IndexOf(_slides, _slides[layer])), HeadSizes(_sources[layer]));
            if (own.Size != kind.Size || own.KeyValueHeads != source.KeyValueHeads)
            {
                throw new PeftException("ModelConfigInvalid", FormattableString.Invariant(
                    $"Layer {layer} has {own.KeyValueHeads} key and value heads of {own.Size}, but others of its kind have {source.KeyValueHeads} of {kind.Size}: they share positions, and keys where it has none of its own.")) { Target = "per_layer_config" };
            }
        }
    }

    private double Epsilon => _source.Number("rms_norm_eps") ?? 1e-6;

    /// <summary>A head's width and the number of key and value heads: by layer as transformers 5 saves them (<c>per_layer_config</c>), or by kind as published.</summary>
    private (long Size, long KeyValueHeads) HeadSizes(int layer)
    {
        var (size, keyValueHeads) = (_source.Size("head_dim", 256), _source.Size("num_key_value_heads", 4));
        if (_source.Node("per_layer_config") is JsonObject layers)
        {
            var own = new ModelConfig(layers[layer.ToString(CultureInfo.InvariantCulture)] as JsonObject ?? []);
            return (own.Size("head_dim", size), own.Size("num_key_value_heads", keyValueHeads));
        }

        return IsSliding(layer)
            ? (size, keyValueHeads)
            : (_source.Size("global_head_dim", 512), KeysAreValues ? _source.Size("num_global_key_value_heads", keyValueHeads) : keyValueHeads);
    }
}
