using static TorchSharp.torch;

namespace Peft.Training.Optimizers;

/// <summary>
/// Adam with decoupled weight decay (Loshchilov and Hutter 2019), in torch's arithmetic; with <c>amsgrad</c> the denominator
/// never shrinks (Reddi et al. 2018).
/// </summary>
internal class AdamW : Optimizer
{
    private readonly double _beta1;
    private readonly double _beta2;
    private readonly double _epsilon;
    private readonly Tensor _mean;
    private readonly Tensor _square;
    private readonly Tensor? _largest;
    private readonly Tensor _work;

    public AdamW(FlatParameters parameters, OptimizerSettings settings)
        : base(parameters)
    {
        (_beta1, _beta2) = settings.Betas;
        _epsilon = settings.Epsilon(settings.Training.Epsilon);
        _mean = Remember("exp_avg");
        _square = Remember("exp_avg_sq");
        _largest = settings.Own.Flag("amsgrad") ?? false ? Remember("max_exp_avg_sq") : null;
        _work = empty_like(_mean).DetachFromDisposeScope();
    }

    /// <inheritdoc/>
    protected override void Update(ParameterSlice slice, double rate, double weightDecay)
    {
        var gradient = slice.Gradient;
        if (weightDecay != 0)
        {
            slice.Value.mul_(1 - (rate * weightDecay));
        }

        var first = slice.Of(_mean).mul_(_beta1).add_(gradient, alpha: 1 - _beta1);
        var second = slice.Of(_square).mul_(_beta2).addcmul_(gradient, gradient, value: 1 - _beta2);
        if (_largest is not null)
        {
            var kept = slice.Of(_largest);
            second = kept.copy_(maximum(kept, second));
        }

        var correction1 = 1 - Math.Pow(_beta1, StepCount);
        var correction2 = 1 - Math.Pow(_beta2, StepCount);
        var denominator = slice.Of(_work).copy_(second).sqrt_().mul_(1 / Math.Sqrt(correction2)).add_(_epsilon);
        slice.Value.addcdiv_(first, denominator, value: -rate / correction1);
    }

    /// <inheritdoc/>
    protected override void Release() => _work.Dispose();
}
