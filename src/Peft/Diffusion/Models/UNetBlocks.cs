using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Diffusion.Models;

/// <summary>Images as rows of positions, and back.</summary>
internal static class Pixels
{
    /// <summary>[rows, channels, height, width] to [rows · height · width, channels].</summary>
    public static Tensor ToPositions(Tensor x, ForwardContext context)
    {
        using var scope = NewDisposeScope();
        var (shape, byPosition) = (x.shape, ImageLayout.IsByPosition(x));
        var positions = Rows(x);
        context.Tape?.Record(new PlacePiece(g => Image(g, shape, byPosition)), [x], [positions], trains: false);
        return positions.MoveToOuterDisposeScope();
    }

    /// <summary>[rows · height · width, channels] to the shape of an image, with its channels.</summary>
    public static Tensor FromPositions(Tensor x, Tensor like, ForwardContext context)
    {
        using var scope = NewDisposeScope();
        var image = Image(x, [like.size(0), x.size(1), like.size(2), like.size(3)], ImageLayout.IsByPosition(like));
        context.Tape?.Record(new PlacePiece(Rows), [x], [image], trains: false);
        return image.MoveToOuterDisposeScope();
    }

    /// <summary>An image position by position, where the engine's convolutions are faster so.</summary>
    public static Tensor ByPosition(Tensor image, ForwardContext context) => image.device_type == TorchSharp.DeviceType.CPU && !ImageLayout.IsByPosition(image) ? Placed(image, ImageLayout.ByPosition(image), context) : image;

    /// <summary>An image channel by channel, as callers expect it.</summary>
    public static Tensor ByChannel(Tensor image, ForwardContext context) => image.is_contiguous() ? image : Placed(image, image.contiguous(), context);

    /// <summary>A value for each channel added at every position: over the image itself where no tape has it.</summary>
    /// <param name="image">[rows, channels, height, width], of which the caller has no more use.</param>
    /// <param name="values">[rows, channels].</param>
    /// <param name="context">The forward pass.</param>
    public static Tensor AddToChannels(Tensor image, Tensor values, ForwardContext context)
    {
        using var scope = NewDisposeScope();
        var each = values.unsqueeze(-1).unsqueeze(-1);
        if (context.Tape is not { } tape)
        {
            image.add_(each);
            return image;
        }

        var sum = image.add(each);
        tape.Record(new ChannelPiece(), [image, values], [sum], trains: false);
        return sum.MoveToOuterDisposeScope();
    }

    /// <summary>Each position repeated until the image has a size: the nearest one.</summary>
    public static Tensor Enlarge(Tensor image, long height, long width, ForwardContext context)
    {
        if (context.Tape is not { } tape || height != 2 * image.size(2) || width != 2 * image.size(3))
        {
            return ParameterTensor.Run(given => nn.functional.interpolate(given[0], [height, width]), [image], [], context);
        }

        var shape = image.shape;
        return Placed(image, nn.functional.interpolate(image, [height, width]), context, g =>
            ImageLayout.FromPositions(ImageLayout.Positions(g).reshape(shape[0], shape[2], 2, shape[3], 2, shape[1]).sum([2, 4])));
    }

    /// <summary>Some lines of the image of twice the height and width.</summary>
    public static Tensor EnlargedLines(Tensor image, long top, long count)
    {
        using var scope = NewDisposeScope();
        var (first, last) = (top / 2, (top + count + 1) / 2);
        var part = nn.functional.interpolate(image.narrow(2, first, last - first), [2 * (last - first), 2 * image.size(3)]);
        return part.narrow(2, top - (2 * first), count).MoveToOuterDisposeScope();
    }

    /// <summary>A pass over the positions of images.</summary>
    public static ForwardContext Pass(Tensor image, ForwardContext context) =>
        context with { Rows = image.size(0), Length = image.size(2) * image.size(3), AttentionMask = null, Positions = null };

    private static Tensor Rows(Tensor image) => ImageLayout.Positions(image).reshape(-1, image.size(1));

    private static Tensor Image(Tensor rows, long[] shape, bool byPosition)
    {
        var image = ImageLayout.FromPositions(rows.reshape(shape[0], shape[2], shape[3], shape[1]));
        return byPosition ? image : image.contiguous();
    }

    private static Tensor Placed(Tensor from, Tensor to, ForwardContext context, Func<Tensor, Tensor>? back = null)
    {
        context.Tape?.Record(new PlacePiece(back ?? (static g => g)), [from], [to], trains: false);
        return to;
    }

