using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Training.Optimizers;

/// <summary>
/// Schedule-free AdamW (Defazio et al. 2024, "The Road Less Scheduled"): a base sequence z takes Adam's steps, x is its running mean, weighted by the square of the highest rate so far, and gradients
/// are taken at y = (1 - β1) z + β1 x, which the weights are while training goes on. Evaluations and results are of x. The rate stays where it is highest: a schedule counts as far as
/// its warm-up goes. Its own options are <c>r</c> (the power of the step's number in the weights; default 0) and <c>weight_lr_power</c> (that of the rate; default 2).
/// </summary>
internal sealed class ScheduleFree : Optimizer
{
    private readonly double _beta1;
    private readonly double _beta2;
    private readonly double _epsilon;
    private readonly double _power;
    private readonly double _ratePower;
    private readonly Tensor _base;
    private readonly Tensor _square;

    // The highest factor and the sum of weights, each as a float32 and what it leaves, so that a checkpoint holds them whole.
    private readonly Tensor _sums;
    private double _highest;
    private double _total;
    private double _share;
    private int _known;

    public ScheduleFree(FlatParameters parameters, OptimizerSettings settings)
        : base(parameters)
    {
        (_beta1, _beta2) = settings.Betas;
        _epsilon = settings.Epsilon(settings.Training.Epsilon);
        _power = settings.Own.Number("r") ?? 0;
        _ratePower = settings.Own.Number("weight_lr_power") ?? 2;
        settings.Own.Require(_beta1 > 0, "betas", "above 0 at first");
        using var noGrad = no_grad();
        _base = Remember("z").copy_(parameters.Values);
        _square = Remember("exp_avg_sq");
        _sums = Remember("sums", 0, 4);
    }

    /// <inheritdoc/>
    public override IReadOnlyList<double> Rates(double factor) => base.Rates(Math.Max(factor, _highest));

    /// <inheritdoc/>
    public override IDisposable Evaluating()
    {
        using var noGrad = no_grad();
        var kept = Parameters.Values.clone().DetachFromDisposeScope();
        Finish();
        return new Return(this, kept);
    }

    /// <inheritdoc/>
    public override void Finish()
    {
        using var noGrad = no_grad();
        if (StepCount > 0)
        {
            Parameters.Values.lerp_(_base, 1 - (1 / _beta1));
            Parameters.MarkChanged();
        }
    }

    /// <inheritdoc/>
    protected override void Update(double factor)
    {
        if (_known != StepCount - 1)
        {
            // A checkpoint was taken up.
            var sums = _sums.cpu().data<float>().ToArray();
            (_highest, _total) = ((double)sums[0] + sums[1], (double)sums[2] + sums[3]);
        }

        _known = StepCount;
        _highest = Math.Max(_highest, factor);
        var weight = Math.Pow(StepCount, _power) * Math.Pow(_highest, _ratePower);
        _total += weight;
        _share = _total > 0 ? weight / _total : 0;
        float highest = (float)_highest, total = (float)_total;
        _sums.copy_(tensor(new[] { highest, (float)(_highest - highest), total, (float)(_total - total) }));
        base.Update(_highest);
    }

    /// <inheritdoc/>
    protected override void Update(ParameterSlice slice, double rate, double weightDecay)
    {
        var (weights, gradient, origin) = (slice.Value, slice.Gradient, slice.Of(_base));
        var second = slice.Of(_square).mul_(_beta2).addcmul_(gradient, gradient, value: 1 - _beta2);
        var step = gradient.div_(second.div(1 - Math.Pow(_beta2, StepCount)).sqrt_().add_(_epsilon));
        if (weightDecay != 0)
        {
            step.add_(weights, alpha: weightDecay);
        }

        weights.lerp_(origin, _share).add_(step, alpha: rate * ((_beta1 * (1 - _share)) - 1));
        origin.sub_(step.mul_(rate));
    }

    private sealed class Return(ScheduleFree optimizer, Tensor kept) : IDisposable
    {
        public void Dispose()
        {
            using var noGrad = no_grad();
            optimizer.Parameters.Values.copy_(kept);
            optimizer.Parameters.MarkChanged();
            kept.Dispose();
        }
    }
}
