using static TorchSharp.torch;

namespace Peft.Training.Optimizers;

/// <summary>Gradient descent with <c>momentum</c> (0), <c>dampening</c> (0) and <c>nesterov</c> (false), in torch's arithmetic.</summary>
internal sealed class Sgd : Optimizer
{
    private readonly double momentum;
    private readonly double dampening;
    private readonly bool nesterov;
    private readonly Tensor? velocity;

    public Sgd(FlatParameters parameters, OptimizerSettings settings)
        : base(parameters)
    {
        momentum = settings.Own.Number("momentum") ?? 0;
        dampening = settings.Own.Number("dampening") ?? 0;
        nesterov = settings.Own.Flag("nesterov") ?? false;
        velocity = momentum != 0 ? Remember("momentum_buffer") : null;
    }

    /// <inheritdoc/>
    protected override void Update(ParameterSlice slice, double rate, double weightDecay)
    {
        var direction = slice.Gradient;
        if (weightDecay != 0)
        {
            direction.add_(slice.Value, alpha: weightDecay);
        }

        if (velocity is not null)
        {
            // The first gradient enters the velocity undampened.
            var moving = slice.Of(velocity).mul_(momentum).add_(direction, alpha: StepCount == 1 ? 1 : 1 - dampening);
            direction = nesterov ? direction.add_(moving, alpha: momentum) : moving;
        }

        slice.Value.add_(direction, alpha: -rate);
    }
}
