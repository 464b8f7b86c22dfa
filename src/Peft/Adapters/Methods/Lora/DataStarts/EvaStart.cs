using System.Globalization;
using System.Text.Json.Serialization;
using Peft.Adapters.Targets;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Lora.DataStarts;

/// <summary>Settings of the start <c>eva</c>.</summary>
/// <param name="Rho">How many times its rank a layer may get where ranks are dealt out by what they explain; 1 keeps the ranks.</param>
/// <param name="Tau">Cosine with the batch before from which a direction has settled.</param>
/// <param name="OnlyLearnt">Whether tokens on which nothing is learnt are left out.</param>
/// <param name="MaskedLabel">The label of those; only PEFT's own, -100, has a meaning here.</param>
/// <param name="Whiten">Whether directions are divided by the root of their strength.</param>
/// <param name="AdjustsStrength">Whether alpha follows the rank of a layer whose rank changed.</param>
public sealed record EvaSettings(
    [property: JsonPropertyName("rho")] double Rho = 2,
    [property: JsonPropertyName("tau")] double Tau = 0.99,
    [property: JsonPropertyName("use_label_mask")] bool OnlyLearnt = true,
    [property: JsonPropertyName("label_mask_value")] int MaskedLabel = -100,
    [property: JsonPropertyName("whiten")] bool Whiten = false,
    [property: JsonPropertyName("adjust_scaling_factors")] bool AdjustsStrength = true)
{
    /// <summary>Refuses what makes no sense.</summary>
    /// <exception cref="PeftException"><c>AdapterConfigContradictory</c>.</exception>
    internal void Validate()
    {
        if (!(Rho >= 1) || !(Tau is >= 0 and <= 1))
        {
            throw new PeftException("AdapterConfigContradictory", string.Create(CultureInfo.InvariantCulture, $"eva_config has rho {Rho} and tau {Tau}; rho is at least 1, tau from 0 to 1.")) { Target = "eva_config" };
        }
    }
}

/// <summary>
/// EVA (Paischer et al. 2024): A is the directions in which a layer's inputs vary most, and the ranks of all layers are dealt out by how much each direction explains.
/// The batches are gone through again and again until the directions that count have settled.
/// </summary>
internal sealed class EvaStart
{
    /// <summary>Times that the data is gone through at most.</summary>
    private const int MostRounds = 100;

    private readonly StartRun _run;
    private readonly EvaSettings _settings;
    private readonly Dictionary<IAdaptable, IAdaptable> _leaders;
    private readonly Dictionary<IAdaptable, int> _most;
    private readonly Dictionary<IAdaptable, IncrementalComponents> _components;
    private readonly int _budget;

    public EvaStart(StartRun run)
    {
        _run = run;
        _settings = run.Config.Eva ?? new EvaSettings();
        _budget = run.Layers.Sum(layer => run.Config.ForLayer(layer).Rank);
        _leaders = Leaders();
        var own = run.Layers.ToDictionary(static layer => layer, layer => (int)Math.Min(Math.Round(run.Config.ForLayer(layer).Rank * _settings.Rho), Math.Min(layer.Inputs, int.MaxValue)));
        _most = run.Layers.ToDictionary(static layer => layer, layer => run.Layers.Where(other => _leaders[other] == _leaders[layer]).Max(other => own[other]));
        _components = _leaders.Values.Distinct().ToDictionary(static layer => layer, layer => new IncrementalComponents(_most[layer]));
    }

    /// <summary>The factors, and the configuration with the ranks that the layers get; one that gets none isn't adapted.</summary>
    public (LoraConfig Config, Dictionary<string, (Tensor A, Tensor? B)> Factors) Compute(PretrainedModel model)
    {
        try
        {
            var ranks = Settle();
            var factors = ranks.Where(static entry => entry.Value > 0).ToDictionary(static entry => entry.Key.Path, entry => (A: Directions(entry.Key, entry.Value), B: (Tensor?)null), StringComparer.Ordinal);
            return (Configure(ranks, model), factors);
        }
        finally
        {
            foreach (var components in _components.Values)
            {
                components.Dispose();
            }
        }
    }

    private Tensor Directions(IAdaptable layer, int rank)
    {
        var components = _components[_leaders[layer]];
        var directions = components.Components!.narrow(0, 0, rank);
        return _settings.Whiten ? directions / components.Values!.narrow(0, 0, rank).sqrt().unsqueeze(1) : directions.clone();
    }