    /// <summary>Values in other places, which keeps nothing of them. What it gives back may be the same memory seen in another way.</summary>
    private sealed class PlacePiece(Func<Tensor, Tensor> back) : Piece
    {
        public override void Backward(PieceGradients gradients) => gradients.Add(0, back(gradients.Output()), owned: false);
    }

    private sealed class ChannelPiece : Piece
    {
        public override void Backward(PieceGradients gradients)
        {
            var g = gradients.Output();
            gradients.Add(0, g, owned: false);
            if (gradients.Needs(1))
            {
                gradients.Add(1, g.sum([2, 3]));
            }
        }
    }
}

/// <summary>What a block reads beside its input.</summary>
/// <param name="Time">The time's embedding after its activation, [rows, width]; null in an autoencoder.</param>
/// <param name="Text">What the text encoders gave; null without text.</param>
/// <param name="TextMask">1 where the text has tokens, int64 [rows, length]; null for everywhere.</param>
internal sealed record UNetPass(Tensor? Time = null, BackboneOutput? Text = null, Tensor? TextMask = null);

/// <summary>Two convolutions with norms before them, the time added between them, and the input added to the result.</summary>
internal sealed class ResnetBlock2D : Module
{
    private readonly GroupNorm _firstNorm;
    private readonly Convolution _first;
    private readonly Linear? _time;
    private readonly GroupNorm _secondNorm;
    private readonly Dropout _dropout;
    private readonly Convolution _second;
    private readonly Convolution? _shortcut;
    private readonly double _scale;

    public ResnetBlock2D(long inputs, long outputs, long? timeWidth, (long Groups, double Epsilon) norm, double dropout = 0, double scale = 1)
    {
        _scale = scale;
        _firstNorm = Add("norm1", new GroupNorm(norm.Groups, inputs, norm.Epsilon));
        _first = Add("conv1", new Convolution(inputs, outputs, [3, 3], new ConvolutionShape(Padding: 1)));
        _time = timeWidth is { } width ? Add("time_emb_proj", new Linear(width, outputs, hasBias: true)) : null;
        _secondNorm = Add("norm2", new GroupNorm(norm.Groups, outputs, norm.Epsilon));
        _dropout = Add("dropout", new Dropout(dropout));
        _second = Add("conv2", new Convolution(outputs, outputs, [3, 3], new ConvolutionShape(Padding: 1)));
        Add("nonlinearity", new Activation("silu", "SiLU"));
        _shortcut = inputs == outputs ? null : Add("conv_shortcut", new Convolution(inputs, outputs, [1, 1]));
    }

    public Tensor Forward(Tensor x, UNetPass pass, ForwardContext context)
    {
        using var scope = NewDisposeScope();
        var hidden = Convolved(_firstNorm, null, _first, x, context);
        hidden = _time is null ? hidden : Pixels.AddToChannels(hidden, _time.Forward(pass.Time!, context), context);
        var added = Convolved(_secondNorm, _dropout, _second, hidden, context);
        hidden.Dispose();
        var given = _shortcut?.Forward(x, context) ?? x;
        var sum = context.Tape is null ? added.add_(given) : ResidualSum.Forward(given, added, context);
        return Scaling.Forward(sum, 1 / _scale, context).MoveToOuterDisposeScope();
    }

    /// <summary>A convolution of the normed and activated image.</summary>
    public static Tensor Convolved(GroupNorm norm, Dropout? dropout, Convolution convolution, Tensor x, ForwardContext context)
    {
        using var scope = NewDisposeScope();
        if (convolution.TakesStrips(x.size(0) * x.size(2) * x.size(3), x.device_type, context) && dropout?.Acts(context) != true && norm.Strips(x, context) is { } lines)
        {
            return convolution.ForwardInStrips(x.shape, lines, x, context).MoveToOuterDisposeScope();
        }

        var normed = norm.Forward(x, context, activates: true);
        return convolution.Forward(dropout?.Forward(normed, context) ?? normed, context).MoveToOuterDisposeScope();
    }
}

/// <summary>Attention of an image's positions to each other, or to a text's.</summary>
internal sealed class UNetAttention : Module
{
    private readonly AttentionShape _shape;
    private readonly GroupNorm? _norm;
    private readonly Linear _queries;
    private readonly LinearGroup _group;
    private readonly ModuleList<Module> _output;
    private readonly bool _isAcross;

