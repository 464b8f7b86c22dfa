using static TorchSharp.torch;

namespace Peft.Adapters.Conversion;

/// <summary>A change of a weight as a product that holds it exactly: scale · B · A.</summary>
/// <param name="A">[rank, columns], float32.</param>
/// <param name="B">[outputs, rank], float32.</param>
/// <param name="Scale">Multiplies the product.</param>
internal sealed record ChangeFactors(Tensor A, Tensor B, double Scale)
{
    /// <summary>Whether the method is a low-rank one in another guise, so that the factors are taken as they are whatever rank is asked for.</summary>
    public bool KeepsRank { get; init; }
}

/// <summary>What a low rank keeps of a change: B · A.</summary>
/// <param name="A">[rank, columns].</param>
/// <param name="B">[outputs, rank].</param>
/// <param name="Energy">Sum of the squares of the whole change.</param>
/// <param name="Lost">Sum of the squares of what isn't kept.</param>
internal sealed record LowRankPart(Tensor A, Tensor B, double Energy, double Lost)
{
    /// <summary>Rank of the factors.</summary>
    public int Rank => (int)A.size(0);
}
