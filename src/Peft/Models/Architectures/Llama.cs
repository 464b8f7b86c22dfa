using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Models.Architectures;

/// <summary>What a Llama's configuration says; what it leaves out is as in the 7B model, which is transformers' default (Touvron et al. 2023; Grattafiori et al. 2024).</summary>
internal sealed class LlamaConfig
{
    public LlamaConfig(ModelConfig config)
    {
        Source = config;
        VocabularySize = config.Size("vocab_size", 32000);
        HiddenSize = config.Size("hidden_size", 4096);
        InnerSize = config.Size("intermediate_size", 11008);
        Layers = (int)config.Size("num_hidden_layers", 32, least: 0, most: 10_000);
        var heads = config.Size("num_attention_heads", 32);
        var headSize = config.Size("head_dim", HiddenSize / heads);
        Attention = new AttentionShape(heads, config.Size("num_key_value_heads", heads), headSize, 1 / Math.Sqrt(headSize));
        if (heads % Attention.KeyValueHeads != 0)
        {
            throw Invalid($"{heads} attention heads can't share {Attention.KeyValueHeads} key and value heads evenly.");
        }

        if (headSize == 0 || heads * headSize > ModelConfig.MaxSize)
        {
            throw Invalid($"{heads} attention heads of width {headSize} are no sound shape for a model of width {HiddenSize}.");
        }

        NormEpsilon = config.Number("rms_norm_eps") ?? 1e-6;
        ActivationName = config.String("hidden_act") ?? "silu";
        AttentionBias = config.Boolean("attention_bias") ?? false;
        MlpBias = config.Boolean("mlp_bias") ?? false;
        TiesEmbeddings = config.Boolean("tie_word_embeddings") ?? false;
    }

    public ModelConfig Source { get; }

    public long VocabularySize { get; }

    public long HiddenSize { get; }

    public long InnerSize { get; }

    public int Layers { get; }

    public AttentionShape Attention { get; }

    public double NormEpsilon { get; }

    public string ActivationName { get; }

    public bool AttentionBias { get; }

    public bool MlpBias { get; }

    public bool TiesEmbeddings { get; }

    private static PeftException Invalid(string message) => new("ModelConfigInvalid", message);
}

/// <summary>What all layers of a pass share: positions and who sees whom.</summary>
internal sealed record LlamaPass(RotaryTables Rotary, AttentionPlan Plan);

/// <summary>Attention with rotary positions and grouped key and value heads.</summary>
internal sealed class LlamaAttention : Module
{
    private readonly AttentionShape shape;
    private readonly LinearGroup projections;
    private readonly Linear output;
    private readonly int layer;

    public LlamaAttention(LlamaConfig config, int layer)
    {
        this.layer = layer;
        shape = config.Attention;
        var queries = Add("q_proj", new Linear(config.HiddenSize, shape.Heads * shape.HeadSize, config.AttentionBias));
        var keys = Add("k_proj", new Linear(config.HiddenSize, shape.KeyValueHeads * shape.HeadSize, config.AttentionBias));
        var values = Add("v_proj", new Linear(config.HiddenSize, shape.KeyValueHeads * shape.HeadSize, config.AttentionBias));
        output = Add("o_proj", new Linear(shape.Heads * shape.HeadSize, config.HiddenSize, config.AttentionBias));
        projections = new LinearGroup(queries, keys, values);
    }

    public void Fuse() => projections.Fuse();

    /// <summary>Attention of x, added to <paramref name="residual"/>.</summary>
    public Tensor Forward(Tensor x, Tensor residual, LlamaPass pass, ForwardContext context) => output.Forward(
        Attention.Forward(projections.Forward(x, context), shape, pass.Rotary, pass.Plan, layer, context), context, residual);

    protected override void Dispose(bool disposing)
    {
        projections.Dispose();
        base.Dispose(disposing);
    }
}

/// <summary>The gated MLP: down(act(gate(x)) · up(x)).</summary>
internal sealed class LlamaMLP : Module
{
    private readonly LinearGroup projections;
    private readonly Linear down;
    private readonly Activation activation;

    public LlamaMLP(LlamaConfig config)
    {
        var gate = Add("gate_proj", new Linear(config.HiddenSize, config.InnerSize, config.MlpBias));
        var up = Add("up_proj", new Linear(config.HiddenSize, config.InnerSize, config.MlpBias));
        down = Add("down_proj", new Linear(config.InnerSize, config.HiddenSize, config.MlpBias));
        activation = Add("act_fn", new Activation(config.ActivationName));
        projections = new LinearGroup(gate, up);
    }