    public UNetAttention(long width, long heads, long? textWidth = null, (long Groups, double Epsilon)? norm = null)
        : base("Attention")
    {
        if (width % heads != 0)
        {
            throw new PeftException("ModelConfigInvalid", FormattableString.Invariant($"{heads} attention heads can't share a width of {width} evenly."));
        }

        _isAcross = textWidth is not null;
        _shape = new AttentionShape(heads, heads, width / heads, 1 / Math.Sqrt((double)width / heads));
        _norm = norm is { } own ? Add("group_norm", new GroupNorm(own.Groups, width, own.Epsilon)) : null;
        _queries = Add("to_q", new Linear(width, width, hasBias: norm is not null));
        var keys = Add("to_k", new Linear(textWidth ?? width, width, hasBias: norm is not null));
        var values = Add("to_v", new Linear(textWidth ?? width, width, hasBias: norm is not null));
        _output = Add("to_out", new ModuleList<Module>([new Linear(width, width, hasBias: true), new Dropout(0)]));
        _group = _isAcross ? Group(keys, values) : Group(_queries, keys, values);
    }

    /// <summary>Attention of positions, added to them.</summary>
    /// <param name="x">[rows · length, width], normed.</param>
    /// <param name="residual">Of the same shape.</param>
    /// <param name="pass">What is read beside.</param>
    /// <param name="context">The pass over the image's positions.</param>
    public Tensor Forward(Tensor x, Tensor residual, UNetPass pass, ForwardContext context)
    {
        using var scope = NewDisposeScope();
        var attended = _isAcross ? OverText(x, pass, context)
            : Attention.Forward(_group.Forward(x, context), _shape, null, AttentionPlan.BothWays(context, x.device), null, context);
        return ((Linear)_output.Items[0]).Forward(attended, context, residual).MoveToOuterDisposeScope();
    }

    /// <summary>Attention of an image, added to it (an autoencoder's).</summary>
    public Tensor Forward(Tensor image, ForwardContext context)
    {
        using var scope = NewDisposeScope();
        var normed = Pixels.ToPositions(_norm!.Forward(image, context), context);
        var attended = Forward(normed, Pixels.ToPositions(image, context), new UNetPass(), Pixels.Pass(image, context));
        return Pixels.FromPositions(attended, image, context).MoveToOuterDisposeScope();
    }

    private Tensor OverText(Tensor x, UNetPass pass, ForwardContext context)
    {
        var text = pass.Text ?? throw new PeftException("TextMissing", $"'{Path}' reads a text, and was given none.") { Target = Path };
        var width = _shape.Heads * _shape.HeadSize;
        var parts = Splitting.Forward(_group.Forward(text.Hidden, text.In(context)), [width, width], context);
        var plan = AttentionPlan.Across(context, x.device, text.Length, pass.TextMask);
        return Attention.Forward(_queries.Forward(x, context), parts[0], parts[1], _shape, null, plan, null, context);
    }
}

/// <summary>Attention to the image, attention to the text, an MLP; each added to what it read.</summary>
internal sealed class BasicTransformerBlock : Module
{
    private readonly LayerNorm _firstNorm;
    private readonly UNetAttention _self;
    private readonly LayerNorm _secondNorm;
    private readonly UNetAttention _across;
    private readonly LayerNorm _thirdNorm;
    private readonly UNetFeedForward _feedForward;

    public BasicTransformerBlock(long width, long heads, long textWidth)
    {
        _firstNorm = Add("norm1", new LayerNorm(width, 1e-5));
        _self = Add("attn1", new UNetAttention(width, heads));
        _secondNorm = Add("norm2", new LayerNorm(width, 1e-5));
        _across = Add("attn2", new UNetAttention(width, heads, textWidth));
        _thirdNorm = Add("norm3", new LayerNorm(width, 1e-5));
        _feedForward = Add("ff", new UNetFeedForward(width));
    }

    public Tensor Forward(Tensor x, UNetPass pass, ForwardContext context)
    {
        using var seen = Step(_firstNorm, x, (normed, residual) => _self.Forward(normed, residual, pass, context));
        using var told = Step(_secondNorm, seen, (normed, residual) => _across.Forward(normed, residual, pass, context));
        return Step(_thirdNorm, told, (normed, residual) => _feedForward.Forward(normed, residual, context));

        // What is normed is freed before the next step begins.
        Tensor Step(LayerNorm norm, Tensor given, Func<Tensor, Tensor, Tensor> layer)
        {
            using var scope = NewDisposeScope();
            return layer(norm.Forward(given, context), given).MoveToOuterDisposeScope();
        }
    }
}

