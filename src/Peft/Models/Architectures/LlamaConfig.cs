using System.Text.Json.Nodes;
using Peft.Models.Layers;

namespace Peft.Models.Architectures;

/// <summary>In what families differ that are built like Llama.</summary>
/// <param name="HasProjectionBias">Whether q, k and v always have a bias.</param>
/// <param name="HasWindow">Whether <c>sliding_window</c> acts.</param>
/// <param name="HasHeadNorms">Whether the heads of q and k are normed (Qwen3).</param>
internal sealed record LlamaTraits(bool HasProjectionBias = false, bool HasWindow = false, bool HasHeadNorms = false)
{
    /// <summary>Makes what a layer, by its index, mixes positions with; null for attention.</summary>
    public Func<LlamaConfig, int, LlamaMixer>? Mixer { get; init; }

    /// <summary>Makes what a layer, by its index, computes after that; null for the gated MLP.</summary>
    public Func<LlamaConfig, int, FeedForward>? FeedForward { get; init; }

    /// <summary>Where layers see a window although the configuration names none, every such layer sees everything; 0 for none.</summary>
    public int FullEvery { get; init; }

    /// <summary>Whether a layer, by its index, sees a window where <c>layer_types</c> doesn't say; null for what <c>max_window_layers</c> and the pattern say.</summary>
    public Func<LlamaConfig, int, bool>? IsLocal { get; init; }

    /// <summary>Whether scores are capped by <c>attn_logit_softcapping</c> (Gemma 2; Gemma 3 has the key and does nothing by it).</summary>
    public bool CapsScores { get; init; }

    /// <summary>Key of the name of the MLP's activation.</summary>
    public string ActivationKey { get; init; } = "hidden_act";

    /// <summary>Whether keys are turned anew when a text grows past the length up to which short factors hold.</summary>
    public bool TurnsAnew { get; init; }

    /// <summary>Whether a head has a sink beside its scores (gpt-oss).</summary>
    public bool HasSinks { get; init; }

    /// <summary>Whether each layer sees a window unless its kind says otherwise every so many layers: the key of that number, where it isn't <see cref="FullEvery"/>.</summary>
    public string? PatternKey { get; init; }

    /// <summary>Whether the heads of q and of k are normed together, before they are told apart (OLMo 2).</summary>
    public bool NormsHeadsTogether { get; init; }

    /// <summary>Whether attention's output has the bias that q, k and v have.</summary>
    public bool HasOutputBias { get; init; } = true;

    /// <summary>Key of the base of the rotary positions of layers with a window, and the base without it; null where all layers turn alike.</summary>
    public (string Key, double Otherwise)? LocalBase { get; init; }

    /// <summary>Whether <c>no_rope_layers</c> names layers without rotary positions, by default every fourth (SmolLM3).</summary>
    public bool HasLayersWithoutRotary { get; init; }

    /// <summary>What multiplies the vectors of tokens as they are looked up, by the model's width, and the class that does; null for nothing.</summary>
    public (string ClassName, Func<double, double> Of)? EmbeddingScale { get; init; }

    /// <summary>Whether <c>gelu</c> means its approximation by tanh (Gemma's first files).</summary>
    public bool ApproximatesGelu { get; init; }

    /// <summary>Stands in the class name of rotary positions; null for <see cref="Part"/>.</summary>
    public string? RotaryPart { get; init; }

    /// <summary>Stands in the class names of what belongs to text alone in a model of several parts.</summary>
    public string Part { get; init; } = "";

    /// <summary>Key of the width of what rotary positions turn; null for the whole head.</summary>
    public string? RotarySize { get; init; }

    /// <summary>Share of the head that turns where the configuration doesn't say; null where all of it does whatever it says.</summary>
    public double? RotaryShare { get; init; }

    /// <summary>Whether norms multiply by 1 + w.</summary>
    public bool AddsOneToNorms { get; init; }

    /// <summary>What modules are called.</summary>
    public LlamaNames Names { get; init; } = new();

    /// <summary>Whether neighbouring elements turn together, where <c>rope_interleave</c> doesn't say otherwise.</summary>
    public bool IsInterleaved { get; init; }
}