    private Dictionary<IAdaptable, int> Settle()
    {
        var ranks = new Dictionary<IAdaptable, int>(_most);
        for (var i = 0; i < MostRounds * _run.Data.Batches; i++)
        {
            _run.Cancellation.ThrowIfCancellationRequested();
            var open = _components.Where(entry => !entry.Value.Settled.AsSpan(0, ranks[entry.Key]).ToArray().All(static settled => settled)).Select(static entry => (Module)entry.Key).ToHashSet();
            _run.Report(_components.Count - open.Count, _components.Count, $"EVA: {_components.Count - open.Count} of {_components.Count} inputs have settled");
            if (open.Count == 0)
            {
                return ranks;
            }

            _run.Data.Observe(i % _run.Data.Batches, (module, x) =>
            {
                if (open.Contains(module))
                {
                    _components[(IAdaptable)module].Add(x, _settings.Tau);
                }
            }, _settings.OnlyLearnt);
            if (_components.Values.All(static components => components.Components is not null))
            {
                ranks = Deal();
            }
            else if (i >= _run.Data.Batches)
            {
                throw new PeftException("StartDataInvalid", $"EVA looks for {_most.Values.Max()} directions, and no batch has so many tokens to learn.")
                {
                    RecommendedAction = "Give larger batches or longer rows, lower the rank, or set use_label_mask to false.",
                };
            }
        }

        return ranks;
    }

    /// <summary>Ranks by what directions explain: the best of all layers, as many as all ranks together. Of layers with one input the first gets most.</summary>
    private Dictionary<IAdaptable, int> Deal()
    {
        IAdaptable[] order = [.. _components.Keys, .. _run.Layers.Where(layer => _leaders[layer] != layer)];
        var counts = order.SelectMany(layer => _components[_leaders[layer]].Ratios.Select(ratio => (Layer: layer, Ratio: ratio)))
            .OrderByDescending(static entry => entry.Ratio).Take(_budget)
            .GroupBy(static entry => entry.Layer).ToDictionary(static group => group.Key, static group => group.Count());
        var ranks = order.ToDictionary(static layer => layer, layer => counts.GetValueOrDefault(layer));
        foreach (var layer in order.Where(layer => ranks[_leaders[layer]] < ranks[layer]))
        {
            (ranks[layer], ranks[_leaders[layer]]) = (ranks[_leaders[layer]], ranks[layer]);
        }

        return ranks;
    }

    private LoraConfig Configure(Dictionary<IAdaptable, int> ranks, PretrainedModel model)
    {
        Dictionary<string, int> rankPattern = [];
        Dictionary<string, double> alphaPattern = [];
        List<Module> kept = [];
        foreach (var layer in _run.Layers)
        {
            if (ranks[layer] == 0)
            {
                continue;
            }

            kept.Add(layer.Module);
            var (before, alpha) = (_run.Config.ForLayer(layer).Rank, TargetMatcher.Lookup(_run.Config.AlphaPattern, layer.Path, _run.Config.Alpha));
            alpha *= _settings.AdjustsStrength ? (double)ranks[layer] / before : 1;
            if (ranks[layer] != _run.Config.Rank)
            {
                rankPattern[layer.Path] = ranks[layer];
            }

            if (alpha != _run.Config.Alpha)
            {
                alphaPattern[layer.Path] = alpha;
            }
        }

        return _run.Config with
        {
            RankPattern = rankPattern,
            AlphaPattern = alphaPattern,
            TargetModules = kept.Count == ranks.Count ? _run.Config.TargetModules : ModuleNames.Exactly(kept, model),
        };
    }

    /// <summary>The first of the layers that have one input, for each: told by the first batch.</summary>
    private Dictionary<IAdaptable, IAdaptable> Leaders()
    {
        Dictionary<Module, string> prints = [];
        _run.Data.Observe(0, (module, x) => prints[module] = Print(x), onlyLearnt: false);
        return _run.Layers.ToDictionary(
            static layer => layer, layer => _run.Layers.First(other => other == layer || (prints.TryGetValue(layer.Module, out var print) && prints.GetValueOrDefault(other.Module) == print)));
    }

    private static string Print(Tensor x)
    {
        using var scope = NewDisposeScope();
        var values = x.to(ScalarType.Float64);
        return string.Create(CultureInfo.InvariantCulture, $"{string.Join('x', x.shape)} {values.sum().item<double>():R} {values.square().sum().item<double>():R} {(values * values.cumsum(0)).sum().item<double>():R}");
    }
}
