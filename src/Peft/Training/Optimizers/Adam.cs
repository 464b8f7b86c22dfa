using static TorchSharp.torch;

namespace Peft.Training.Optimizers;

/// <summary>
/// The moments that Adam and its relatives keep, and the decay they share: added to the gradient (<c>decoupled_weight_decay</c> false, their default),
/// or taken from the weights.
/// </summary>
internal abstract class MomentOptimizer : Optimizer
{
    private readonly bool _decoupled;
    private readonly Tensor _mean;
    private readonly Tensor _square;

    protected MomentOptimizer(FlatParameters parameters, OptimizerSettings settings)
        : base(parameters)
    {
        (Beta1, Beta2) = settings.Betas;
        Epsilon = settings.Epsilon(settings.Training.Epsilon);
        _decoupled = settings.Own.Flag("decoupled_weight_decay") ?? false;
        _mean = Remember("exp_avg");
        _square = Remember("exp_avg_sq");
    }

    /// <summary>Decay of the first moment.</summary>
    protected double Beta1 { get; }

    /// <summary>Decay of the second moment.</summary>
    protected double Beta2 { get; }

    /// <summary>Added to the denominator.</summary>
    protected double Epsilon { get; }

    /// <inheritdoc/>
    protected override void Update(ParameterSlice slice, double rate, double weightDecay)
    {
        var gradient = slice.Gradient;
        if (weightDecay != 0 && _decoupled)
        {
            slice.Value.mul_(1 - (rate * weightDecay));
        }
        else if (weightDecay != 0)
        {
            gradient.add_(slice.Value, alpha: weightDecay);
        }

        var first = slice.Of(_mean).mul_(Beta1).add_(gradient, alpha: 1 - Beta1);
        var second = slice.Of(_square).mul_(Beta2).addcmul_(gradient, gradient, value: 1 - Beta2);
        Move(slice, first, second, rate);
    }

    /// <summary>Changes the weights of a slice by its moments, which must stay as they are.</summary>
    protected abstract void Move(ParameterSlice slice, Tensor first, Tensor second, double rate);
}

/// <summary>Adam (Kingma and Ba 2015) in torch's arithmetic.</summary>
internal sealed class Adam(FlatParameters parameters, OptimizerSettings settings) : MomentOptimizer(parameters, settings)
{
    /// <inheritdoc/>
    protected override void Move(ParameterSlice slice, Tensor first, Tensor second, double rate)
    {
        var denominator = second.sqrt().mul_(1 / Math.Sqrt(1 - Math.Pow(Beta2, StepCount))).add_(Epsilon);
        slice.Value.addcdiv_(first, denominator, value: -rate / (1 - Math.Pow(Beta1, StepCount)));
    }
}

/// <summary>Adam with Nesterov's momentum (Dozat 2016) in torch's arithmetic; <c>momentum_decay</c> is 4e-3.</summary>
internal sealed class NAdam : MomentOptimizer
{
    private readonly double _momentumDecay;

    public NAdam(FlatParameters parameters, OptimizerSettings settings)
        : base(parameters, settings) => _momentumDecay = settings.Own.Number("momentum_decay") ?? 4e-3;

    /// <inheritdoc/>
    protected override void Move(ParameterSlice slice, Tensor first, Tensor second, double rate)
    {
        double product = 1;
        for (var step = 1; step <= StepCount; step++)
        {
            product *= Momentum(step);
        }

        var (now, next) = (Momentum(StepCount), Momentum(StepCount + 1));
        var denominator = second.div(1 - Math.Pow(Beta2, StepCount)).sqrt_().add_(Epsilon);
        slice.Value.addcdiv_(slice.Gradient, denominator, value: -rate * (1 - now) / (1 - product));
        slice.Value.addcdiv_(first, denominator, value: -rate * next / (1 - (product * next)));
    }

    private double Momentum(int step) => Beta1 * (1 - (0.5 * Math.Pow(0.96, step * _momentumDecay)));
}

/// <summary>Adam whose rate is rectified while the second moment is young (Liu et al. 2020), in torch's arithmetic.</summary>
internal sealed class RAdam(FlatParameters parameters, OptimizerSettings settings) : MomentOptimizer(parameters, settings)
{
    /// <inheritdoc/>
    protected override void Move(ParameterSlice slice, Tensor first, Tensor second, double rate)
    {
        var power = Math.Pow(Beta2, StepCount);
        var step = rate / (1 - Math.Pow(Beta1, StepCount));
        var longest = (2 / (1 - Beta2)) - 1;
        var length = longest - (2 * StepCount * power / (1 - power));
        if (length <= 5)
        {
            slice.Value.add_(first, alpha: -step);
            return;
        }

        var rectification = Math.Sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length));
        slice.Value.addcdiv_(first, second.sqrt().add_(Epsilon), value: -step * rectification * Math.Sqrt(1 - power));
    }
}