/// <summary>What modules are called.</summary>
internal sealed record LlamaNames
{
    public string Output { get; init; } = "o_proj";

    public string QueryNorm { get; init; } = "q_norm";

    public string KeyNorm { get; init; } = "k_norm";

    public string FeedForward { get; init; } = "mlp";

    /// <summary>Before attention; null for none.</summary>
    public string? InputNorm { get; init; } = "input_layernorm";

    /// <summary>After attention, before it is added; null for none.</summary>
    public string? AttentionNorm { get; init; }

    /// <summary>Before the MLP; null for none.</summary>
    public string? InnerNorm { get; init; } = "post_attention_layernorm";

    /// <summary>After the MLP, before it is added; null for none.</summary>
    public string? OutputNorm { get; init; }

    /// <summary>Whether the norm before the MLP stands before the one after attention.</summary>
    public bool ListsInnerNormFirst { get; init; }

    /// <summary>What drops elements of attention's and of the MLP's output; null for none.</summary>
    public (string Attention, string FeedForward)? Dropouts { get; init; }

    public string FinalNorm { get; init; } = "norm";

    public string Rotary { get; init; } = "rotary_emb";

    /// <summary>Whether rotary positions stand before the last norm.</summary>
    public bool ListsRotaryFirst { get; init; }

    /// <summary>The gated MLP's layers: gate, up, down.</summary>
    public IReadOnlyList<string> Mlp { get; init; } = ["gate_proj", "up_proj", "down_proj"];

    /// <summary>Whether the MLP's activation stands in the tree.</summary>
    public bool ListsActivation { get; init; } = true;
}

/// <summary>What a Llama's configuration says; what it leaves out is as in the 7B model, which is transformers' default (Touvron et al. 2023; Grattafiori et al. 2024).</summary>
internal sealed class LlamaConfig
{
    private readonly LlamaTraits _traits;

    public LlamaConfig(ModelConfig config, LlamaTraits traits)
    {
        Source = config;
        _traits = traits;
        VocabularySize = config.Size("vocab_size", 32000);
        HiddenSize = config.Size("hidden_size", 4096);
        InnerSize = config.Size("intermediate_size", 11008);
        Layers = (int)config.Size("num_hidden_layers", 32, least: 0, most: 10_000);
        var heads = config.Size("num_attention_heads", 32);
        var headSize = config.Size("head_dim", HiddenSize / heads);
        Attention = new AttentionShape(heads, config.Size("num_key_value_heads", heads), headSize, Scale(config, headSize))
        {
            SoftCap = traits.CapsScores ? config.Number("attn_logit_softcapping") : null,
            Dropout = config.Number("attention_dropout") ?? 0,
        };
        if (heads % Attention.KeyValueHeads != 0)
        {
            throw Invalid($"{heads} attention heads can't share {Attention.KeyValueHeads} key and value heads evenly.");
        }

        if (headSize == 0 || heads * headSize > ModelConfig.MaxSize)
        {
            throw Invalid($"{heads} attention heads of width {headSize} are no sound shape for a model of width {HiddenSize}.");
        }

        NormEpsilon = config.Number("rms_norm_eps") ?? config.Number("norm_eps") ?? 1e-6;
        ActivationName = config.String(traits.ActivationKey) ?? "silu";
        ActivationName = traits.ApproximatesGelu && ActivationName == "gelu" ? "gelu_pytorch_tanh" : ActivationName;
        AttentionBias = config.Boolean("attention_bias") ?? false;
        MlpBias = config.Boolean("mlp_bias") ?? false;
        ResidualScale = config.Number("residual_multiplier") ?? 1;
        if (config.Boolean("use_bidirectional_attention") == true)
        {
            throw new NotSupportedByPeftException("ArchitectureNotSupported", "A decoder whose positions see those after them (use_bidirectional_attention) is not supported.")
            {
                RecommendedAction = "Use a model that reads from left to right.",
            };
        }
    }

    public ModelConfig Source { get; }

    public long VocabularySize { get; }

    public long HiddenSize { get; }

    public long InnerSize { get; }

