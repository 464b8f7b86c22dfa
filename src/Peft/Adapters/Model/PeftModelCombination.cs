using Peft.Adapters.Combination;
using static TorchSharp.torch;

namespace Peft.Adapters.Model;

/// <content>Making one adapter of several.</content>
public sealed partial class PeftModel
{
    /// <summary>
    /// Adds a new adapter made of others, as PEFT's <c>add_weighted_adapter</c> does: LoRA by any <see cref="CombinationType"/>, IA3 by a weighted sum.
    /// The parts stay as they are. The new adapter waits to be made active.
    /// </summary>
    /// <param name="names">The parts, all of one method.</param>
    /// <param name="weights">A weight for each; negative ones subtract.</param>
    /// <param name="name">The new adapter's name.</param>
    /// <param name="options">How; null for PEFT's defaults.</param>
    /// <param name="cancellation">Stops between layers; the model is then as before.</param>
    /// <exception cref="PeftException">
    /// <c>CombinationInvalid</c>: no parts, other weights than parts, a density that is missing or negative, or parts that can't be combined this way;
    /// <c>AdapterNotFound</c>, <c>AdapterExists</c>, <c>AdapterNameInvalid</c>, <c>WeightsNotLoaded</c> or <c>ModelIsMerged</c>.
    /// </exception>
    /// <exception cref="NotSupportedByPeftException"><c>CombinationNotSupported</c>: a method that has no combinations.</exception>
    /// <exception cref="OperationCanceledException">It was cancelled.</exception>
    public PeftAdapter CombineAdapters(
        IReadOnlyList<string> names, IReadOnlyList<double> weights, string name, CombinationOptions? options = null, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(names);
        ArgumentNullException.ThrowIfNull(weights);
        using var held = Acquire("combining adapters");
        options ??= new CombinationOptions();
        RefuseCombination(names, weights, options);
        AdapterPart[] parts = [.. names.Zip(weights, (part, weight) => new AdapterPart(this[part].Adapter, weight))];
        RefuseSeveralMethods(parts);
        RefuseSharedModules(parts);
        if (parts.Length == 1)
        {
            options = options with { Type = CombinationType.Linear };
        }

        string[] saved = [.. parts.SelectMany(static part => part.Adapter.Config.ModulesToSave ?? []).Distinct(StringComparer.Ordinal)];
        var config = parts[0].Adapter.CombinedConfig(parts, options) with
        {
            ModulesToSave = saved.Length == 0 ? null : saved,
            Bias = Array.Exists(parts, static part => part.Adapter.Config.Bias == BiasTraining.All) ? BiasTraining.All : parts.Max(static part => part.Adapter.Config.Bias),
        };
        var combined = AddAdapter(config, name, seed: 0);
        try
        {
            using var noGradients = no_grad();
            using var scope = NewDisposeScope();
            using var generator = MakeGenerator(options.Seed);
            combined.Adapter.Combine(parts, options, generator, cancellation);
        }
        catch
        {
            RemoveAdapter(name);
            throw;
        }

        Changed();
        return combined;
    }

    private void RefuseCombination(IReadOnlyList<string> names, IReadOnlyList<double> weights, CombinationOptions options)
    {
        var wrong = (names.Count, options.Density) switch
        {
            (0, _) => "No adapters to combine were named.",
            _ when names.Count != weights.Count => $"{names.Count} adapters are to be combined with {weights.Count} weights.",
            (_, < 0) => FormattableString.Invariant($"The density has to be 0 or more; {options.Density} was given."),
            ( > 1, null) when options.Type.DropsAtRandom() || options.Type.DropsSmall() => $"{options.Type} prunes and needs a density.",
            _ => null,
        };
        if (wrong is not null)
        {
            throw new PeftException("CombinationInvalid", wrong)
            {
                Target = Name,
                RecommendedAction = "Name at least one adapter, give each a weight, and a density between 0 and 1 where values are pruned.",
            };
        }
    }

    private static void RefuseSeveralMethods(AdapterPart[] parts)
    {
        if (Array.Exists(parts, part => part.Adapter.GetType() != parts[0].Adapter.GetType()))
        {
            throw new PeftException("CombinationInvalid", "Adapters of several methods can't be combined.")
            {
                RecommendedAction = "Combine adapters of one method.",
            };
        }
    }

    /// <summary>Whole modules and biases can't be averaged: only one of the parts may have its own of each.</summary>
    private static void RefuseSharedModules(AdapterPart[] parts)
    {
        var shared = parts.SelectMany(static part => part.Adapter.Overlays.SelectMany(static overlay => overlay.Targets).Select(static target => target.Parameter).Distinct())
            .GroupBy(static parameter => parameter).FirstOrDefault(static group => group.Count() > 1);
        if (shared is not null)
        {
            throw new PeftException("CombinationInvalid", $"More than one of the adapters has its own '{shared.Key.Name}' of the same module, and these can't be combined.")
            {
                RecommendedAction = "Combine adapters of which at most one saves modules or trains biases.",
            };
        }
    }
}
