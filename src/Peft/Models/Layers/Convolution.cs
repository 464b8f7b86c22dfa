using System.Globalization;
using Peft.Engine;
using Peft.Tensors;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Models.Layers;

/// <summary>How a convolution moves over its input.</summary>
/// <param name="Stride">Step from one position to the next, in each dimension.</param>
/// <param name="Padding">Zeros around the input, in each dimension.</param>
/// <param name="Dilation">Distance between taps of the kernel, in each dimension.</param>
/// <param name="Groups">Parts of the channels that are convolved each for itself.</param>
public sealed record ConvolutionShape(long Stride = 1, long Padding = 0, long Dilation = 1, long Groups = 1);

/// <summary>A convolution over one dimension or two (PyTorch's <c>Conv1d</c> and <c>Conv2d</c>), whose weight can carry adapters.</summary>
public sealed class Convolution : Module, IAdaptable
{
    // An image of 64 MB in float32 counts as large, and is read 16 MB at a time.
    private const long LargeElements = 1 << 24;
    private const long StripElements = 1 << 22;
    private const long LeastLines = 8;

    private readonly ConvolutionShape _shape;

    // The weight as it was loaded, which is put into its order when the layer is first used; null where nothing waits.
    private (Tensor Value, bool IsMapped)? _waiting;

    /// <summary>Makes a layer without weights.</summary>
    /// <param name="inputs">Channels of the input.</param>
    /// <param name="outputs">Channels of the output.</param>
    /// <param name="kernel">Size of the kernel in each dimension, of which there are one or two.</param>
    /// <param name="shape">How it moves; null for every position, without padding.</param>
    /// <param name="hasBias">Whether it adds a bias.</param>
    /// <exception cref="PeftException"><c>ModelConfigInvalid</c>: the groups divide one of the numbers of channels not.</exception>
    public Convolution(long inputs, long outputs, IReadOnlyList<long> kernel, ConvolutionShape? shape = null, bool hasBias = true)
        : base($"Conv{kernel.Count}d")
    {
        _shape = shape ?? new ConvolutionShape();
        if (kernel.Count is not (1 or 2) || inputs % _shape.Groups != 0 || outputs % _shape.Groups != 0)
        {
            throw new PeftException("ModelConfigInvalid", FormattableString.Invariant(
                $"A convolution over {kernel.Count} dimensions from {inputs} to {outputs} channels in {_shape.Groups} groups can't be made."));
        }

        (Inputs, Outputs, Kernel) = (inputs, outputs, kernel);
        Weight = AddParameter("weight", [outputs, inputs / _shape.Groups, .. kernel]);
        Bias = hasBias ? AddParameter("bias", [outputs]) : null;
    }

    /// <inheritdoc/>
    public long Inputs { get; }

    /// <inheritdoc/>
    public long Outputs { get; }

    /// <inheritdoc/>
    public IReadOnlyList<long> Kernel { get; }

    /// <inheritdoc/>
    public long ChannelGroups => _shape.Groups;

    /// <summary>[outputs, inputs / groups, kernel].</summary>
    public Parameter Weight { get; }

    /// <summary>[outputs], or null.</summary>
    public Parameter? Bias { get; }

    /// <summary>Whether it reads images that lie position by position (<see cref="ImageLayout"/>), and keeps its weight in that order.</summary>
    internal bool IsByPosition { get; set; }

    /// <inheritdoc/>
    public IReadOnlyList<long> InputShape => [1, Inputs, .. Ones];

    /// <inheritdoc/>
    public IReadOnlyList<long> OutputShape => [1, Outputs, .. Ones];

    /// <inheritdoc/>
    public override string Details => string.Create(CultureInfo.InvariantCulture, $"{Inputs}, {Outputs}, kernel_size={Tuple(Kernel)}, stride={Tuple(Each(_shape.Stride))}")
        + (_shape.Padding == 0 ? "" : $", padding={Tuple(Each(_shape.Padding))}")
        + (_shape.Dilation == 1 ? "" : $", dilation={Tuple(Each(_shape.Dilation))}")
        + (ChannelGroups == 1 ? "" : string.Create(CultureInfo.InvariantCulture, $", groups={ChannelGroups}"))
        + (Bias is null ? ", bias=False" : "");

    private long[] Ones => Each(1);

