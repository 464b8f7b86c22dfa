namespace Peft.Adapters.Targets;

/// <summary>
/// Names modules as PEFT's configurations do: by a list of names or path endings in whole parts, or by a regular expression for the whole path,
/// or all linear layers.
/// </summary>
public sealed record ModuleNames
{
    /// <summary>What configurations say for every linear layer but the output layer.</summary>
    internal const string AllLinearWord = "all-linear";

    private ModuleNames(IReadOnlyList<string>? names, string? pattern)
    {
        Names = names;
        Pattern = pattern;
    }

    /// <summary>Every linear layer but the output layer.</summary>
    public static ModuleNames AllLinear { get; } = new(null, AllLinearWord);

    /// <summary>Names (<c>q_proj</c>) or path endings (<c>layers.1.self_attn.q_proj</c>); null when a pattern is given.</summary>
    public IReadOnlyList<string>? Names { get; }

    /// <summary>Regular expression that the whole path must match, or <c>all-linear</c>; null when names are given.</summary>
    public string? Pattern { get; }

    /// <summary>Whether all linear layers are meant.</summary>
    public bool IsAllLinear => Pattern is AllLinearWord;

    /// <summary>By names or path endings.</summary>
    public static ModuleNames Of(params IEnumerable<string> names) => new([.. names], null);

    /// <summary>These modules of a model and no others: by the last part of their paths where that will do.</summary>
    internal static ModuleNames Exactly(IReadOnlyCollection<Models.Module> modules, Models.PretrainedModel model)
    {
        var names = modules.Select(static module => module.Name).ToHashSet(StringComparer.Ordinal);
        return model.Descendants().Where(module => names.Contains(module.Name)).All(modules.Contains)
            ? Of(names.Order(StringComparer.Ordinal))
            : Of(modules.Select(static module => module.Path).Distinct(StringComparer.Ordinal).Order(StringComparer.Ordinal));
    }

    /// <summary>By a regular expression for the whole path.</summary>
    public static ModuleNames Matching(string pattern) => new(null, pattern);

    /// <summary>What any of these names.</summary>
    /// <param name="all">At least one; lists alone, or patterns alone.</param>
    /// <exception cref="PeftException"><c>CombinationInvalid</c>: lists and patterns.</exception>
    internal static ModuleNames Union(IReadOnlyList<ModuleNames> all)
    {
        if (all.All(static names => names.Names is not null))
        {
            return Of(all.SelectMany(static names => names.Names!).Distinct(StringComparer.Ordinal).Order(StringComparer.Ordinal));
        }

        return all.All(static names => names.Pattern is not null)
            ? Matching(string.Join('|', all.Select(static names => names.Pattern!).Distinct(StringComparer.Ordinal).Select(static pattern => $"({pattern})")))
            : throw new PeftException("CombinationInvalid", "Adapters whose targets are a pattern can't be combined with adapters whose targets are names.")
            {
                RecommendedAction = "Combine adapters that name their targets in one way.",
            };
    }

    /// <inheritdoc/>
    public bool Equals(ModuleNames? other) =>
        other is not null && Pattern == other.Pattern && (Names is null ? other.Names is null : other.Names is not null && Names.SequenceEqual(other.Names));

    /// <inheritdoc/>
    public override int GetHashCode() => HashCode.Combine(Pattern, Names?.Count);

    /// <inheritdoc/>
    public override string ToString() => Pattern ?? string.Join(", ", Names!);
}