    public void Fuse() => projections.Fuse();

    public Tensor Forward(Tensor x, Tensor residual, ForwardContext context) => down.Forward(
        GatedActivation.Forward(projections.Forward(x, context), activation, context), context, residual);

    protected override void Dispose(bool disposing)
    {
        projections.Dispose();
        base.Dispose(disposing);
    }
}

/// <summary>A block: x + attention(norm(x)), then x + mlp(norm(x)).</summary>
internal sealed class LlamaDecoderLayer : Module
{
    private readonly LlamaAttention attention;
    private readonly LlamaMLP mlp;
    private readonly RmsNorm inputNorm;
    private readonly RmsNorm innerNorm;

    public LlamaDecoderLayer(LlamaConfig config, int layer)
    {
        attention = Add("self_attn", new LlamaAttention(config, layer));
        mlp = Add("mlp", new LlamaMLP(config));
        inputNorm = Add("input_layernorm", new RmsNorm(config.HiddenSize, config.NormEpsilon, "LlamaRMSNorm"));
        innerNorm = Add("post_attention_layernorm", new RmsNorm(config.HiddenSize, config.NormEpsilon, "LlamaRMSNorm"));
    }

    public void Fuse()
    {
        attention.Fuse();
        mlp.Fuse();
    }

    public Tensor Forward(Tensor x, LlamaPass pass, ForwardContext context)
    {
        using var scope = NewDisposeScope();
        var attended = attention.Forward(inputNorm.Forward(x, context), x, pass, context);
        return mlp.Forward(innerNorm.Forward(attended, context), attended, context).MoveToOuterDisposeScope();
    }
}

/// <summary>The stack of blocks between the embedding and the final norm.</summary>
internal sealed class LlamaModel : Module
{
    private readonly ModuleList<LlamaDecoderLayer> layers;
    private readonly RmsNorm norm;
    private readonly RotaryEmbedding rotary;

    public LlamaModel(LlamaConfig config)
    {
        Embedding = Add("embed_tokens", new Embedding(config.VocabularySize, config.HiddenSize, config.Source.Integer("pad_token_id")));
        layers = Add("layers", new ModuleList<LlamaDecoderLayer>(Enumerable.Range(0, config.Layers).Select(i => new LlamaDecoderLayer(config, i))));
        norm = Add("norm", new RmsNorm(config.HiddenSize, config.NormEpsilon, "LlamaRMSNorm"));
        rotary = Add("rotary_emb", new RotaryEmbedding(new RotaryFrequencies(config.Source, config.Attention.HeadSize), "LlamaRotaryEmbedding"));
    }

    public Embedding Embedding { get; }

    public void Fuse()
    {
        foreach (var layer in layers.Items)
        {
            layer.Fuse();
        }
    }

    public Tensor Forward(Tensor x, ForwardContext context)
    {
        var pass = new LlamaPass(rotary.For(context, x.dtype, x.device), AttentionPlan.For(context, x.device));
        x = DecoderStack.Run(layers.Items, x, context, (layer, input, inner) => layer.Forward(input, pass, inner));
        var y = norm.Forward(x, context);
        context.Cache?.Advance(context.Length);
        return y;
    }
}

/// <summary>Llama with the head that continues text.</summary>
internal sealed class LlamaForCausalLM : CausalModel
{
    private readonly LlamaModel model;
    private readonly Head head;
    private readonly LlamaConfig config;

    public LlamaForCausalLM(ModelConfig source)
        : base(source)
    {
        config = new LlamaConfig(source);
        model = Add("model", new LlamaModel(config));
        head = new Head(Add("lm_head", new Linear(config.HiddenSize, config.VocabularySize)));
    }

    public override long VocabularySize => config.VocabularySize;

    public override string InputEmbeddings => "model.embed_tokens";

    public override string? OutputEmbeddings => "lm_head";

    public override IEnumerable<(string Owner, string Follower)> TiedParameters =>
        config.TiesEmbeddings ? [("model.embed_tokens.weight", "lm_head.weight")] : [];

    protected override Head Head => head;

    public override void AfterLoad() => model.Fuse();

    public override Tensor Embed(Tensor ids, ForwardContext context) => model.Embedding.Forward(ids, context);

    public override Tensor HiddenFromEmbeddings(Tensor embeddings, ForwardContext context) => model.Forward(embeddings, context);
}
