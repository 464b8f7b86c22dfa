using Peft.Models;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Adamss;

/// <summary>
/// AdaMSS on a model. Where it allocates, it measures after each step how much every cluster's factors matter, and from time to time lets the least important ones
/// stop learning, as PEFT does: they go on acting as they are.
/// </summary>
public sealed class AdamssAdapter(string name, AdamssConfig config) : LayerwiseAdapter(name, config)
{
    private readonly Dictionary<Parameter, (Tensor Mean, Tensor Spread)> _importance = [];
    private readonly HashSet<Parameter> _stopped = [];

    private AdamssConfig Settings => (AdamssConfig)Config;

    private IEnumerable<(string Key, Subspace Subspace)> Subspaces => Layers.SelectMany(static layer =>
        ((AdamssLayer)layer.Adapter).Subspaces.Select((subspace, i) => (FormattableString.Invariant($"{layer.Path}.{i}"), subspace)));

    /// <inheritdoc/>
    public override IReadOnlyList<AdapterParameter> Parameters() => _stopped.Count == 0
        ? base.Parameters()
        : [.. base.Parameters().Select(parameter => _stopped.Contains(parameter.Parameter) ? parameter with { Role = ParameterRole.Frozen } : parameter)];

    /// <summary>Clusters that go on learning after a step.</summary>
    /// <param name="step">Counted from 0, between the first and the last in which any of them stops.</param>
    public int Budget(int step)
    {
        var total = Subspaces.Count();
        var left = 1 - ((step - Settings.InitialWarmup) / (double)(Settings.FinalWarmup - Settings.InitialWarmup));
        return (int)(Settings.TargetSubspaces + ((total - Settings.TargetSubspaces) * Math.Pow(Math.Clamp(left, 0, 1), Settings.ScheduleExponent)));
    }

    /// <inheritdoc/>
    public override void OnTraining(int steps)
    {
        Forget();
        _stopped.Clear();
    }

    /// <inheritdoc/>
    public override bool OnStepped(int step)
    {
        if (!Settings.Allocates || step < Settings.InitialWarmup || step > Settings.FinalWarmup)
        {
            return false;
        }

        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        foreach (var (_, subspace) in Subspaces.Where(entry => !_stopped.Contains(entry.Subspace.A)))
        {
            Measure(subspace.A);
            Measure(subspace.B);
        }

        if (step % Settings.ChoiceInterval != 0)
        {
            return false;
        }

        var stopped = Stop(Budget(step));
        Forget();
        return stopped;
    }

    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, Tensor> State()
    {
        Dictionary<string, Tensor> state = [];
        foreach (var (key, parameter) in Factors())
        {
            if (_importance.TryGetValue(parameter, out var own))
            {
                (state[$"{key}.importance"], state[$"{key}.uncertainty"]) = own;
            }

            if (_stopped.Contains(parameter))
            {
                state[$"{key}.stopped"] = tensor(1L);
            }
        }

        return state;
    }

    /// <inheritdoc/>
    public override void LoadState(IReadOnlyDictionary<string, Tensor> state)
    {
        ArgumentNullException.ThrowIfNull(state);
        Forget();
        _stopped.Clear();
        foreach (var (key, parameter) in Factors())
        {
            if (state.TryGetValue($"{key}.importance", out var mean) && state.TryGetValue($"{key}.uncertainty", out var spread))
            {
                _importance[parameter] = (Own(mean.to(Device)), Own(spread.to(Device)));
            }

            if (state.ContainsKey($"{key}.stopped"))
            {
                _stopped.Add(parameter);
            }
        }
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        Forget();
        base.Dispose(disposing);
    }

    private IEnumerable<(string Key, Parameter Parameter)> Factors() =>
        Subspaces.SelectMany(static entry => ((string, Parameter)[])[($"{entry.Key}.A", entry.Subspace.A), ($"{entry.Key}.B", entry.Subspace.B)]);

    /// <summary>A weight matters by |w · gradient|, and the more, the more that varies.</summary>
    private void Measure(Parameter parameter)
    {
        if (!_importance.TryGetValue(parameter, out var own))
        {
            own = _importance[parameter] = (Own(zeros_like(parameter.Data)), Own(zeros_like(parameter.Data)));
        }

        var now = parameter.Data.mul(parameter.Gradient!).abs_();
        own.Spread.mul_(Settings.UncertaintyBeta).add_(now.sub(own.Mean).abs_(), alpha: 1 - Settings.UncertaintyBeta);
        own.Mean.mul_(Settings.ImportanceBeta).add_(now, alpha: 1 - Settings.ImportanceBeta);
    }

    /// <summary>Of those that still learn all stop that don't matter more than the last one that the budget has room for, that one among them.</summary>
    private bool Stop(int budget)
    {
        Subspace[] learning = [.. Subspaces.Select(static entry => entry.Subspace).Where(subspace => !_stopped.Contains(subspace.A))];
        if (budget >= learning.Length)
        {
            return false;
        }

        var scores = stack([.. learning.Select(subspace => Score(subspace.A) + Score(subspace.B))]).cpu().data<float>().ToArray();
        var threshold = scores.OrderDescending().ElementAt(budget - 1);
        foreach (var (subspace, _) in learning.Zip(scores).Where(entry => !(entry.Second > threshold)))
        {
            _stopped.Add(subspace.A);
            _stopped.Add(subspace.B);
        }

        return true;
    }

    private Tensor Score(Parameter parameter) => (_importance[parameter].Mean * _importance[parameter].Spread).mean();

    private void Forget()
    {
        foreach (var (mean, spread) in _importance.Values)
        {
            mean.Dispose();
            spread.Dispose();
        }

        _importance.Clear();
    }

    private static Tensor Own(Tensor tensor) => tensor.clone().DetachFromDisposeScope();
}
