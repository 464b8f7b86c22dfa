using Peft.Models.Heads;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Models.Architectures;

/// <summary>What a ViT's configuration says; what it leaves out is as in ViT-B/16 (Dosovitskiy et al. 2021).</summary>
internal sealed class VitConfig
{
    public VitConfig(ModelConfig config)
    {
        Width = config.Size("hidden_size", 768);
        InnerSize = config.Size("intermediate_size", 3072);
        Layers = (int)config.Size("num_hidden_layers", 12, least: 0, most: 10_000);
        ActivationName = config.String("hidden_act") ?? "gelu";
        Epsilon = config.Number("layer_norm_eps") ?? 1e-12;
        HasBias = config.Boolean("qkv_bias") ?? true;
        DropoutRate = config.Number("hidden_dropout_prob") ?? 0;
        Attention = EncoderShape.Of(Width, config.Size("num_attention_heads", 12), config.Number("attention_probs_dropout_prob") ?? 0);
        Image = VisionShape.Of(config, patch: 16);
    }

    public long Width { get; }

    public long InnerSize { get; }

    public int Layers { get; }

    public string ActivationName { get; }

    public double Epsilon { get; }

    public bool HasBias { get; }

    public double DropoutRate { get; }

    public AttentionShape Attention { get; }

    public VisionShape Image { get; }

    public LayerNorm Norm() => new(Width, Epsilon);
}

/// <summary>The convolution that makes a vector of each patch.</summary>
internal sealed class VitPatchEmbeddings : Module
{
    public VitPatchEmbeddings(VitConfig config)
        : base("ViTPatchEmbeddings") => Projection = Add("projection", new Convolution(config.Image.Channels, config.Width, [config.Image.Patch, config.Image.Patch], new ConvolutionShape(Stride: config.Image.Patch)));

    public Convolution Projection { get; }
}

/// <summary>Vectors of patches and positions.</summary>
internal sealed class VitEmbeddings : Module
{
    private readonly VitConfig _config;
    private readonly VitPatchEmbeddings _patches;
    private readonly Parameter _whole;
    private readonly Parameter _positions;
    private readonly Dropout _dropout;

    public VitEmbeddings(VitConfig config)
        : base("ViTEmbeddings")
    {
        _config = config;
        _whole = AddParameter("cls_token", [1, 1, config.Width]);
        _positions = AddParameter("position_embeddings", [1, config.Image.Positions, config.Width]);
        _patches = Add("patch_embeddings", new VitPatchEmbeddings(config));
        _dropout = Add("dropout", new Dropout(config.DropoutRate));
    }

    public Tensor Forward(ModelInputs inputs, ForwardContext context) =>
        _dropout.Forward(VisionEmbeddings.Forward(_patches.Projection, _whole, _positions, inputs, _config.Image, context), context);
}

/// <summary>Attention in which every patch sees all others.</summary>
internal sealed class VitAttention : Module
{
    private readonly AttentionShape _shape;
    private readonly LinearGroup _projections;
    private readonly Linear _output;
    private readonly int _layer;

    public VitAttention(VitConfig config, int layer)
        : base("ViTAttention")
    {
        (_shape, _layer) = (config.Attention, layer);
        _projections = Group(Add("q_proj", Square(config.HasBias)), Add("k_proj", Square(config.HasBias)), Add("v_proj", Square(config.HasBias)));
        _output = Add("o_proj", Square(hasBias: true));

        Linear Square(bool hasBias) => new(config.Width, config.Width, hasBias);
    }

    /// <summary>x + dropout(attention(norm(x))).</summary>
    public Tensor Forward(Tensor x, Tensor residual, AttentionPlan plan, Dropout dropout, ForwardContext context) =>
        dropout.AddProjection(_output, Attention.Forward(_projections.Forward(x, context), _shape, null, plan, _layer, context), residual, context);
}

/// <summary>Two layers with an activation between them.</summary>
internal sealed class VitMlp : Module
{
    private readonly Activation _activation;
    private readonly Linear _inner;
    private readonly Linear _output;

