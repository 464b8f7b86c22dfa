using Peft.Adapters.Model;
using static TorchSharp.torch;

namespace Peft.Adapters.Combination;

/// <summary>Makes one adapter of several.</summary>
internal static class AdapterCombination
{
    /// <summary>Adds the combination to the model.</summary>
    /// <param name="model">The model, held by the caller.</param>
    /// <param name="names">The parts, all of one method.</param>
    /// <param name="weights">A weight for each.</param>
    /// <param name="name">The new adapter's name.</param>
    /// <param name="options">How.</param>
    /// <param name="cancellation">Stops between layers.</param>
    public static PeftAdapter Combine(
        PeftModel model, IReadOnlyList<string> names, IReadOnlyList<double> weights, string name, CombinationOptions options, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(names);
        ArgumentNullException.ThrowIfNull(weights);
        RefuseCombination(model, names, weights, options);
        AdapterPart[] parts = [.. names.Zip(weights, (part, weight) => new AdapterPart(model[part].Adapter, weight))];
        RefuseSeveralMethods(parts);
        if (options.Type == CombinationType.Average)
        {
            return AdapterAveraging.Average(model, parts, name);
        }

        RefuseSharedModules(parts);
        if (parts.Length == 1)
        {
            options = options with { Type = CombinationType.Linear };
        }

        string[] saved = [.. parts.SelectMany(static part => part.Adapter.Config.ModulesToSave ?? []).Distinct(StringComparer.Ordinal)];
        var config = parts[0].Adapter.CombinedConfig(parts, options) with { ModulesToSave = saved.Length == 0 ? null : saved };
        var combined = model.AddAdapter(config, name, seed: 0);
        try
        {
            using var noGradients = no_grad();
            using var scope = NewDisposeScope();
            using var generator = new Generator(options.Seed ?? (ulong)System.Random.Shared.NextInt64());
            combined.Adapter.Combine(parts, options, generator, cancellation);
        }
        catch
        {
            model.RemoveAdapter(name);
            throw;
        }

        return combined;
    }

    private static void RefuseCombination(PeftModel model, IReadOnlyList<string> names, IReadOnlyList<double> weights, CombinationOptions options)
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
                Target = model.Name,
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
