using static TorchSharp.torch;

namespace Peft.Adapters.Merging;

/// <summary>How adapters are merged.</summary>
public sealed record MergeOptions
{
    /// <summary>Checks every merged weight for values that are not finite, and changes nothing when there is one.</summary>
    public bool Safe { get; init; }

    /// <summary>
    /// Makes the merge final: the originals are not kept, so that it needs no more memory than one layer, and all adapters of the model are dropped. Once weights change
    /// it goes through to its end.
    /// </summary>
    public bool Unload { get; init; }

    /// <summary>
    /// The type all weights of the model take before changes are added, so that the sum isn't rounded to a narrower one; null keeps each weight's own,
    /// or what an earlier merge that is still in the weights gave them. Quantised weights are unpacked to it for good; without it
    /// they are unpacked, changed and quantised again.
    /// The sum itself is always formed in float32 at least.
    /// </summary>
    public ScalarType? DataType { get; init; }

    /// <summary>What changes are added to where weights are quantised; default <see cref="MergeGround.Quantized"/>.</summary>
    public MergeGround Ground { get; init; }

    /// <summary>The folder of the unquantised model for <see cref="MergeGround.Original"/>; null for the one that the model was loaded from.</summary>
    public string? OriginalPath { get; init; }

    /// <summary>Looked at between modules; a merge that it ends leaves every weight as it was.</summary>
    public CancellationToken Cancellation { get; init; }
}

/// <summary>What changes are added to where weights are quantised.</summary>
public enum MergeGround
{
    /// <summary>The values that they stand for; what comes out is quantised again, which rounds the changes.</summary>
    Quantized,

    /// <summary>The values that they stand for, which the model has from then on: nothing is rounded, the model is a plain one.</summary>
    Unpacked,

    /// <summary>The weights as they were before they were quantised, from the model's files: the changes were trained beside the quantised ones, and are an approximation there.</summary>
    Original,
}

/// <summary>What a merge did.</summary>
/// <param name="Merged">Adapters that are in the weights now, in the order they were added; the active set of the model.</param>
/// <param name="Deactivated">Adapters that were active before and aren't any more.</param>
/// <param name="Messages">Sentences for a person.</param>
public sealed record MergeReport(IReadOnlyList<string> Merged, IReadOnlyList<string> Deactivated, IReadOnlyList<string> Messages)
{
    /// <summary>How many weights were unpacked, changed and quantised again.</summary>
    public int QuantizedAgain { get; init; }
}
