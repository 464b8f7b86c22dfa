using static TorchSharp.torch;

namespace Peft.Adapters.Combination;

/// <summary>How several adapters become one. The names and defaults are those of PEFT's <c>add_weighted_adapter</c>.</summary>
public sealed record CombinationOptions
{
    /// <summary>What is done; <see cref="CombinationType.Svd"/>. A single adapter is always combined linearly.</summary>
    public CombinationType Type { get; init; } = CombinationType.Svd;

    /// <summary>Rank of the outcome of a decomposition; null for the largest of the parts (<c>svd_rank</c>).</summary>
    public int? Rank { get; init; }

    /// <summary>Quantile of a decomposition's values at which they are cut off; null for none (<c>svd_clamp</c>).</summary>
    public double? Clamp { get; init; }

    /// <summary>Share of the values that pruning keeps, from 0; at 1 and above nothing is pruned. Types that prune require it.</summary>
    public double? Density { get; init; }

    /// <summary>How TIES elects the sign that a value may have; <see cref="MajoritySign.Total"/>.</summary>
    public MajoritySign MajoritySign { get; init; }

    /// <summary>Makes what DARE keeps repeatable; null draws differently each time.</summary>
    public ulong? Seed { get; init; }

    /// <summary>Draws DARE's masks in place of the generator: ones where a value is kept. For tests.</summary>
    internal Func<Tensor, Tensor>? Mask { get; init; }
}

/// <summary>
/// Ways to combine adapters: a sum, TIES (Yadav et al. 2023), DARE (Yu et al. 2023) or pruning by magnitude, of the factors one by one,
/// which is fast but isn't the sum of the changes, or (<c>Svd</c>) of the changes, which are then decomposed into factors again.
/// </summary>
public enum CombinationType
{
    /// <summary>The weighted sum of the changes, decomposed (<c>svd</c>).</summary>
    Svd,

    /// <summary>The weighted sum of the factors (<c>linear</c>).</summary>
    Linear,

    /// <summary>All factors side by side: exact, of the ranks' sum (<c>cat</c>).</summary>
    Cat,

    /// <summary>TIES on factors (<c>ties</c>).</summary>
    Ties,

    /// <summary>TIES on changes (<c>ties_svd</c>).</summary>
    TiesSvd,

    /// <summary>DARE on factors (<c>dare_linear</c>).</summary>
    DareLinear,

    /// <summary>DARE on changes (<c>dare_linear_svd</c>).</summary>
    DareLinearSvd,

    /// <summary>DARE, then TIES' election, on factors (<c>dare_ties</c>).</summary>
    DareTies,

    /// <summary>DARE, then TIES' election, on changes (<c>dare_ties_svd</c>).</summary>
    DareTiesSvd,

    /// <summary>The largest values of the factors, summed (<c>magnitude_prune</c>).</summary>
    MagnitudePrune,

    /// <summary>The largest values of the changes, summed (<c>magnitude_prune_svd</c>).</summary>
    MagnitudePruneSvd,

    /// <summary>The weighted mean of all that is trained, value by value, of any method: a federated round, its weights the sites' numbers of examples.</summary>
    Average,
}

/// <summary>What decides on the sign of a value when adapters disagree.</summary>
public enum MajoritySign
{
    /// <summary>The sign of the sum (<c>total</c>).</summary>
    Total,

    /// <summary>The sign that more adapters have (<c>frequency</c>).</summary>
    Frequency,
}

/// <summary>Properties of the types.</summary>
internal static class CombinationTypes
{
    /// <summary>The type of one of PEFT's names, such as <c>dare_ties_svd</c>; <see cref="CombinationType.Average"/> is ours alone.</summary>
    /// <exception cref="PeftException"><c>CombinationInvalid</c>.</exception>
    public static CombinationType Parse(string name) => Enum.TryParse<CombinationType>(name.Replace("_", "", StringComparison.Ordinal), ignoreCase: true, out var type) && type != CombinationType.Average
        ? type
        : throw new PeftException("CombinationInvalid", $"'{name}' is no way to combine adapters.")
        {
            Target = name,
            RecommendedAction = $"Choose one of {string.Join(", ", Enum.GetNames<CombinationType>())}.",
        };

    /// <summary>Whether changes are combined, and decomposed again.</summary>
    public static bool Decomposes(this CombinationType type) => type is CombinationType.Svd or CombinationType.TiesSvd
        or CombinationType.DareLinearSvd or CombinationType.DareTiesSvd or CombinationType.MagnitudePruneSvd;

    /// <summary>Whether values are dropped at random.</summary>
    public static bool DropsAtRandom(this CombinationType type) => type is CombinationType.DareLinear or CombinationType.DareLinearSvd
        or CombinationType.DareTies or CombinationType.DareTiesSvd;

    /// <summary>Whether small values are dropped.</summary>
    public static bool DropsSmall(this CombinationType type) => type is CombinationType.Ties or CombinationType.TiesSvd
        or CombinationType.MagnitudePrune or CombinationType.MagnitudePruneSvd;

    /// <summary>Whether a sign is elected for each value.</summary>
    public static bool Elects(this CombinationType type) => type is CombinationType.Ties or CombinationType.TiesSvd
        or CombinationType.DareTies or CombinationType.DareTiesSvd;
}
