using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Models.Architectures;

/// <summary>What a GPT-2's configuration says; what it leaves out is as in the smallest one (Radford et al. 2019).</summary>
internal sealed class Gpt2Config
{
    private readonly ModelConfig _source;

    public Gpt2Config(ModelConfig config)
    {
        _source = config;
        Stem = config.Family.Stem;
        VocabularySize = config.Size("vocab_size", 50257);
        Positions = config.Size("n_positions", 1024);
        HiddenSize = config.Size("n_embd", 768);
        InnerSize = config.Size("n_inner", 4 * HiddenSize);
        Layers = (int)config.Size("n_layer", 12, least: 0, most: 10_000);
        Heads = config.Size("n_head", 12);
        NormEpsilon = config.Number("layer_norm_epsilon") ?? 1e-5;
        ActivationName = config.String("activation_function") ?? "gelu_new";
        if (HiddenSize % Heads != 0)
        {
            throw new PeftException("ModelConfigInvalid", $"{Heads} attention heads can't share a width of {HiddenSize} evenly.");
        }

        if (config.Boolean("add_cross_attention") == true)
        {
            throw new NotSupportedByPeftException("ArchitectureNotSupported", "A GPT-2 that reads an encoder (add_cross_attention) is not supported.")
            {
                Target = "add_cross_attention",
                RecommendedAction = "Use a model without cross-attention.",
            };
        }
    }

    public string Stem { get; }

    public long VocabularySize { get; }

    public long Positions { get; }

    public long HiddenSize { get; }

    public long InnerSize { get; }

    public int Layers { get; }

    public long Heads { get; }

    public double NormEpsilon { get; }

    public string ActivationName { get; }

    public Dropout Dropout(string key) => new(Probability(key));

    public AttentionShape Attention(int layer)
    {
        var size = HiddenSize / Heads;
        var scale = _source.Boolean("scale_attn_weights") == false ? 1 : 1 / Math.Sqrt(size);
        return new AttentionShape(Heads, Heads, size, _source.Boolean("scale_attn_by_inverse_layer_idx") == true ? scale / (layer + 1) : scale)
        {
            Dropout = Probability("attn_pdrop"),
        };
    }

    private double Probability(string key) => _source.Number(key) ?? 0.1;
}

/// <summary>Attention without rotary positions, its projections in one layer.</summary>
internal sealed class Gpt2Attention : Module
{
    private readonly AttentionShape _shape;
    private readonly Linear _projections;
    private readonly Linear _output;
    private readonly Dropout _dropout;
    private readonly int _layer;

    public Gpt2Attention(Gpt2Config config, int layer)
        : base(config.Stem + "Attention")
    {
        _layer = layer;
        _shape = config.Attention(layer);
        _projections = Add("c_attn", new Linear(config.HiddenSize, 3 * config.HiddenSize, hasBias: true, isTransposed: true));
        _output = Add("c_proj", new Linear(config.HiddenSize, config.HiddenSize, hasBias: true, isTransposed: true));
        Add("attn_dropout", config.Dropout("attn_pdrop"));
        _dropout = Add("resid_dropout", config.Dropout("resid_pdrop"));
    }

    /// <summary>Attention of x, added to <paramref name="residual"/>.</summary>
    public Tensor Forward(Tensor x, Tensor residual, AttentionPlan plan, ForwardContext context) => ResidualSum.Forward(
        residual, _output, _dropout, Attention.Forward(_projections.Forward(x, context), _shape, null, plan, _layer, context), context);
}

/// <summary>The MLP: c_proj(act(c_fc(x))).</summary>
internal sealed class Gpt2MLP : Module
{
    private readonly Linear _inner;
    private readonly Linear _output;
    private readonly Activation _activation;
    private readonly Dropout _dropout;

    public Gpt2MLP(Gpt2Config config)
        : base(config.Stem + "MLP")
    {
        _inner = Add("c_fc", new Linear(config.HiddenSize, config.InnerSize, hasBias: true, isTransposed: true));
        _output = Add("c_proj", new Linear(config.InnerSize, config.HiddenSize, hasBias: true, isTransposed: true));
        _activation = Add("act", new Activation(config.ActivationName));
        _dropout = Add("dropout", config.Dropout("resid_pdrop"));
    }

    public Tensor Forward(Tensor x, Tensor residual, ForwardContext context) => ResidualSum.Forward(
        residual, _output, _dropout, _activation.Forward(_inner.Forward(x, context), context), context);
}

/// <summary>A block: x + attention(norm(x)), then x + mlp(norm(x)).</summary>
internal sealed class Gpt2Block : Module
{
    private readonly LayerNorm _attentionNorm;
    private readonly Gpt2Attention _attention;
    private readonly LayerNorm _innerNorm;
    private readonly Gpt2MLP _mlp;

    public Gpt2Block(Gpt2Config config, int layer)
        : base(config.Stem + "Block")
    {
        _attentionNorm = Add("ln_1", new LayerNorm(config.HiddenSize, config.NormEpsilon));
        _attention = Add("attn", new Gpt2Attention(config, layer));
        _innerNorm = Add("ln_2", new LayerNorm(config.HiddenSize, config.NormEpsilon));
        _mlp = Add("mlp", new Gpt2MLP(config));
    }

    public Tensor Forward(Tensor x, AttentionPlan plan, ForwardContext context)
    {
        using var scope = NewDisposeScope();
        var attended = _attention.Forward(_attentionNorm.Forward(x, context), x, plan, context);
        return _mlp.Forward(_innerNorm.Forward(attended, context), attended, context).MoveToOuterDisposeScope();
    }
}

/// <summary>Tokens and learned positions, the stack of blocks and the final norm.</summary>
internal sealed class Gpt2Model : Backbone
{
    private readonly Embedding _positions;
    private readonly Dropout _dropout;
    private readonly ModuleList<Gpt2Block> _blocks;
    private readonly LayerNorm _norm;

    public Gpt2Model(ModelConfig source)
        : base(source, source.Family.Stem + "Model")
    {
        var config = new Gpt2Config(source);
        Width = config.HiddenSize;
        TokenEmbeddings = Add("wte", new Embedding(config.VocabularySize, config.HiddenSize));
        _positions = Add("wpe", new Embedding(config.Positions, config.HiddenSize));
        _dropout = Add("drop", config.Dropout("embd_pdrop"));
        _blocks = Add("h", new ModuleList<Gpt2Block>(Enumerable.Range(0, config.Layers).Select(i => new Gpt2Block(config, i))));
        _norm = Add("ln_f", new LayerNorm(config.HiddenSize, config.NormEpsilon));
    }

    public override long Width { get; }

    public override Embedding TokenEmbeddings { get; }

    public override BackboneOutput Forward(Tensor embeddings, ModelInputs inputs, ForwardContext context)
    {
        var x = ResidualSum.Forward(embeddings, LearnedPositions.Forward(_positions, context, embeddings.device), context);
        var plan = AttentionPlan.Causal(context, embeddings.device);
        var stack = DecoderStack.Run(_blocks.Items, _dropout.Forward(x, context), context, (block, input, inner) => block.Forward(input, plan, inner));
        return new BackboneOutput(_norm.Forward(stack.Output, context), context.Rows, context.Length) { HiddenStates = stack.Inputs };
    }
}
