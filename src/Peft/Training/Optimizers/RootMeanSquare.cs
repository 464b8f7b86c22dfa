using static TorchSharp.torch;

namespace Peft.Training.Optimizers;

/// <summary>
/// RMSprop (Hinton 2012) in torch's arithmetic: <c>alpha</c> (0.99), <c>eps</c> (the training's), <c>momentum</c> (0), <c>centered</c> (false).
/// </summary>
internal sealed class RmsProp : Optimizer
{
    private readonly double _alpha;
    private readonly double _epsilon;
    private readonly double _momentum;
    private readonly Tensor _square;
    private readonly Tensor? _mean;
    private readonly Tensor? _velocity;

    public RmsProp(FlatParameters parameters, OptimizerSettings settings)
        : base(parameters)
    {
        _alpha = settings.Own.Number("alpha") ?? 0.99;
        _epsilon = settings.Epsilon(1e-8);
        _momentum = settings.Own.Number("momentum") ?? 0;
        _square = Remember("square_avg");
        _mean = settings.Own.Flag("centered") ?? false ? Remember("grad_avg") : null;
        _velocity = _momentum > 0 ? Remember("momentum_buffer") : null;
    }

    /// <inheritdoc/>
    protected override void Update(ParameterSlice slice, double rate, double weightDecay)
    {
        var gradient = slice.Gradient;
        if (weightDecay != 0)
        {
            gradient.add_(slice.Value, alpha: weightDecay);
        }

        var average = slice.Of(_square).mul_(_alpha).addcmul_(gradient, gradient, value: 1 - _alpha);
        if (_mean is not null)
        {
            var centre = slice.Of(_mean).mul_(_alpha).add_(gradient, alpha: 1 - _alpha);
            average = average.addcmul(centre, centre, value: -1);
        }

        var denominator = average.sqrt().add_(_epsilon);
        if (_velocity is null)
        {
            slice.Value.addcdiv_(gradient, denominator, value: -rate);
        }
        else
        {
            slice.Value.add_(slice.Of(_velocity).mul_(_momentum).addcdiv_(gradient, denominator, value: 1), alpha: -rate);
        }
    }
}

/// <summary>
/// Adagrad (Duchi et al. 2011) in torch's arithmetic: <c>lr_decay</c> (0), <c>eps</c> (1e-10), <c>initial_accumulator_value</c> (0).
/// </summary>
internal sealed class Adagrad : Optimizer
{
    private readonly double _rateDecay;
    private readonly double _epsilon;
    private readonly Tensor _sum;

    public Adagrad(FlatParameters parameters, OptimizerSettings settings)
        : base(parameters)
    {
        _rateDecay = settings.Own.Number("lr_decay") ?? 0;
        _epsilon = settings.Epsilon(1e-10);
        _sum = Remember("sum", settings.Own.Number("initial_accumulator_value") ?? 0);
    }

    /// <inheritdoc/>
    protected override void Update(ParameterSlice slice, double rate, double weightDecay)
    {
        var gradient = slice.Gradient;
        if (weightDecay != 0)
        {
            gradient.add_(slice.Value, alpha: weightDecay);
        }

        var denominator = slice.Of(_sum).addcmul_(gradient, gradient, value: 1).sqrt().add_(_epsilon);
        slice.Value.addcdiv_(gradient, denominator, value: -rate / (1 + ((StepCount - 1) * _rateDecay)));
    }
}
