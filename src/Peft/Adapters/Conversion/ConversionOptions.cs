using System.Globalization;

namespace Peft.Adapters.Conversion;

/// <summary>
/// How much of a change a low-rank adapter keeps. With neither <see cref="Rank"/> nor <see cref="Energy"/> a LoRA adapter is taken as it is,
/// with what its start took out of the base, and any other change at <see cref="DefaultEnergy"/>.
/// </summary>
public sealed record ConversionOptions
{
    /// <summary>Energy that is kept where neither rank nor energy is given.</summary>
    public const double DefaultEnergy = 0.99;

    /// <summary>Rank of every layer's factors; a layer that has fewer singular values has its change whole.</summary>
    public int? Rank { get; init; }

    /// <summary>Rank of convolutions of several taps, as LyCORIS has it; null for <see cref="Rank"/>.</summary>
    public int? ConvolutionRank { get; init; }

    /// <summary>Share of each change's squared singular values that is kept, above 0 and up to 1: each layer has the smallest rank that reaches it.</summary>
    public double? Energy { get; init; }

    /// <summary>Sees the layers that are done, and how many there are.</summary>
    public Action<int, int>? OnProgress { get; init; }

    /// <summary>Looked at between layers; the model is then as before.</summary>
    public CancellationToken Cancellation { get; init; }

    /// <summary>Refuses what makes no sense.</summary>
    /// <exception cref="PeftException"><c>ConversionInvalid</c>.</exception>
    internal void Validate()
    {
        if (Rank is < 1 || ConvolutionRank is < 1 || (ConvolutionRank is not null && Rank is null) || Energy is <= 0 or > 1 or double.NaN || (Rank is not null && Energy is not null))
        {
            throw new PeftException("ConversionInvalid", "An adapter is converted at a rank of 1 or more, or at a share of its energy above 0 and up to 1, not both.")
            {
                RecommendedAction = "Give one of them.",
            };
        }
    }
}

/// <summary>What a conversion to low rank lost.</summary>
/// <param name="Layers">Each layer's.</param>
/// <param name="Error">Length of what all layers lost beside that of their changes: √(Σ|lost|² / Σ|change|²); 0 is exact, 1 is nothing left.</param>
public sealed record ConversionReport(IReadOnlyList<ConvertedLayer> Layers, double Error)
{
    /// <summary>Parts of the model that differ as well and that adapters don't reach (a diffusion model's autoencoder).</summary>
    public IReadOnlyList<string> Unreached { get; init; } = [];

    /// <summary>Adds up what layers lost.</summary>
    internal static ConversionReport Of(IReadOnlyList<(string Path, LowRankPart Part)> layers) => new(
        Values.Of(layers.Select(static layer => new ConvertedLayer(layer.Path, layer.Part.Rank, Relative(layer.Part.Lost, layer.Part.Energy)))),
        Relative(layers.Sum(static layer => layer.Part.Lost), layers.Sum(static layer => layer.Part.Energy)));

    /// <inheritdoc/>
    public override string ToString()
    {
        var (least, most) = (Layers.Min(static layer => layer.Rank), Layers.Max(static layer => layer.Rank));
        var worst = Layers.MaxBy(static layer => layer.Error)!;
        return string.Create(
            CultureInfo.InvariantCulture,
            $"{Layers.Count} layers at rank {(least == most ? $"{least}" : $"{least} to {most}")}; {Error:P2} of the change is lost, at most {worst.Error:P2} ({worst.Module}).{(Unreached.Count == 0 ? "" : $" Adapters don't reach {string.Join(", ", Unreached)}, whose weights differ too.")}");
    }

    private static double Relative(double lost, double all) => all == 0 ? 0 : Math.Sqrt(lost / all);
}

/// <summary>What the conversion of one layer lost.</summary>
/// <param name="Module">The layer's path.</param>
/// <param name="Rank">Rank of its factors.</param>
/// <param name="Error">Length of what is lost beside that of the layer's change.</param>
public sealed record ConvertedLayer(string Module, int Rank, double Error);
