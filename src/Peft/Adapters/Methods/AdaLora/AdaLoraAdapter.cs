using System.Text.Json.Nodes;
using Peft.Models;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.AdaLora;

/// <summary>
/// AdaLoRA on a model: after each step it measures how much every triplet matters, and zeroes the least important ones beyond the budget, as PEFT does.
/// A zeroed triplet goes on being trained and may come back with the next pruning; the last one is for good.
/// </summary>
public sealed class AdaLoraAdapter(string name, AdaLoraConfig config) : LayerwiseAdapter(name, config)
{
    private readonly Dictionary<Parameter, (Tensor Mean, Tensor Spread)> _importance = [];
    private (Tensor Mean, Tensor Spread)? _all;
    private bool[][]? _kept;

    /// <summary>The configuration.</summary>
    internal new AdaLoraConfig Config
    {
        get => (AdaLoraConfig)base.Config;
        private set => base.Config = value;
    }

    /// <summary>PEFT counts the number of ranks of each layer as a parameter.</summary>
    public override long UntrainedCount => Layers.Count;

    private IEnumerable<AdaLoraLayer> Triplets => Layers.Select(static layer => (AdaLoraLayer)layer.Adapter);

    /// <summary>Triplets that are left after a step.</summary>
    /// <param name="step">Counted from 0.</param>
    public int Budget(int step)
    {
        var (initial, target) = (Triplets.Sum(static layer => (int)layer.E.Count), Config.TargetRank * Layers.Count);
        var end = Config.TotalSteps!.Value - Config.FinalSteps;
        if (step <= Config.WarmupSteps)
        {
            return initial;
        }

        var left = 1 - ((step - Config.WarmupSteps) / (double)(end - Config.WarmupSteps));
        return step > end ? target : (int)(((initial - target) * Math.Pow(left, 3)) + target);
    }

    /// <inheritdoc/>
    public override Tensor Loss(Tensor loss, ForwardContext pass)
    {
        ArgumentNullException.ThrowIfNull(loss);
        ArgumentNullException.ThrowIfNull(pass);
        return pass.Tape is { } tape
            ? tape.Autograd(inputs => WithOrthogonality(inputs[0]), [loss], [.. Triplets.SelectMany(static layer => (Parameter[])[layer.A, layer.B])])
            : WithOrthogonality(loss);
    }

    /// <inheritdoc/>
    public override void OnTraining(int steps)
    {
        Config = Config with { TotalSteps = Config.TotalSteps ?? steps };
        Config.RefuseSchedule(Config.TotalSteps!.Value);
        Forget();
        _kept = null;
    }

    /// <inheritdoc/>
    public override bool OnStepped(int step)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        var end = Config.TotalSteps!.Value - Config.FinalSteps;
        if (step < end)
        {
            Measure();
        }

        if (step == end || (step < end && step > Config.WarmupSteps && step % Config.PruningInterval == 0))
        {
            Choose(Budget(step));
            Prune();
        }
        else if (step > end)
        {
            Prune();
        }

        if (step == end)
        {
            Forget();
        }

