using System.Text.Json.Nodes;
using Peft.Models.Layers;
using static TorchSharp.torch;

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

    /// <summary>Whether a head has a sink beside its scores (gpt-oss).</summary>
    public bool HasSinks { get; init; }

    /// <summary>Stands in the class names of what belongs to text alone in a model of several parts.</summary>
    public string Part { get; init; } = "";

    /// <summary>Key of the width of what rotary positions turn; null for the whole head.</summary>
    public string? RotarySize { get; init; }

    /// <summary>Share of the head that turns where the configuration doesn't say.</summary>
    public double RotaryShare { get; init; } = 1;

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

    public string InputNorm { get; init; } = "input_layernorm";

    public string InnerNorm { get; init; } = "post_attention_layernorm";

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
    private readonly LlamaTraits traits;

    public LlamaConfig(ModelConfig config, LlamaTraits traits)
    {
        Source = config;
        this.traits = traits;
        VocabularySize = config.Size("vocab_size", 32000);
        HiddenSize = config.Size("hidden_size", 4096);
        InnerSize = config.Size("intermediate_size", 11008);
        Layers = (int)config.Size("num_hidden_layers", 32, least: 0, most: 10_000);
        var heads = config.Size("num_attention_heads", 32);
        var headSize = config.Size("head_dim", HiddenSize / heads);
        Attention = new AttentionShape(heads, config.Size("num_key_value_heads", heads), headSize, config.Number("attention_multiplier") ?? (1 / Math.Sqrt(headSize)));
        if (heads % Attention.KeyValueHeads != 0)
        {
            throw Invalid($"{heads} attention heads can't share {Attention.KeyValueHeads} key and value heads evenly.");
        }

        if (headSize == 0 || heads * headSize > ModelConfig.MaxSize)
        {
            throw Invalid($"{heads} attention heads of width {headSize} are no sound shape for a model of width {HiddenSize}.");
        }

        NormEpsilon = config.Number("rms_norm_eps") ?? config.Number("norm_eps") ?? 1e-6;
        ActivationName = config.String("hidden_act") ?? "silu";
        AttentionBias = config.Boolean("attention_bias") ?? false;
        MlpBias = config.Boolean("mlp_bias") ?? false;
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

    public bool HasHeadNorms => traits.HasHeadNorms;

    public bool HasSinks => traits.HasSinks;

    public LlamaNames Names => traits.Names;

    public bool ProjectionBias => traits.HasProjectionBias || AttentionBias;

    public string Stem => Source.Family.Stem;

    public bool MlpBias { get; }

    /// <summary>A norm of the family.</summary>
    public RmsNorm Norm(long size) => new(size, NormEpsilon, Stem + "RMSNorm", addsOne: traits.AddsOneToNorms);

    /// <summary>What a layer mixes positions with.</summary>
    public LlamaMixer Mixer(int layer) => traits.Mixer?.Invoke(this, layer) ?? new LlamaAttention(this, layer);

    /// <summary>What a layer computes after attention.</summary>
    public FeedForward FeedForward(int layer) => traits.FeedForward?.Invoke(this, layer) ?? new LlamaMLP(this);

    /// <summary>How many positions a layer sees, its own included; null for all.</summary>
    public long? Window(int layer)
    {
        if (!traits.HasWindow || Source.Boolean("use_sliding_window") == false || Source.Integer("sliding_window") is not { } window)
        {
            return null;
        }

        return Source.Node("layer_types") is JsonArray kinds && layer < kinds.Count
            ? (string?)kinds[layer] == "sliding_attention" ? window : null
            : layer >= (Source.Integer("max_window_layers") ?? 0) && (traits.FullEvery == 0 || (layer + 1) % traits.FullEvery != 0) ? window : null;
    }

    private static PeftException Invalid(string message) => new("ModelConfigInvalid", message);
}

/// <summary>What all layers of a pass share.</summary>
/// <param name="Rotary">Positions; null for none.</param>
/// <param name="Plans">Who sees whom, by window (0 for none).</param>
/// <param name="Layout">Rows as recurrences read them.</param>
internal sealed record LlamaPass(RotaryTables? Rotary, IReadOnlyDictionary<long, AttentionPlan> Plans, SequenceLayout Layout);

