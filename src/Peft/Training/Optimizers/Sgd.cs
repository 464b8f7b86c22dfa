using static TorchSharp.torch;

namespace Peft.Training.Optimizers;

/// <summary>Gradient descent with <c>momentum</c> (0), <c>dampening</c> (0) and <c>nesterov</c> (false), in torch's arithmetic.</summary>
internal sealed class Sgd : Optimizer
{
    private readonly double _momentum;
    private readonly double _dampening;
    private readonly bool _nesterov;
    private readonly Tensor? _velocity;

    public Sgd(FlatParameters parameters, OptimizerSettings settings)
        : base(parameters)
    {
        _momentum = settings.Own.Number("momentum") ?? 0;
        _dampening = settings.Own.Number("dampening") ?? 0;
        _nesterov = settings.Own.Flag("nesterov") ?? false;
        _velocity = _momentum != 0 ? Remember("momentum_buffer") : null;
    }

    /// <inheritdoc/>
    protected override void Update(ParameterSlice slice, double rate, double weightDecay)
    {
        var direction = slice.Gradient;
        if (weightDecay != 0)
        {
            direction.add_(slice.Value, alpha: weightDecay);
        }

        if (_velocity is not null)
        {
            // The first gradient enters the velocity undampened.
            var moving = slice.Of(_velocity).mul_(_momentum).add_(direction, alpha: StepCount == 1 ? 1 : 1 - _dampening);
            direction = _nesterov ? direction.add_(moving, alpha: _momentum) : moving;
        }

        slice.Value.add_(direction, alpha: -rate);
    }
}
