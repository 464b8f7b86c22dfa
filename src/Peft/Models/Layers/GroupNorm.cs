using System.Globalization;
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

    private Tensor Run(Tensor x, ForwardContext context, bool activates)
    {
        var (weight, bias) = (Weight.Effective(context), Bias.Effective(context));
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
}