    public VitMlp(VitConfig config)
        : base("ViTMLP")
    {
        _activation = Add("activation_fn", new Activation(config.ActivationName));
        _inner = Add("fc1", new Linear(config.Width, config.InnerSize, hasBias: true));
        _output = Add("fc2", new Linear(config.InnerSize, config.Width, hasBias: true));
    }

    public Tensor Forward(Tensor x, Tensor residual, Dropout dropout, ForwardContext context) =>
        dropout.AddProjection(_output, _activation.Forward(_inner.Forward(x, context), context), residual, context);
}

/// <summary>A block: x + attention(norm(x)), then x + mlp(norm(x)).</summary>
internal sealed class VitLayer : Module
{
    private readonly VitAttention _attention;
    private readonly LayerNorm _attentionNorm;
    private readonly LayerNorm _mlpNorm;
    private readonly VitMlp _mlp;
    private readonly Dropout _dropout;

    public VitLayer(VitConfig config, int layer)
        : base("ViTLayer")
    {
        _attention = Add("attention", new VitAttention(config, layer));
        _attentionNorm = Add("layernorm_before", config.Norm());
        _mlpNorm = Add("layernorm_after", config.Norm());
        _mlp = Add("mlp", new VitMlp(config));
        _dropout = Add("dropout", new Dropout(config.DropoutRate));
    }

    public Tensor Forward(Tensor x, AttentionPlan plan, ForwardContext context)
    {
        using var scope = NewDisposeScope();
        var attended = _attention.Forward(_attentionNorm.Forward(x, context), x, plan, _dropout, context);
        return _mlp.Forward(_mlpNorm.Forward(attended, context), attended, _dropout, context).MoveToOuterDisposeScope();
    }
}

/// <summary>The vision transformer.</summary>
internal sealed class VitModel : Backbone
{
    private readonly VitEmbeddings _embeddings;
    private readonly ModuleList<VitLayer> _layers;
    private readonly LayerNorm _norm;

    public VitModel(ModelConfig source)
        : base(source, "ViTModel")
    {
        var config = new VitConfig(source);
        (Width, Image) = (config.Width, config.Image);
        _embeddings = Add("embeddings", new VitEmbeddings(config));
        _layers = Add("layers", new ModuleList<VitLayer>(Enumerable.Range(0, config.Layers).Select(layer => new VitLayer(config, layer))));
        _norm = Add("layernorm", config.Norm());
    }

    /// <inheritdoc/>
    public override long Width { get; }

    /// <inheritdoc/>
    public override VisionShape Image { get; }

    /// <inheritdoc/>
    public override Tensor Embed(ModelInputs inputs, ForwardContext context) => _embeddings.Forward(inputs, context);

    /// <inheritdoc/>
    public override BackboneOutput Forward(Tensor embeddings, ModelInputs inputs, ForwardContext context)
    {
        var plan = AttentionPlan.BothWays(context, embeddings.device);
        var stack = DecoderStack.Run(_layers.Items, embeddings, context, (layer, x, inner) => layer.Forward(x, plan, inner));
        return new BackboneOutput(_norm.Forward(stack.Output, context), context.Rows, context.Length)
        {
            HiddenStates = stack.Inputs is { } states ? [.. states, stack.Output] : null,
        };
    }
}

/// <summary>ViT as a family.</summary>
internal static class Vit
{
    /// <summary>Files published before transformers 5 have BERT's names.</summary>
    public static Family Row { get; } = new("vit", "ViT", static config => new VitModel(config))
    {
        Prefix = "vit",
        Heads =
        [
            new("ForImageClassification", ImageClassificationModel.Task, static (config, name) => new ImageClassificationModel(config, name, static (output, context) => BertHeads.FirstPosition(output, context))),
            HeadRow.Features,
        ],
        Keys = new KeyMap(
            new KeyRule("mlp.fc2", "output.dense"), new KeyRule("mlp.fc1", "intermediate.dense"), new KeyRule("attention.o_proj", "attention.output.dense"),
            new KeyRule("attention.q_proj", "attention.attention.query"), new KeyRule("attention.k_proj", "attention.attention.key"), new KeyRule("attention.v_proj", "attention.attention.value"),
            new KeyRule("layers", "encoder.layer")),
    };
}
