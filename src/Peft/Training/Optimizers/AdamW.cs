using static TorchSharp.torch;

namespace Peft.Training.Optimizers;

/// <summary>
/// Adam with decoupled weight decay (Loshchilov and Hutter 2019), in torch's arithmetic; with <c>amsgrad</c> the denominator
/// never shrinks (Reddi et al. 2018).
/// </summary>
internal class AdamW : Optimizer
{
    private readonly double beta1;
    private readonly double beta2;
    private readonly double epsilon;
    private readonly Tensor mean;
    private readonly Tensor square;
    private readonly Tensor? largest;
    private readonly Tensor work;

    public AdamW(FlatParameters parameters, OptimizerSettings settings)
        : base(parameters)
    {
        (beta1, beta2) = settings.Betas;
        epsilon = settings.Epsilon(settings.Training.Epsilon);
        mean = Remember("exp_avg");
        square = Remember("exp_avg_sq");
        largest = settings.Own.Flag("amsgrad") ?? false ? Remember("max_exp_avg_sq") : null;
        work = empty_like(mean).DetachFromDisposeScope();
    }

    /// <inheritdoc/>
    protected override void Update(ParameterSlice slice, double rate, double weightDecay)
    {
        var gradient = slice.Gradient;
        if (weightDecay != 0)
        {
            slice.Value.mul_(1 - (rate * weightDecay));
        }

        var first = slice.Of(mean).mul_(beta1).add_(gradient, alpha: 1 - beta1);
        var second = slice.Of(square).mul_(beta2).addcmul_(gradient, gradient, value: 1 - beta2);
        if (largest is not null)
        {
            var kept = slice.Of(largest);
            second = kept.copy_(maximum(kept, second));
        }

        var correction1 = 1 - Math.Pow(beta1, StepCount);
        var correction2 = 1 - Math.Pow(beta2, StepCount);
        var denominator = slice.Of(work).copy_(second).sqrt_().mul_(1 / Math.Sqrt(correction2)).add_(epsilon);
        slice.Value.addcdiv_(first, denominator, value: -rate / correction1);
    }

    /// <inheritdoc/>
    protected override void Release() => work.Dispose();
}
