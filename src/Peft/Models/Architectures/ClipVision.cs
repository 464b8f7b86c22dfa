using System.Text.Json.Nodes;
using Peft.Models.Heads;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Models.Architectures;

/// <summary>Vectors of patches and positions.</summary>
internal sealed class ClipVisionEmbeddings : Module
{
    private readonly Parameter _whole;
    private readonly Convolution _patches;
    private readonly Embedding _positions;
    private readonly VisionShape _shape;

    public ClipVisionEmbeddings(ClipTextConfig config, VisionShape shape)
        : base("CLIPVisionEmbeddings")
    {
        _shape = shape;
        _whole = AddParameter("class_embedding", [config.Width]);
        _patches = Add("patch_embedding", new Convolution(shape.Channels, config.Width, [shape.Patch, shape.Patch], new ConvolutionShape(Stride: shape.Patch), hasBias: false));
        _positions = Add("position_embedding", new Embedding(shape.Positions, config.Width));
    }

    public Tensor Forward(ModelInputs inputs, ForwardContext context) => VisionEmbeddings.Forward(_patches, _whole, _positions.Weight, inputs, _shape, context);
}

/// <summary>CLIP's vision encoder (Radford et al. 2021). Its hidden states aren't normed behind the last block.</summary>
internal sealed class ClipVisionModel : Backbone
{
    private readonly ClipVisionEmbeddings _embeddings;
    private readonly LayerNorm _firstNorm;
    private readonly ClipEncoder _encoder;

    public ClipVisionModel(ModelConfig source)
        : base(source, "CLIPVisionModel")
    {
        var config = new ClipTextConfig(source);
        (Width, Image) = (config.Width, VisionShape.Of(source, patch: 32));
        _embeddings = Add("embeddings", new ClipVisionEmbeddings(config, Image));

        // Spelt so in every file.
        _firstNorm = Add("pre_layrnorm", config.Norm());
        _encoder = Add("encoder", new ClipEncoder(config));
        Add("post_layernorm", config.Norm());
    }

    /// <inheritdoc/>
    public override long Width { get; }

    /// <inheritdoc/>
    public override VisionShape Image { get; }

    /// <inheritdoc/>
    public override Tensor Embed(ModelInputs inputs, ForwardContext context) => _firstNorm.Forward(_embeddings.Forward(inputs, context), context);

    /// <inheritdoc/>
    public override BackboneOutput Forward(Tensor embeddings, ModelInputs inputs, ForwardContext context)
    {
        var plan = AttentionPlan.BothWays(context, embeddings.device);
        var stack = DecoderStack.Run(_encoder.Layers.Items, embeddings, context, (layer, x, inner) => layer.Forward(x, plan, inner));
        return new BackboneOutput(stack.Output, context.Rows, context.Length)
        {
            HiddenStates = stack.Inputs is { } states ? [.. states, stack.Output] : null,
        };
    }
}

/// <summary>CLIP's vision encoder as families: by itself, and in a whole CLIP, whose other parts are carried along.</summary>
internal static class ClipVision
{
    private const string InnerKey = "vision_config";

    private static readonly IReadOnlyList<HeadRow> s_heads =
    [
        new("ForImageClassification", ImageClassificationModel.Task, static (config, name) => new ImageClassificationModel(config, name, Patches)),
        HeadRow.Features,
    ];

    /// <summary>The encoder by itself.</summary>
    public static Family Row { get; } = new("clip_vision_model", "CLIPVision", static config => new ClipVisionModel(config))
    {
        Prefix = "vision_model",
        Heads = [HeadRow.Features],
        Defaults = new JsonObject { ["hidden_size"] = 768, ["intermediate_size"] = 3072, ["num_attention_heads"] = 12 },
    };

    /// <summary>The encoder in a whole CLIP.</summary>
    public static Family Whole { get; } = new("clip", "CLIP", static config => new ClipVisionModel(config.Inner(InnerKey).For(Row)))
    {
        Prefix = "vision_model",
        Heads = s_heads,
    };

    /// <summary>The mean of the patches.</summary>
    private static Tensor Patches(BackboneOutput output, ForwardContext context) =>
        ParameterTensor.Run(given => given[0].view(output.Rows, output.Length, -1).narrow(1, 1, output.Length - 1).mean([1L]), [output.Hidden], [], context);
}