/// <summary>Transformer blocks over an image's positions, added to the image.</summary>
internal sealed class Transformer2DModel : Module
{
    private readonly GroupNorm _norm;
    private readonly Module _input;
    private readonly ModuleList<BasicTransformerBlock> _blocks;
    private readonly Module _output;

    public Transformer2DModel(UNetConfig config, long width, long heads, long textWidth, long blocks)
    {
        _norm = Add("norm", new GroupNorm(config.Groups, width, 1e-6));
        _input = Add("proj_in", Projection());
        _blocks = Add("transformer_blocks", new ModuleList<BasicTransformerBlock>(Enumerable.Range(0, (int)blocks).Select(_ => new BasicTransformerBlock(width, heads, textWidth))));
        _output = Add("proj_out", Projection());

        Module Projection() => config.LinearProjection ? new Linear(width, width, hasBias: true) : new Convolution(width, width, [1, 1]);
    }

    public Tensor Forward(Tensor image, UNetPass pass, ForwardContext context)
    {
        using var scope = NewDisposeScope();
        var inner = Pixels.Pass(image, context);
        var x = Positions(image, context);
        foreach (var block in _blocks.Items)
        {
            context.Cancellation.ThrowIfCancellationRequested();
            using var before = x;
            x = block.Forward(before, pass, inner);
        }

        var result = _output is Linear last
            ? Pixels.FromPositions(last.Forward(x, inner), image, context)
            : ((Convolution)_output).Forward(Pixels.FromPositions(x, image, context), context);
        return ResidualSum.Forward(image, result, context).MoveToOuterDisposeScope();
    }

    private Tensor Positions(Tensor image, ForwardContext context)
    {
        using var scope = NewDisposeScope();
        var normed = _norm.Forward(image, context);
        var positions = _input is Linear linear
            ? linear.Forward(Pixels.ToPositions(normed, context), Pixels.Pass(image, context))
            : Pixels.ToPositions(((Convolution)_input).Forward(normed, context), context);
        return positions.MoveToOuterDisposeScope();
    }
}

/// <summary>Half the height and width by a convolution.</summary>
internal sealed class Downsample2D : Module
{
    private readonly Convolution _convolution;
    private readonly bool _padsBehind;

    /// <param name="channels">Channels.</param>
    /// <param name="padsBehind">Whether zeros are put at the right and the bottom alone, as autoencoders do.</param>
    public Downsample2D(long channels, bool padsBehind = false)
    {
        _padsBehind = padsBehind;
        _convolution = Add("conv", new Convolution(channels, channels, [3, 3], new ConvolutionShape(Stride: 2, Padding: padsBehind ? 0 : 1)));
    }

    public Tensor Forward(Tensor x, ForwardContext context) => _convolution.Forward(
        _padsBehind ? ParameterTensor.Run(static given => nn.functional.pad(given[0], [0, 1, 0, 1]), [x], [], context) : x, context);
}

/// <summary>A greater height and width by repeating positions, and a convolution.</summary>
internal sealed class Upsample2D : Module
{
    private readonly Convolution _convolution;

    public Upsample2D(long channels) => _convolution = Add("conv", new Convolution(channels, channels, [3, 3], new ConvolutionShape(Padding: 1)));

    /// <param name="x">The image.</param>
    /// <param name="size">Height and width of the result; null for twice as much.</param>
    /// <param name="context">The forward pass.</param>
    public Tensor Forward(Tensor x, (long Height, long Width)? size, ForwardContext context)
    {
        using var scope = NewDisposeScope();
        var (height, width) = size ?? (2 * x.size(2), 2 * x.size(3));
        if (height == 2 * x.size(2) && width == 2 * x.size(3) && _convolution.TakesStrips(x.size(0) * height * width, x.device_type, context))
        {
            return _convolution.ForwardInStrips([x.size(0), x.size(1), height, width], (top, count) => Pixels.EnlargedLines(x, top, count), x, context).MoveToOuterDisposeScope();
        }

        return _convolution.Forward(Pixels.Enlarge(x, height, width, context), context).MoveToOuterDisposeScope();
    }
}
