using static TorchSharp.torch;

namespace Peft.Training.Optimizers;

/// <summary>
/// RMSprop (Hinton 2012) in torch's arithmetic: <c>alpha</c> (0.99), <c>eps</c> (the training's), <c>momentum</c> (0), <c>centered</c> (false).
/// </summary>
internal sealed class RmsProp : Optimizer
{
    private readonly double alpha;
    private readonly double epsilon;
    private readonly double momentum;
    private readonly Tensor square;
    private readonly Tensor? mean;
    private readonly Tensor? velocity;

    public RmsProp(FlatParameters parameters, OptimizerSettings settings)
        : base(parameters)
    {
        alpha = settings.Own.Number("alpha") ?? 0.99;
        epsilon = settings.Epsilon(1e-8);
        momentum = settings.Own.Number("momentum") ?? 0;
        square = Remember("square_avg");
        mean = settings.Own.Flag("centered") ?? false ? Remember("grad_avg") : null;
        velocity = momentum > 0 ? Remember("momentum_buffer") : null;
    }

    /// <inheritdoc/>
    protected override void Update(ParameterSlice slice, double rate, double weightDecay)
    {
        var gradient = slice.Gradient;
        if (weightDecay != 0)
        {
            gradient.add_(slice.Value, alpha: weightDecay);
        }

        var average = slice.Of(square).mul_(alpha).addcmul_(gradient, gradient, value: 1 - alpha);
        if (mean is not null)
        {
            var centre = slice.Of(mean).mul_(alpha).add_(gradient, alpha: 1 - alpha);
            average = average.addcmul(centre, centre, value: -1);
        }

        var denominator = average.sqrt().add_(epsilon);
        if (velocity is null)
        {
            slice.Value.addcdiv_(gradient, denominator, value: -rate);
        }
        else
        {
            slice.Value.add_(slice.Of(velocity).mul_(momentum).addcdiv_(gradient, denominator, value: 1), alpha: -rate);
        }
    }
}

/// <summary>
/// Adagrad (Duchi et al. 2011) in torch's arithmetic: <c>lr_decay</c> (0), <c>eps</c> (1e-10), <c>initial_accumulator_value</c> (0).
/// </summary>
internal sealed class Adagrad : Optimizer
{
    private readonly double rateDecay;
    private readonly double epsilon;
    private readonly Tensor sum;

    public Adagrad(FlatParameters parameters, OptimizerSettings settings)
        : base(parameters)
    {
        rateDecay = settings.Own.Number("lr_decay") ?? 0;
        epsilon = settings.Epsilon(1e-10);
        sum = Remember("sum", settings.Own.Number("initial_accumulator_value") ?? 0);
    }

    /// <inheritdoc/>
    protected override void Update(ParameterSlice slice, double rate, double weightDecay)
    {
        var gradient = slice.Gradient;
        if (weightDecay != 0)
        {
            gradient.add_(slice.Value, alpha: weightDecay);
        }

        var denominator = slice.Of(sum).addcmul_(gradient, gradient, value: 1).sqrt().add_(epsilon);
        slice.Value.addcdiv_(gradient, denominator, value: -rate / (1 + ((StepCount - 1) * rateDecay)));
    }
}
