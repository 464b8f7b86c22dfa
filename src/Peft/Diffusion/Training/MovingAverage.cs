using static TorchSharp.torch;

namespace Peft.Diffusion.Training;

/// <summary>
/// An exponential moving average of weights, which makes better pictures than the weights of the last step: average ← decay · average + (1 - decay) · weights.
/// The decay rises from 0, as (1 + step) / (10 + step) or, with a warm-up, as 1 - (1 + step / γ)^(-power).
/// </summary>
public sealed class MovingAverage : IDisposable
{
    private readonly double _decay;
    private readonly (double Gamma, double Power)? _warmup;
    private readonly Tensor[] _averages;

    /// <summary>Starts with the weights as they are.</summary>
    /// <param name="weights">The weights.</param>
    /// <param name="decay">The most that the decay rises to.</param>
    /// <param name="warmup">γ and power of the warm-up; null for none.</param>
    public MovingAverage(IEnumerable<Tensor> weights, double decay = 0.9999, (double Gamma, double Power)? warmup = null)
    {
        ArgumentNullException.ThrowIfNull(weights);
        (_decay, _warmup) = (decay, warmup);
        using var noGrad = no_grad();
        _averages = [.. weights.Select(static weight => weight.detach().clone().DetachFromDisposeScope())];
    }

    /// <summary>The averages, in the order of the weights.</summary>
    public IReadOnlyList<Tensor> Averages => _averages;

    /// <summary>Updates made so far.</summary>
    public int Updates { get; private set; }

    /// <summary>The decay of the last update.</summary>
    public double Decay
    {
        get
        {
            var step = Updates - 1;
            return step <= 0 ? 0 : Math.Min(_decay, _warmup is { } rise ? 1 - Math.Pow(1 + (step / rise.Gamma), -rise.Power) : (1.0 + step) / (10 + step));
        }
    }

    /// <summary>Takes the weights as they are now into the averages.</summary>
    /// <param name="weights">The weights, in the same order.</param>
    public void Update(IEnumerable<Tensor> weights)
    {
        Updates++;
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        foreach (var (average, weight) in _averages.Zip(weights))
        {
            average.add_(weight.sub(average), 1 - Decay);
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (var average in _averages)
        {
            average.Dispose();
        }
    }
}
