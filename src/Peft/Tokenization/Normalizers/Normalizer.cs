using Peft.Tokenization.Text;

namespace Peft.Tokenization.Normalizers;

/// <summary>Changes a text before it is cut; every character keeps its place in the original.</summary>
internal abstract class Normalizer
{
    /// <summary>Changes the text.</summary>
    public abstract void Normalize(NormalizedText text);
}

/// <summary>Several normalizers after each other.</summary>
internal sealed class SequenceNormalizer(IReadOnlyList<Normalizer> steps) : Normalizer
{
    /// <inheritdoc/>
    public override void Normalize(NormalizedText text)
    {
        foreach (var step in steps)
        {
            step.Normalize(text);
        }
    }
}
