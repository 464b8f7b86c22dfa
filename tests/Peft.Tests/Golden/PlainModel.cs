using System.Text.Json.Nodes;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Tests.Golden;

/// <summary>
/// The plain module of <c>golden/adapters/bases</c>: convolutions over an image beside attention over tokens. It is no head over a backbone, and
/// so shows that a model needs none.
/// </summary>
internal sealed class PlainModel : PretrainedModel
{
    private readonly Convolution[] _image;
    private readonly Embedding _tokens;
    private readonly Convolution _neighbours;
    private readonly MultiheadAttention _attention;
    private readonly LayerNorm _norm;
    private readonly Linear _linear;
    private readonly Linear _head;

    public PlainModel(JsonObject architecture)
        : base(new ModelConfig([]), "Plain")
    {
        long Size(string name) => (long)architecture["arguments"]![name]!;
        var (channels, dim) = (Size("channels"), Size("dim"));
        _image =
        [
            Add("conv1", new Convolution(3, channels, [3, 3], new ConvolutionShape(Stride: 2, Padding: 1))),
            Add("conv2", new Convolution(channels, channels, [3, 3], new ConvolutionShape(Padding: 1, Groups: Size("groups")))),
            Add("conv3", new Convolution(channels, dim, [1, 1])),
        ];
        _tokens = Add("emb", new Embedding(Size("vocab"), dim));
        _neighbours = Add("conv1d", new Convolution(dim, dim, [3], new ConvolutionShape(Padding: 1)));
        _attention = Add("attn", new MultiheadAttention(dim, Size("heads")));
        _norm = Add("norm", new LayerNorm(dim, 1e-5));
        _linear = Add("lin", new Linear(dim, dim, hasBias: true));
        _head = Add("head", new Linear(2 * dim, Size("outputs"), hasBias: true));
    }

    /// <summary>Reads the weights of a folder.</summary>
    public static PlainModel Load(string folder)
    {
        var model = new PlainModel(AdapterGolden.Read(System.IO.Path.Combine(folder, "architecture.json")));
        var weights = AdapterGolden.Tensors(System.IO.Path.Combine(folder, "model.safetensors"));
        foreach (var (path, parameter, _) in model.NamedParameters())
        {
            parameter.Assign(weights[path]);
        }

        return model;
    }

    /// <summary>[rows, outputs].</summary>
    public Tensor Forward(Tensor images, Tensor tokens, ForwardContext context)
    {
        context = context with { Rows = tokens.size(0), Length = tokens.size(1) };
        context.Tape?.AddRoot(images);
        var image = images;
        foreach (var layer in _image)
        {
            image = Step(context, static given => given[0].relu(), layer.Forward(image, context));
        }

        image = Step(context, static given => given[0].mean([2, 3]), image);
        var text = _tokens.Forward(tokens, context);
        var byChannel = Step(context, given => given[0].view(context.Rows, context.Length, -1).transpose(1, 2), text);
        text = Step(context, static given => given[0] + given[1].transpose(1, 2).reshape(given[0].shape), text, _neighbours.Forward(byChannel, context));
        var attended = _attention.Forward(text, AttentionPlan.BothWays(context, text.device), context);
        text = _norm.Forward(ResidualSum.Forward(text, attended, context), context);
        text = Step(context, given => given[0].tanh().view(context.Rows, context.Length, -1).mean([1]), _linear.Forward(text, context));
        return _head.Forward(Step(context, static given => cat([given[0], given[1]], 1), text, image), context);
    }

    /// <summary>Mean of the squared output.</summary>
    public Tensor Loss(Tensor images, Tensor tokens, ForwardContext context) =>
        Step(context, static given => given[0].square().mean(), Forward(images, tokens, context));

    private static Tensor Step(ForwardContext context, Func<IReadOnlyList<Tensor>, Tensor> function, params Tensor[] inputs) =>
        context.Tape is { } tape ? tape.Autograd(function, inputs, []) : function(inputs);
}