/// <summary>What lets a position see others: attention, or a recurrence in its place.</summary>
/// <param name="className">transformers' class name.</param>
/// <param name="localName">Its name in the block.</param>
internal abstract class LlamaMixer(string className, string localName = "self_attn") : Module(className)
{
    /// <summary>Its name in the block.</summary>
    public string LocalName => localName;

    /// <summary>Runs it on x, [rows · length, width], and adds the result to <paramref name="residual"/> where there is one.</summary>
    public abstract Tensor Forward(Tensor x, Tensor? residual, LlamaPass pass, ForwardContext context);
}

/// <summary>Attention with rotary positions and grouped key and value heads.</summary>
internal sealed class LlamaAttention : LlamaMixer
{
    private readonly AttentionShape shape;
    private readonly LinearGroup projections;
    private readonly Linear output;
    private readonly RmsNorm? queryNorm;
    private readonly RmsNorm? keyNorm;
    private readonly Parameter? sinks;
    private readonly int layer;
    private readonly long window;

    public LlamaAttention(LlamaConfig config, int layer)
        : base(config.Stem + "Attention")
    {
        this.layer = layer;
        window = config.Window(layer) ?? 0;
        shape = config.Attention;
        var queries = Add("q_proj", new Linear(config.HiddenSize, shape.Heads * shape.HeadSize, config.ProjectionBias));
        var keys = Add("k_proj", new Linear(config.HiddenSize, shape.KeyValueHeads * shape.HeadSize, config.ProjectionBias));
        var values = Add("v_proj", new Linear(config.HiddenSize, shape.KeyValueHeads * shape.HeadSize, config.ProjectionBias));
        output = Add(config.Names.Output, new Linear(shape.Heads * shape.HeadSize, config.HiddenSize, config.AttentionBias));
        sinks = config.HasSinks ? AddParameter("sinks", [shape.Heads]) : null;
        if (config.HasHeadNorms)
        {
            queryNorm = Add(config.Names.QueryNorm, config.Norm(shape.HeadSize));
            keyNorm = Add(config.Names.KeyNorm, config.Norm(shape.HeadSize));
        }

        projections = Group(queries, keys, values);
    }

    /// <summary>Attention of x, added to <paramref name="residual"/>.</summary>
    public override Tensor Forward(Tensor x, Tensor? residual, LlamaPass pass, ForwardContext context) =>
        output.Forward(Attend(projections.Forward(x, context), pass, context), context, residual);

    private Tensor Attend(Tensor projected, LlamaPass pass, ForwardContext context)
    {
        if (queryNorm is null || keyNorm is null)
        {
            return Attention.Forward(projected, shape, pass.Rotary, pass.Plans[window], layer, context, new ScoreTerms(Sinks: sinks));
        }

        var width = shape.KeyValueHeads * shape.HeadSize;
        var parts = Splitting.Forward(projected, [shape.Heads * shape.HeadSize, width, width], context);
        return Attention.Forward(
            queryNorm.Forward(parts[0], context), keyNorm.Forward(parts[1], context), parts[2], shape, pass.Rotary, pass.Plans[window], layer, context);
    }
}

/// <summary>The gated MLP: down(act(gate(x)) · up(x)).</summary>
internal sealed class LlamaMLP : FeedForward
{
    private readonly LinearGroup projections;
    private readonly Linear down;
    private readonly Activation activation;

    public LlamaMLP(LlamaConfig config, long? innerSize = null)
        : base(config.Stem + "MLP")
    {
        var inner = innerSize ?? config.InnerSize;
        var names = config.Names.Mlp;
        var gate = Add(names[0], new Linear(config.HiddenSize, inner, config.MlpBias));
        var up = Add(names[1], new Linear(config.HiddenSize, inner, config.MlpBias));
        down = Add(names[2], new Linear(inner, config.HiddenSize, config.MlpBias));
        activation = new Activation(config.ActivationName);
        if (config.Names.ListsActivation)
        {
            Add("act_fn", activation);
        }

        projections = Group(gate, up);
    }

    public override IReadOnlyList<Tensor> Forward(Tensor x, Tensor residual, ForwardContext context) => [Compute(x, residual, context)];