    public int Layers { get; }

    public AttentionShape Attention { get; }

    public double NormEpsilon { get; }

    public string ActivationName { get; }

    /// <summary>Whether the output of attention has a bias; <see cref="ProjectionBias"/> says it of q, k and v.</summary>
    public bool AttentionBias { get; }

    /// <summary>Multiplies what a block adds to its input (Granite).</summary>
    public double ResidualScale { get; }

    public LlamaTraits Traits => _traits;

    public bool HasHeadNorms => _traits.HasHeadNorms;

    public bool HasSinks => _traits.HasSinks;

    public LlamaNames Names => _traits.Names;

    public bool ProjectionBias => (_traits.HasProjectionBias && Source.Boolean("qkv_bias") != false) || AttentionBias;

    public string Stem => Source.Family.Stem;

    public bool MlpBias { get; }

    /// <summary>A norm of the family.</summary>
    public RmsNorm Norm(long size) => new(size, NormEpsilon, Stem + "RMSNorm", addsOne: _traits.AddsOneToNorms);

    /// <summary>Rotary positions, of layers with a window where theirs are others.</summary>
    public RotaryEmbedding Rotary(bool isLocal)
    {
        var size = _traits.RotarySize is { } key ? Source.Size(key, 64) : Attention.HeadSize;
        return new RotaryEmbedding(
            new RotaryFrequencies(Source, size, _traits.RotaryShare, _traits.LocalBase is { } local ? RotaryParameters(isLocal, local.Key, local.Otherwise) : null) { TurnsAnew = _traits.TurnsAnew },
            Stem + (_traits.RotaryPart ?? _traits.Part) + "RotaryEmbedding",
            Source.Boolean("rope_interleave") ?? _traits.IsInterleaved);
    }

    /// <summary>What a layer mixes positions with.</summary>
    public LlamaMixer Mixer(int layer) => _traits.Mixer?.Invoke(this, layer) ?? new LlamaAttention(this, layer);

    /// <summary>What a layer computes after attention.</summary>
    public FeedForward FeedForward(int layer) => _traits.FeedForward?.Invoke(this, layer) ?? new LlamaMLP(this);

    /// <summary>How many positions a layer sees, its own included; null for all.</summary>
    public long? Window(int layer)
    {
        if (!_traits.HasWindow || Source.Boolean("use_sliding_window") == false || Source.Integer("sliding_window") is null)
        {
            return null;
        }

        var window = Source.Size("sliding_window", 1);
        return Source.TextOf("layer_types", layer) is { } kind
            ? kind == "sliding_attention" ? window : null
            : _traits.IsLocal is { } isLocal ? isLocal(this, layer) ? window : null
            : layer >= (Source.Integer("max_window_layers") ?? 0) && (Pattern == 0 || (layer + 1) % Pattern != 0) ? window : null;
    }

    /// <summary>Whether a layer has rotary positions.</summary>
    public bool HasRotary(int layer) => !_traits.HasLayersWithoutRotary
        || (Source.Numbers("no_rope_layers") is { } layers && layer < layers.Count ? layers[layer] != 0 : (layer + 1) % Source.Size("no_rope_layer_interval", 4) != 0);

    private long Pattern => _traits.PatternKey is { } key ? Source.Size(key, _traits.FullEvery) : _traits.FullEvery;

    private static double Scale(ModelConfig config, long headSize) => config.Number("attention_multiplier")
        ?? (1 / Math.Sqrt(config.Number("query_pre_attn_scalar") ?? headSize));

    /// <summary>transformers 5 saves what each kind of layer turns by; published files scale layers that see everything alone.</summary>
    private JsonObject? RotaryParameters(bool isLocal, string key, double otherwise)
    {
        if (Source.Node("rope_parameters") is JsonObject kinds && kinds[isLocal ? "sliding_attention" : "full_attention"] is JsonObject own)
        {
            return own;
        }

        return isLocal ? new JsonObject { ["rope_type"] = "default", ["rope_theta"] = Source.Number(key) ?? otherwise } : null;
    }

    private static PeftException Invalid(string message) => new("ModelConfigInvalid", message);
}
