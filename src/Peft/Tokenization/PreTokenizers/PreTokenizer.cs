using Peft.Tokenization.Text;

namespace Peft.Tokenization.PreTokenizers;

/// <summary>Takes pieces one by one.</summary>
internal interface ITextSpanSink
{
    /// <summary>Takes a piece that isn't empty.</summary>
    void Add(in TextSpan piece);
}

/// <summary>Cuts pieces into smaller ones before the model sees them. Pieces are independent, so they flow one at a time.</summary>
internal abstract class PreTokenizer
{
    /// <summary>Cuts one piece and hands the parts on.</summary>
    public abstract void Split(in TextSpan piece, ITextSpanSink next);

    /// <summary>Hands a part on unless it is empty.</summary>
    protected static void Emit(in TextSpan piece, int start, int end, ITextSpanSink next)
    {
        if (start < end)
        {
            next.Add(piece.Slice(start, end));
        }
    }
}

/// <summary>Several pre-tokenizers after each other.</summary>
internal sealed class SequencePreTokenizer(IReadOnlyList<PreTokenizer> steps) : PreTokenizer
{
    /// <inheritdoc/>
    public override void Split(in TextSpan piece, ITextSpanSink next)
    {
        for (var i = steps.Count - 1; i >= 0; i--)
        {
            next = new Step(steps[i], next);
        }

        next.Add(piece);
    }

    private sealed class Step(PreTokenizer splitter, ITextSpanSink next) : ITextSpanSink
    {
        public void Add(in TextSpan piece) => splitter.Split(piece, next);
    }
}