    /// <summary>
    /// Puts the weight into the order of the images that it is made for, where the engine has its own reason to prefer one: on a processor. Nothing
    /// happens while it is trained, or edited in a way that can be taken back.
    /// </summary>
    internal void Arrange()
    {
        if (!IsByPosition || Weight is not { IsOwner: true, IsTrained: false, Edits: null, IsOffloaded: false, Value: { device_type: DeviceType.CPU } value })
        {
            return;
        }

        var source = _waiting;
        _waiting = null;
        if (ImageLayout.HasTwoOrders(value) && value.is_contiguous())
        {
            using var noGradients = no_grad();
            var arranged = ImageLayout.ByPosition(value);
            if (source is (var loaded, true) && ReferenceEquals(loaded, value))
            {
                // The copy is what is computed with; the file's pages would stay beside it.
                MappedPages.Drop(TensorMemory.Address(value), value.NumberOfElements * value.ElementSize);
            }

            Weight.Assign(arranged);
        }
    }

    /// <summary>Has the weight put into its order when the layer is first used: a model that was loaded, but not computed with, costs no copy.</summary>
    /// <param name="isMapped">Whether a tensor's memory is that of a file.</param>
    internal void ArrangeWhenUsed(Func<Tensor, bool> isMapped) =>
        _waiting = IsByPosition && Weight.Value is { device_type: DeviceType.CPU } value ? (value, isMapped(value)) : null;

    /// <summary>Convolves, with whatever adapters act on the layer.</summary>
    /// <param name="x">[rows, inputs, length], or [rows, inputs, height, width].</param>
    /// <param name="context">The forward pass.</param>
    /// <returns>[rows, outputs, length], or [rows, outputs, height, width].</returns>
    /// <exception cref="PeftException"><c>ShapeMismatch</c>: the input has other dimensions or channels.</exception>
    public Tensor Forward(Tensor x, ForwardContext context)
    {
        if (x.dim() != Kernel.Count + 2 || x.size(1) != Inputs)
        {
            throw new PeftException("ShapeMismatch", $"'{Path}' takes inputs of {Inputs} channels over {Kernel.Count} dimensions, but was given [{string.Join(", ", x.shape)}].") { Target = Path };
        }

        ArrangeNow();
        context.InputObserver?.Invoke(this, x);
        return Weight.Slot is { } slot && !slot.Plan(context).IsEmpty ? slot.Forward(x, context, Product) : Product(x, context);
    }

    /// <summary>
    /// Whether an image is so large that it is convolved strip by strip, so that neither what the convolution reads nor the copies that the
    /// engine makes of it are ever whole in memory.
    /// </summary>
    /// <param name="positions">Rows · height · width of the image.</param>
    /// <param name="device">Where it is.</param>
    /// <param name="context">The forward pass.</param>
    internal bool TakesStrips(long positions, DeviceType device, ForwardContext context) =>
        positions * Inputs >= LargeElements
        && device == DeviceType.CPU
        && context is { Tape: null, InputObserver: null }
        && Kernel.Count == 2
        && Kernel.All(size => size == (2 * _shape.Padding) + 1)
        && _shape is { Stride: 1, Dilation: 1, Groups: 1 }
        && Weight.Slot?.Plan(context).IsEmpty != false;

    /// <summary>Convolves an image of which it asks for lines.</summary>
    /// <param name="shape">[rows, inputs, height, width] of the image.</param>
    /// <param name="lines">Gives its lines from one on, and how many.</param>
    /// <param name="like">Of the image's type and order.</param>
    /// <param name="context">The forward pass.</param>
    internal Tensor ForwardInStrips(long[] shape, Func<long, long, Tensor> lines, Tensor like, ForwardContext context)
    {
        ArrangeNow();
        using var scope = NewDisposeScope();
        var (height, width, type) = (shape[2], shape[3], like.dtype);
        var (weight, bias) = (Weight.Effective(context).Unpacked(type), Bias is null ? null : LinearProduct.Cast(Bias.Effective(context).Data, type));
        long[] result = [shape[0], Outputs, height, width];
        var y = ImageLayout.IsByPosition(like) ? ImageLayout.Empty(result, type, CPU) : empty(result, type);
        var most = Math.Max(LeastLines, StripElements / (shape[0] * Inputs * width));
        for (long top = 0; top < height; top += most)
        {
            context.Cancellation.ThrowIfCancellationRequested();
            using var strip = NewDisposeScope();
            var count = Math.Min(most, height - top);
            var edge = _shape.Padding;
            var (first, last) = (Math.Max(0, top - edge), Math.Min(height, top + count + edge));
            var given = lines(first, last - first);
            var (before, behind) = (first - (top - edge), top + count + edge - last);
            given = before + behind == 0 ? given : nn.functional.pad(given, [0, 0, before, behind]);
            y.narrow(2, top, count).copy_(nn.functional.conv2d(given, weight, bias, [1, 1], [0, edge], [1, 1]));
        }

        return y.MoveToOuterDisposeScope();
    }

