using System.Globalization;
using Peft.Engine;
using static TorchSharp.torch;

namespace Peft.Models.Layers;

/// <summary>Group norm: channels in groups, each group of each row normed over all its positions (Wu and He 2018), and SiLU behind it where asked for.</summary>
public sealed class GroupNorm : Module, INorm
{
    private readonly long _groups;
    private readonly double _epsilon;

    /// <summary>Makes a norm without weights.</summary>
    /// <param name="groups">Number of groups, a divisor of the channels.</param>
    /// <param name="channels">Number of channels.</param>
    /// <param name="epsilon">Added to the variance.</param>
    /// <exception cref="PeftException"><c>ModelConfigInvalid</c>: the groups don't divide the channels.</exception>
    public GroupNorm(long groups, long channels, double epsilon)
    {
        if (channels % groups != 0)
        {
            throw new PeftException("ModelConfigInvalid", FormattableString.Invariant($"{channels} channels can't be normed in {groups} groups."));
        }

        (_groups, _epsilon) = (groups, epsilon);
        Details = string.Create(CultureInfo.InvariantCulture, $"{groups}, {channels}, eps={ModuleText.Number(epsilon)}, affine=True, bias=True");
        Weight = AddParameter("weight", [channels]);
        Bias = AddParameter("bias", [channels]);
        Scale = new NormWeight(this, Weight, Bias, (x, weight, bias) => nn.functional.group_norm(x, groups, weight, bias, epsilon));
    }

    /// <inheritdoc/>
    public IAdaptable Scale { get; }

    /// <summary>[channels].</summary>
    public Parameter Weight { get; }

    /// <summary>[channels].</summary>
    public Parameter Bias { get; }

    /// <inheritdoc/>
    public override string Details { get; }

    /// <summary>Runs the norm.</summary>
    /// <param name="x">[rows, channels, height, width].</param>
    /// <param name="context">The forward pass.</param>
    /// <param name="activates">Whether SiLU follows.</param>
    /// <returns>Of the same shape.</returns>
    public Tensor Forward(Tensor x, ForwardContext context, bool activates = false)
    {
        if (Weight.Slot is not { } slot || !slot.Plan(context).NeedsForward)
        {
            return Run(x, context, activates);
        }

        // What is added to the weights comes before the activation.
        var normed = slot.Forward(x, context, (given, inner) => Run(given, inner, activates: false));
        return !activates ? normed : ParameterTensor.Run(static given => nn.functional.silu(given[0]), [normed], [], context);
    }

    /// <summary>What gives some of the normed image's lines, [rows, channels, count, width] from the first one and their number, with SiLU; null where this pass needs the whole.</summary>
    /// <param name="x">[rows, channels, height, width].</param>
    /// <param name="context">The forward pass, without a tape.</param>
    internal Func<long, long, Tensor>? Strips(Tensor x, ForwardContext context)
    {
        var byPosition = ImageLayout.IsByPosition(x);
        if (!Serves(x) || Weight.Slot?.Plan(context).NeedsForward == true)
        {
            return null;
        }

        var settings = new GroupNormKernel.Settings(Values(Weight.Effective(context)), Values(Bias.Effective(context)), _groups, _epsilon, Activates: true);
        var moments = byPosition ? PositionNormKernel.Moments(x, settings) : GroupNormKernel.Moments(x, settings);
        return (top, count) => byPosition ? PositionNormKernel.Strip(x, moments, settings, top, count) : GroupNormKernel.Strip(x, moments, settings, top, count);
    }

    private Tensor Run(Tensor x, ForwardContext context, bool activates)
    {
        var (weight, bias) = (Weight.Effective(context), Bias.Effective(context));
        if (Serves(x))
        {
            using var scope = NewDisposeScope();
            var settings = new GroupNormKernel.Settings(Values(weight), Values(bias), _groups, _epsilon, activates);
            var (y, moments) = ImageLayout.IsByPosition(x) ? PositionNormKernel.Form(x, settings) : GroupNormKernel.Form(x, settings);
            context.Tape?.Record(new GroupNormPiece(x, moments, settings, weight, bias), [x], [y], weight.IsTrained || bias.IsTrained);
            return y.MoveToOuterDisposeScope();
        }

        return context.Tape is { } tape
            ? tape.Autograd(inputs => Form(inputs[0], weight, bias, activates), [x], [weight, bias])
            : Form(x, weight, bias, activates);
    }

    private Tensor Form(Tensor x, Parameter weight, Parameter bias, bool activates)
    {
        using var scope = NewDisposeScope();
        var normed = nn.functional.group_norm(x, _groups, LinearProduct.Cast(weight.Data, x.dtype), LinearProduct.Cast(bias.Data, x.dtype), _epsilon);
        return (activates ? nn.functional.silu(normed) : normed).MoveToOuterDisposeScope();
    }

    /// <summary>Whether a kernel of our own takes an image: on the processor, channel by channel or position by position.</summary>
    private static bool Serves(Tensor x)
    {
        if (!ImageLayout.IsByPosition(x))
        {
            return CpuRows.Serves(x);
        }

        using var positions = ImageLayout.Positions(x);
        return CpuRows.Serves(positions);
    }

    private static Tensor Values(Parameter parameter) => LinearProduct.Cast(parameter.Data, ScalarType.Float32).contiguous();

    /// <summary>Keeps the input alone, and forms the rest again.</summary>
    private sealed class GroupNormPiece : Piece
    {
        private readonly Tensor _x;
        private readonly Tensor _moments;
        private readonly GroupNormKernel.Settings _settings;
        private readonly Parameter _weight;
        private readonly Parameter _bias;

        public GroupNormPiece(Tensor x, Tensor moments, GroupNormKernel.Settings settings, Parameter weight, Parameter bias)
        {
            (_x, _moments, _weight, _bias) = (Keep(x), Keep(moments), weight, bias);
            _settings = settings with { Weight = Keep(settings.Weight), Bias = Keep(settings.Bias) };
        }

        public override void Backward(PieceGradients gradients)
        {
            var g = LinearProduct.Cast(gradients.Output(), _x.dtype);
            var (gx, channels) = ImageLayout.IsByPosition(_x)
                ? PositionNormKernel.Gradients(_x, ImageLayout.ByPosition(g), _moments, _settings)
                : GroupNormKernel.Gradients(_x, g.contiguous(), _moments, _settings);
            _bias.Gradient?.add_(channels.select(2, 0).sum(dim: 0));
            _weight.Gradient?.add_(channels.select(2, 1).sum(dim: 0));
            gradients.Add(0, gx);
        }
    }
}
