using Peft.Models;
using static TorchSharp.torch;

namespace Peft.Training;

/// <summary>What a preference objective compares the trained model with.</summary>
public enum ReferenceKind
{
    /// <summary>The base model with the adapter off: right for a new adapter, which begins there.</summary>
    Base,

    /// <summary>The model as it is when the training begins, from a frozen copy of what is trained: right for an adapter that has learnt before.</summary>
    Start,
}

/// <summary>A model that doesn't learn, beside the one that does, in the same weights.</summary>
internal sealed class ReferenceModel : IDisposable
{
    private readonly (TrainedParameter Trained, Tensor Weights)[] _frozen;

    /// <summary>Makes a reference.</summary>
    /// <param name="kind">What it is.</param>
    /// <param name="trained">What will be trained; copied now where the kind asks for it.</param>
    public ReferenceModel(ReferenceKind kind, IEnumerable<TrainedParameter> trained)
    {
        _frozen = kind == ReferenceKind.Base ? [] : [.. trained.Select(static entry => (entry, entry.Parameter.Data.detach().to(ScalarType.Float32, copy: true).DetachFromDisposeScope()))];
        IsBase = kind == ReferenceKind.Base;
    }

    /// <summary>The frozen weights by name, for a checkpoint: a training that goes on is compared with what the first one began with.</summary>
    public IEnumerable<(string Name, Tensor Weights)> State => _frozen.Select(static entry => (entry.Trained.Name, entry.Weights));

    private bool IsBase { get; }

    /// <summary>Runs a pass that neither learns nor drops anything out.</summary>
    /// <param name="context">The pass of the model that is trained.</param>
    /// <param name="pass">The pass.</param>
    public Tensor Run(ForwardContext context, Func<ForwardContext, Tensor> pass)
    {
        context = context with { Tape = null, IsTraining = false, Selection = IsBase ? AdapterSelection.Base : context.Selection };
        Exchange();
        try
        {
            return pass(context);
        }
        finally
        {
            Exchange();
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (var (_, weights) in _frozen)
        {
            weights.Dispose();
        }
    }

    /// <summary>The frozen weights take the place of the trained ones, and the other way round.</summary>
    private void Exchange()
    {
        using var noGrad = no_grad();
        foreach (var (trained, weights) in _frozen)
        {
            using var current = trained.Parameter.Data.clone();
            trained.Parameter.Data.copy_(weights);
            weights.copy_(current);
            trained.Parameter.MarkChanged();
        }
    }
}
