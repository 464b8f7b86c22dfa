using Peft.Tokenization.Text;

namespace Peft.Tokenization.PreTokenizers;

/// <summary>Takes pieces one by one.</summary>
internal interface IPieceSink
{
    /// <summary>Takes a piece that isn't empty.</summary>
    void Add(in Piece piece);
}

/// <summary>Cuts pieces into smaller ones before the model sees them. Pieces are independent, so they flow one at a time.</summary>
internal abstract class PreTokenizer
{
    /// <summary>Cuts one piece and hands the parts on.</summary>
    public abstract void Split(in Piece piece, IPieceSink next);

    /// <summary>Hands a part on unless it is empty.</summary>
    protected static void Emit(in Piece piece, int start, int end, IPieceSink next)
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
    public override void Split(in Piece piece, IPieceSink next)
    {
        for (var i = steps.Count - 1; i >= 0; i--)
        {
            next = new Step(steps[i], next);
        }

        next.Add(piece);
    }

    private sealed class Step(PreTokenizer splitter, IPieceSink next) : IPieceSink
    {
        public void Add(in Piece piece) => splitter.Split(piece, next);
    }
}
