using Peft.Models;
using static TorchSharp.torch;

namespace Peft.Training;

/// <summary>A parameter that a training changes.</summary>
/// <param name="Name">Its full name as PEFT has it, such as <c>base_model.model.…q_proj.lora_A.default.weight</c>.</param>
/// <param name="Parameter">The parameter.</param>
/// <param name="Module">The base's module it sits on, where there is one; tells a norm's parameters from others.</param>
public sealed record TrainedParameter(string Name, Parameter Parameter, Module? Module = null)
{
    /// <summary>What multiplies the change that it is a factor of.</summary>
    public double Scale { get; init; } = 1;
}

/// <summary>How a group of parameters is trained.</summary>
/// <param name="Rate">Initial learning rate.</param>
/// <param name="WeightDecay">Weight decay.</param>
public readonly record struct GroupSettings(double Rate, double WeightDecay);

/// <summary>A stretch of the flat buffers whose parameters are trained alike.</summary>
/// <param name="Settings">How.</param>
/// <param name="Offset">First element.</param>
/// <param name="Count">Number of elements.</param>
public readonly record struct ParameterGroup(GroupSettings Settings, long Offset, long Count);

/// <summary>A parameter's place in the flat buffers.</summary>
/// <param name="Trained">The parameter.</param>
/// <param name="Settings">How it is trained.</param>
/// <param name="Offset">First element.</param>
public sealed record FlatEntry(TrainedParameter Trained, GroupSettings Settings, long Offset)
{
    /// <summary>The parameter's weights: a view into <see cref="FlatParameters.Values"/>.</summary>
    public Tensor Value => Trained.Parameter.Data;

    /// <summary>The parameter's gradient: a view into <see cref="FlatParameters.Gradients"/>.</summary>
    public Tensor Gradient => Trained.Parameter.Gradient!;
}

/// <summary>
/// All trained parameters in one float32 buffer and all their gradients in another, so that clearing, measuring, clipping and
/// an optimiser's step are a handful of operators however many parameters there are. While it lives the parameters are views into it
/// that require gradients; when it is disposed each gets a tensor of its own again, in the type it had.
/// </summary>
public sealed class FlatParameters : IDisposable
{
    private readonly ScalarType[] _types;
    private readonly List<Tensor> _lowered = [];

    /// <summary>Moves parameters into the buffers.</summary>
    /// <param name="parameters">The parameters; one that appears twice counts once.</param>
    /// <param name="settings">How each is trained; those trained alike lie side by side.</param>
    /// <exception cref="PeftException"><c>NothingToTrain</c>: there are none.</exception>
    public FlatParameters(IEnumerable<TrainedParameter> parameters, Func<TrainedParameter, GroupSettings> settings)
    {
        var groups = parameters.DistinctBy(static trained => trained.Parameter, ReferenceEqualityComparer.Instance).GroupBy(settings).ToArray();
        var entries = new List<FlatEntry>();
        var stretches = new List<ParameterGroup>();
        long total = 0;
        foreach (var group in groups)
        {
            var start = total;
            foreach (var trained in group)
            {
                entries.Add(new FlatEntry(trained, group.Key, total));
                total += trained.Parameter.Count;
            }

            stretches.Add(new ParameterGroup(group.Key, start, total - start));
        }

        if (total == 0)
        {
            throw new PeftException("NothingToTrain", "The adapter has no parameter to train.")
            {
                RecommendedAction = "Make an adapter that targets at least one module.",
            };
        }

        Entries = entries;
        Groups = stretches;
        _types = [.. entries.Select(static entry => entry.Trained.Parameter.DataType)];
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        var device = entries[0].Value.device;
        Values = empty(total, ScalarType.Float32, device).DetachFromDisposeScope();
        Gradients = zeros(total, ScalarType.Float32, device).DetachFromDisposeScope();
        foreach (var entry in entries)
        {
            var parameter = entry.Trained.Parameter;
            var value = View(Values, entry);
            value.copy_(parameter.Data);
            parameter.Assign(value.requires_grad_(true));
            parameter.Gradient = View(Gradients, entry).DetachFromDisposeScope();
        }
    }

    /// <summary>The parameters in the order of the buffers.</summary>
    public IReadOnlyList<FlatEntry> Entries { get; }

    /// <summary>The stretches of parameters that are trained alike.</summary>
    public IReadOnlyList<ParameterGroup> Groups { get; }

    /// <summary>All weights, float32 [Count].</summary>
    public Tensor Values { get; }

    /// <summary>All gradients, float32 [Count].</summary>
    public Tensor Gradients { get; }

    /// <summary>Number of elements.</summary>
    public long Count => Groups[^1].Offset + Groups[^1].Count;

    /// <summary>Tells what caches a form of the weights that they have changed.</summary>
    public void MarkChanged()
    {
        foreach (var entry in Entries)
        {
            entry.Trained.Parameter.MarkChanged();
        }
    }

    /// <summary>
    /// Turns all weights to the type that the model computes in, by one operator, so that no pass does it for each of them; until <see cref="FreeLowered"/>.
    /// </summary>
    /// <param name="type">The model's type.</param>
    public void Lower(ScalarType type)
    {
        FreeLowered();
        if (type is not (ScalarType.BFloat16 or ScalarType.Float16))
        {
            return;
        }

        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        var all = Values.to(type).DetachFromDisposeScope();
        _lowered.Add(all);
        foreach (var entry in Entries)
        {
            _lowered.Add(View(all, entry).DetachFromDisposeScope());
            entry.Trained.Parameter.Lower(_lowered[^1]);
        }
    }

    /// <summary>Gives each parameter a tensor of its own again, and frees the buffers.</summary>
    public void Dispose()
    {
        if (Values.IsInvalid)
        {
            return;
        }

        FreeLowered();
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        for (var i = 0; i < Entries.Count; i++)
        {
            var parameter = Entries[i].Trained.Parameter;
            parameter.Gradient?.Dispose();
            parameter.Gradient = null;
            parameter.Assign(View(Values, Entries[i]).to(_types[i], copy: true));
        }

        Values.Dispose();
        Gradients.Dispose();
    }

    /// <summary>Frees what <see cref="Lower"/> made.</summary>
    public void FreeLowered()
    {
        foreach (var entry in Entries)
        {
            entry.Trained.Parameter.Lower(null);
        }

        _lowered.ForEach(static tensor => tensor.Dispose());
        _lowered.Clear();
    }

    private static Tensor View(Tensor buffer, FlatEntry entry) =>
        buffer.narrow(0, entry.Offset, entry.Trained.Parameter.Count).view([.. entry.Trained.Parameter.Shape]);
}
