using Peft.Training.Checkpoints;
using static TorchSharp.torch;

namespace Peft.Training;

/// <summary>The weights as they were at the best evaluation, which a training that keeps them ends with.</summary>
internal sealed class BestWeights : IDisposable
{
    private readonly Dictionary<string, Tensor> _weights;

    private BestWeights(int step, Dictionary<string, Tensor> weights)
    {
        (Step, _weights) = (step, weights);
    }

    /// <summary>Steps made before the evaluation.</summary>
    public int Step { get; }

    /// <summary>Copies weights.</summary>
    /// <param name="step">Steps made.</param>
    /// <param name="trained">What is trained.</param>
    public static BestWeights Of(int step, IEnumerable<TrainedParameter> trained)
    {
        using var noGrad = no_grad();
        return new BestWeights(step, trained.ToDictionary(static entry => entry.Name, static entry => entry.Parameter.Data.detach().clone().DetachFromDisposeScope(), StringComparer.Ordinal));
    }

    /// <summary>Reads what a checkpoint holds.</summary>
    /// <param name="step">Steps made.</param>
    /// <param name="folder">The checkpoint.</param>
    /// <returns>The weights; null where it is damaged or gone.</returns>
    public static BestWeights? Read(int step, string folder) => TrainingState.ReadWeights(folder) is { } weights ? new BestWeights(step, weights) : null;

    /// <summary>Puts the weights in place of those there are.</summary>
    public void Restore(IEnumerable<TrainedParameter> trained)
    {
        using var noGrad = no_grad();
        foreach (var entry in trained.Where(entry => _weights.ContainsKey(entry.Name)))
        {
            entry.Parameter.Data.copy_(_weights[entry.Name].view_as(entry.Parameter.Data));
            entry.Parameter.MarkChanged();
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (var weights in _weights.Values)
        {
            weights.Dispose();
        }
    }
}