    /// <summary>The same convolution with another weight, which says by its own shape how many groups it has.</summary>
    /// <inheritdoc/>
    public Tensor Apply(Tensor x, Tensor weight, Tensor? bias) => Convolve(x, weight, bias, _shape);

    /// <inheritdoc/>
    public Tensor FromMatrix(Tensor matrix) => matrix.reshape([matrix.size(0), -1, .. Kernel]);

    /// <inheritdoc/>
    public Tensor ToMatrix(Tensor weight) => weight.flatten(1);

    /// <summary>By a convolution of one tap, group by group.</summary>
    /// <inheritdoc/>
    public Tensor Project(Tensor y, Tensor matrix) => Convolve(y, matrix.reshape([matrix.size(0), -1, .. Ones]), null, new ConvolutionShape());

    private void ArrangeNow()
    {
        if (_waiting is not null)
        {
            Arrange();
        }
    }

    private static Tensor Convolve(Tensor x, Tensor weight, Tensor? bias, ConvolutionShape shape)
    {
        var groups = x.size(1) / weight.size(1);
        if (x.dim() == 3)
        {
            return nn.functional.conv1d(x, weight, bias, shape.Stride, shape.Padding, shape.Dilation, groups);
        }

        long[] Both(long value) => [value, value];
        return nn.functional.conv2d(x, weight, bias, Both(shape.Stride), Both(shape.Padding), Both(shape.Dilation), groups);
    }

    private Tensor Product(Tensor x, ForwardContext context)
    {
        var (weight, bias) = (Weight.Effective(context), Bias?.Effective(context));
        if (context.Tape is not { } tape)
        {
            return Kernel.Count == 2 && TakesStrips(x.size(0) * x.size(2) * x.size(3), x.device_type, context)
                ? ForwardInStrips(x.shape, (top, count) => x.narrow(2, top, count), x, context)
                : Run(x);
        }

        if (weight.IsTrained || bias?.IsTrained == true || Kernel.Count != 2 || !Operators.AreNative)
        {
            return tape.Autograd(given => Run(given[0]), [x], bias is null ? [weight] : [weight, bias]);
        }

        var y = Run(x);
        tape.Record(new FrozenPiece(weight, x.shape, _shape, ImageLayout.IsByPosition(x), context), [x], [y], trains: false);
        return y;

        Tensor Run(Tensor given)
        {
            using var scope = NewDisposeScope();
            var input = context.Narrowed(given);
            return LinearProduct.Cast(Apply(input, weight.Unpacked(input.dtype), bias is null ? null : LinearProduct.Cast(bias.Data, input.dtype)), given.dtype).MoveToOuterDisposeScope();
        }
    }

    private long[] Each(long value) => [.. Enumerable.Repeat(value, Kernel.Count)];

    private static string Tuple(IReadOnlyList<long> values) => values.Count == 1 ? $"({values[0]},)" : $"({string.Join(", ", values)})";

    /// <summary>Keeps nothing: the gradient of the input needs the weight alone.</summary>
    private sealed class FrozenPiece(Parameter weight, long[] inputShape, ConvolutionShape shape, bool byPosition, ForwardContext context) : Piece
    {
        public override void Backward(PieceGradients gradients)
        {
            if (gradients.Needs())
            {
                var output = gradients.Output();
                var narrowed = context.Narrowed(output);
                var g = byPosition ? ImageLayout.ByPosition(narrowed) : narrowed.contiguous();
                gradients.Add(0, LinearProduct.Cast(Operators.ConvolutionInputGradient(g, weight.Unpacked(g.dtype), inputShape, shape.Stride, shape.Padding, shape.Dilation), output.dtype));
            }
        }
    }
}
