using System.Globalization;
using Peft.Models;

namespace Peft.Adapters.Targets;

/// <summary>What an adapter reaches of a model.</summary>
/// <param name="Matched">The adapted layers, and the parameters it has copies of, by kind and name.</param>
/// <param name="Untrained">Matrices of the base that no target can name, for their module isn't a layer (experts, state-space projections), and that the adapter leaves as they are.</param>
public sealed record AdapterCoverage(IReadOnlyList<CoverageRow> Matched, IReadOnlyList<CoverageRow> Untrained)
{
    /// <summary>Looks at an adapter that is declared.</summary>
    internal static AdapterCoverage Of(Adapter adapter, PretrainedModel model)
    {
        var copied = adapter.Overlays.SelectMany(static overlay => overlay.Targets).ToArray();
        var reached = adapter.Layers.Select(static layer => layer.Layer.Weight).Concat(copied.Select(static target => target.Parameter)).ToHashSet();
        return new AdapterCoverage(
            [
                .. Sum(adapter.Layers.Select(static layer => (layer.Layer.Module, NameOf(layer.Layer.Module), Count: layer.Adapter.Parameters.Where(static entry => entry.Role == ParameterRole.Trained).Sum(static entry => entry.Parameter.Count)))),
                .. Sum(copied.Select(static target => (target.Module, $"{target.Module.Name}.{target.Parameter.Name}", target.Parameter.Count))),
            ],
            Sum(model.NamedParameters()
                .Where(named => named.Parameter.Shape.Count >= 2 && named.Module is not Models.Layers.IAdaptable && !reached.Contains(named.Parameter))
                .Select(static named => (named.Module, $"{named.Module.Name}.{named.Parameter.Name}", named.Parameter.Count))));
    }

    /// <inheritdoc/>
    public override string ToString() => string.Join(", ", Matched);

    /// <summary>A module's name; in a list, where that is a number, with the list's (<c>to_out.0</c>).</summary>
    private static string NameOf(Module module) => module.Name.All(char.IsAsciiDigit) && module.Parent is { Name.Length: > 0 } list ? $"{list.Name}.{module.Name}" : module.Name;

    private static CoverageRow[] Sum(IEnumerable<(Module Module, string Name, long Count)> entries) =>
    [
        .. entries.GroupBy(static entry => (entry.Module.ClassName, entry.Name))
            .Select(static group => new CoverageRow(group.Key.ClassName, group.Key.Name, group.Count(), group.Sum(static entry => entry.Count))),
    ];
}

/// <summary>Modules of one kind and name.</summary>
/// <param name="Kind">The modules' class, such as <c>Linear</c>.</param>
/// <param name="Name">Their name, such as <c>q_proj</c>; a parameter's behind it where the module isn't a layer.</param>
/// <param name="Count">How many there are.</param>
/// <param name="Parameters">Parameters that are trained there; of what is left untrained, those that the base has.</param>
public sealed record CoverageRow(string Kind, string Name, int Count, long Parameters)
{
    /// <inheritdoc/>
    public override string ToString() => string.Create(CultureInfo.InvariantCulture, $"{Count} × {Name} ({Kind})");
}