        // What is trained stays the same: the optimiser goes on with its moments, as the peer's.
        return false;
    }

    /// <inheritdoc/>
    public override void OnSaving()
    {
        if (_kept is null)
        {
            return;
        }

        var pattern = new JsonObject();
        for (var i = 0; i < Layers.Count; i++)
        {
            // A layer that was pruned before it was loaded has its left ranks alone; the pattern counts those it began with.
            var path = Layers[i].Layer.Path;
            var before = config.Kept(path) ?? [.. _kept[i].Select(static _ => true)];
            var next = 0;
            pattern[AdaLoraConfig.KeyOf(path)] = new JsonArray([.. before.Select(was => JsonValue.Create(was && _kept[i][next++]))]);
        }

        Config = Config with { RankPattern = pattern };
    }

    /// <inheritdoc/>
    public override Tensor Saved(Parameter parameter)
    {
        for (var i = 0; i < Layers.Count && _kept is not null; i++)
        {
            var layer = (AdaLoraLayer)Layers[i].Adapter;
            if (parameter == layer.A || parameter == layer.B || parameter == layer.E)
            {
                using var noGradients = no_grad();
                using var indices = tensor(Enumerable.Range(0, _kept[i].Length).Where(rank => _kept[i][rank]).Select(static rank => (long)rank).ToArray(), device: parameter.Data.device);
                return parameter.Data.index_select(parameter == layer.B ? 1 : 0, indices);
            }
        }

        return base.Saved(parameter);
    }

    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, Tensor> State()
    {
        Dictionary<string, Tensor> state = [];
        for (var i = 0; i < Layers.Count; i++)
        {
            foreach (var entry in Layers[i].Adapter.Parameters.Where(entry => _importance.ContainsKey(entry.Parameter)))
            {
                var key = $"{Layers[i].Layer.Path}.{entry.Key}";
                (state[$"{key}.importance"], state[$"{key}.uncertainty"]) = _importance[entry.Parameter];
            }

            if (_kept is not null)
            {
                state[$"{Layers[i].Layer.Path}.kept"] = tensor(_kept[i].Select(static rank => rank ? 1L : 0L).ToArray());
            }
        }

        return state;
    }

    /// <inheritdoc/>
    public override void LoadState(IReadOnlyDictionary<string, Tensor> state)
    {
        ArgumentNullException.ThrowIfNull(state);
        Forget();
        foreach (var (layer, adapter) in Layers)
        {
            foreach (var entry in adapter.Parameters)
            {
                if (state.TryGetValue($"{layer.Path}.{entry.Key}.importance", out var mean) && state.TryGetValue($"{layer.Path}.{entry.Key}.uncertainty", out var spread))
                {
                    _importance[entry.Parameter] = (Own(mean.to(Device)), Own(spread.to(Device)));
                }
            }
        }

        _kept = Layers.Count > 0 && Layers.All(layer => state.ContainsKey($"{layer.Layer.Path}.kept"))
            ? [.. Layers.Select(layer => state[$"{layer.Layer.Path}.kept"].cpu().data<long>().Select(static rank => rank != 0).ToArray())]
            : null;
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        Forget();
        base.Dispose(disposing);
    }

    /// <summary>Factors of one shape have their products formed together: they are small and many.</summary>
    private Tensor WithOrthogonality(Tensor loss) => loss
        + (Triplets.SelectMany(static layer => new[] { layer.A.Data, layer.B.Data.t() }).GroupBy(static factor => (factor.shape[0], factor.shape[1]))
            .Select(static group => Skewness(stack(group.ToArray(), 0))).Aggregate(static (sum, term) => sum + term)
            * (Config.OrthogonalityWeight / (2 * Layers.Count)));

    /// <summary>Distance of matrices from orthogonal: their Frobenius norms, added.</summary>
    /// <param name="factors">[matrices, rank, width].</param>
    private static Tensor Skewness(Tensor factors) => factors.bmm(factors.transpose(1, 2))
        .sub(eye(factors.shape[1], dtype: factors.dtype, device: factors.device)).flatten(1).norm(1).sum();

    /// <summary>A weight matters by |w · gradient|, and the more, the more that varies (sensitivity and uncertainty, smoothed over steps).</summary>
    private void Measure()
    {
        Parameter[] parameters = [.. Triplets.SelectMany(static layer => layer.Parameters).Select(static entry => entry.Parameter)];
        var (mean, spread) = _all ??= Remembered(parameters);
        var now = cat([.. parameters.Select(static parameter => parameter.Data.reshape(-1))], 0).mul_(cat([.. parameters.Select(static parameter => parameter.Gradient!.reshape(-1))], 0)).abs_();
        mean.mul_(Config.Beta1).add_(now, alpha: 1 - Config.Beta1);
        spread.mul_(Config.Beta2).add_(now.sub_(mean).abs_(), alpha: 1 - Config.Beta2);
    }

    /// <summary>What is remembered of all parameters in one row, and of each as a part of it, so that a step takes a few operations, not some for each.</summary>
    private (Tensor Mean, Tensor Spread) Remembered(Parameter[] parameters)
    {
        var count = parameters.Sum(static parameter => parameter.Count);
        var (means, spreads) = (Own(zeros([count], device: Device)), Own(zeros([count], device: Device)));
        long start = 0;
        foreach (var parameter in parameters)
        {
            var own = (Mean: Part(means, start, parameter), Spread: Part(spreads, start, parameter));
            if (_importance.TryGetValue(parameter, out var past))
            {
                own.Mean.copy_(past.Mean);
                own.Spread.copy_(past.Spread);
                past.Mean.Dispose();
                past.Spread.Dispose();
            }

            _importance[parameter] = own;
            start += parameter.Count;
        }

        return (means, spreads);
    }

    private static Tensor Part(Tensor all, long start, Parameter parameter) => all.narrow(0, start, parameter.Count).view([.. parameter.Shape]).DetachFromDisposeScope();

    /// <summary>Importance of each triplet of a layer: its own entry's, and the means of its row of A and its column of B.</summary>
    private Tensor Scores(AdaLoraLayer layer) => Score(layer.E).view(-1) + (Score(layer.A).mean([1]) + Score(layer.B).mean([0]));

    private Tensor Score(Parameter parameter) => _importance[parameter].Mean * _importance[parameter].Spread;

    /// <summary>Marks what is left: everything above the score of the last triplet that the budget has no room for.</summary>
    private void Choose(int budget)
    {
        float[][] scores = [.. Triplets.Select(layer => Scores(layer).cpu().data<float>().ToArray())];
        float[] all = [.. scores.SelectMany(static some => some).Order()];
        var surplus = all.Length - budget;
        var threshold = surplus > 0 ? all[surplus - 1] : float.NegativeInfinity;
        _kept = [.. scores.Select(some => some.Select(score => score > threshold).ToArray())];
    }

    private void Prune()
    {
        for (var i = 0; i < Layers.Count && _kept is not null; i++)
        {
            var entries = ((AdaLoraLayer)Layers[i].Adapter).E;
            using var mask = tensor(_kept[i].Select(static rank => rank ? 1f : 0f).ToArray(), device: entries.Data.device).view(-1, 1);
            entries.Data.mul_(mask);
            entries.MarkChanged();
        }
    }

    private void Forget()
    {
        foreach (var (mean, spread) in _importance.Values)
        {
            mean.Dispose();
            spread.Dispose();
        }

        _importance.Clear();
        _all?.Mean.Dispose();
        _all?.Spread.Dispose();
        _all = null;
    }

    private static Tensor Own(Tensor tensor) => tensor.clone().DetachFromDisposeScope();
}