    /// <summary>The MLP of x, added to <paramref name="residual"/> where there is one.</summary>
    public Tensor Compute(Tensor x, Tensor? residual, ForwardContext context) => down.Forward(
        GatedActivation.Forward(projections.Forward(x, context), activation, context), context, residual);
}

/// <summary>A block: x + attention(norm(x)), then x + mlp(norm(x)).</summary>
internal sealed class LlamaDecoderLayer : Module
{
    private readonly LlamaMixer attention;
    private readonly FeedForward mlp;
    private readonly RmsNorm inputNorm;
    private readonly RmsNorm innerNorm;

    public LlamaDecoderLayer(LlamaConfig config, int layer)
        : base(config.Stem + "DecoderLayer")
    {
        attention = config.Mixer(layer);
        Add(attention.LocalName, attention);
        mlp = Add(config.Names.FeedForward, config.FeedForward(layer));
        inputNorm = Add(config.Names.InputNorm, config.Norm(config.HiddenSize));
        innerNorm = Add(config.Names.InnerNorm, config.Norm(config.HiddenSize));
    }

    public IReadOnlyList<Tensor> Forward(Tensor x, LlamaPass pass, ForwardContext context)
    {
        using var scope = NewDisposeScope();
        var attended = attention.Forward(inputNorm.Forward(x, context), x, pass, context);
        return DecoderStack.Kept(mlp.Forward(innerNorm.Forward(attended, context), attended, context));
    }
}

/// <summary>The stack of blocks between the embedding and the final norm.</summary>
internal sealed class LlamaModel : Backbone
{
    private readonly ModuleList<LlamaDecoderLayer> layers;
    private readonly RmsNorm norm;
    private readonly RotaryEmbedding rotary;
    private readonly long[] windows;

    public LlamaModel(ModelConfig source, LlamaTraits? traits = null)
        : base(source, source.Family.Stem + traits?.Part + "Model")
    {
        traits ??= new LlamaTraits();
        var config = new LlamaConfig(source, traits);
        Width = config.HiddenSize;
        TokenEmbeddings = Add("embed_tokens", new Embedding(config.VocabularySize, config.HiddenSize, source.Integer("pad_token_id")));
        layers = Add("layers", new ModuleList<LlamaDecoderLayer>(Enumerable.Range(0, config.Layers).Select(i => new LlamaDecoderLayer(config, i))));
        norm = config.Norm(config.HiddenSize);
        rotary = new RotaryEmbedding(
            new RotaryFrequencies(source, traits.RotarySize is { } key ? source.Size(key, 64) : config.Attention.HeadSize, traits.RotaryShare),
            config.Stem + traits.Part + "RotaryEmbedding",
            source.Boolean("rope_interleave") ?? traits.IsInterleaved);
        if (traits.Names.ListsRotaryFirst)
        {
            Add(traits.Names.Rotary, rotary);
        }

        Add(traits.Names.FinalNorm, norm);
        if (!traits.Names.ListsRotaryFirst)
        {
            Add(traits.Names.Rotary, rotary);
        }

        windows = [.. Enumerable.Range(0, config.Layers).Select(i => config.Window(i) ?? 0).Distinct()];
    }

    public override long Width { get; }

    public override Embedding TokenEmbeddings { get; }

    public override BackboneOutput Forward(Tensor embeddings, ModelInputs inputs, ForwardContext context)
    {
        var pass = new LlamaPass(
            rotary.For(context, embeddings.dtype, embeddings.device),
            windows.ToDictionary(static window => window, window => AttentionPlan.Causal(context, embeddings.device, window == 0 ? null : window)),
            SequenceLayout.For(context, embeddings.device));
        var stack = DecoderStack.Run(layers.Items, embeddings, [], context, (layer, inputs, inner) => layer.Forward(inputs[0], pass, inner));
        var routers = stack.AllSides;
        return new BackboneOutput(norm.Forward(stack.Output, context), context.Rows, context.Length)
        {
            HiddenStates = stack.Inputs,
            RouterLogits = routers,
            AuxiliaryLoss = RouterBalance.Loss(Config, routers, context),
        };
    }
}
