namespace Peft.Models;

/// <summary>One adapter that acts, and how strongly.</summary>
/// <param name="Name">The adapter's name.</param>
/// <param name="Weight">Multiplies its change; 1 is as trained.</param>
public readonly record struct ActiveAdapter(string Name, float Weight = 1f)
{
    /// <summary>What multiplies the strength on each module; null for 1 everywhere.</summary>
    public ModuleStrengths? Modules { get; init; }

    /// <summary>The strength on a module.</summary>
    /// <param name="path">The module's path.</param>
    public float At(string path) => Modules is null ? Weight : Weight * Modules.Of(path);

    /// <inheritdoc/>
    public override string ToString() => (Weight == 1f ? Name : FormattableString.Invariant($"{Weight} x {Name}")) + (Modules is null ? "" : $" by block ({Modules})");
}

/// <summary>A stretch of a pass's positions, counted over all its rows, and the one adapter that acts there.</summary>
/// <param name="Name">The adapter's name.</param>
/// <param name="Start">First position.</param>
/// <param name="Count">Number of positions.</param>
public readonly record struct AdapterSpan(string Name, long Start, long Count);

/// <summary>
/// Which adapters act, in what order and strength and, in a mixed batch, on which rows. Immutable: it travels in the
/// <see cref="ForwardContext"/>, so a reference pass or a block that is computed again sees what the first pass saw.
/// </summary>
/// <param name="Order">Active adapters, innermost first.</param>
/// <param name="RowNames">For a mixed batch one adapter name a row, <see cref="BaseRow"/> for the base alone; null when all rows are alike.</param>
public sealed record AdapterSelection(IReadOnlyList<ActiveAdapter> Order, IReadOnlyList<string>? RowNames = null)
{
    /// <summary>Names a row of a mixed batch that no adapter touches, as PEFT does.</summary>
    public const string BaseRow = "__base__";

    /// <summary>Where the examples of several adapters stand one after another in one pass (<see cref="ForwardContext.Packing"/>), the stretch of each; null otherwise.</summary>
    public IReadOnlyList<AdapterSpan>? Spans { get; init; }

    /// <summary>Nothing acts: the base model.</summary>
    public static AdapterSelection Base { get; } = new([]);

    /// <summary>Adapters by name, each at full strength.</summary>
    public static AdapterSelection Of(params IEnumerable<string> names) => new([.. names.Select(static name => new ActiveAdapter(name))]);

    /// <summary>Adapters that each act on their own stretch of the positions.</summary>
    /// <param name="spans">The stretches, in order; they don't overlap.</param>
    public static AdapterSelection Of(IReadOnlyList<AdapterSpan> spans) => new([]) { Spans = spans };

    /// <inheritdoc/>
    public override string ToString() => Spans is not null ? string.Join(", ", Spans.Select(static span => span.Name)) : RowNames is not null ? string.Join(", ", RowNames) : Order.Count == 0 ? "base" : string.Join(", ", Order);
}
