namespace Peft.Tokenization.Patterns;

/// <summary>A part of a pattern.</summary>
internal abstract record PatternNode
{
    /// <summary>The fewest and most code points it matches; null where there is no most.</summary>
    public abstract (int Least, int? Most) Length { get; }
}

/// <summary>Nodes one after the other.</summary>
internal sealed record SequenceNode(List<PatternNode> Parts) : PatternNode
{
    /// <inheritdoc/>
    public override (int Least, int? Most) Length =>
        (Parts.Sum(part => part.Length.Least), Parts.TrueForAll(part => part.Length.Most is not null) ? Parts.Sum(part => part.Length.Most!.Value) : null);
}

/// <summary>The first of several nodes that leads to a match.</summary>
internal sealed record AlternativeNode(List<PatternNode> Choices) : PatternNode
{
    /// <inheritdoc/>
    public override (int Least, int? Most) Length =>
        (Choices.Min(choice => choice.Length.Least), Choices.TrueForAll(choice => choice.Length.Most is not null) ? Choices.Max(choice => choice.Length.Most) : null);
}

/// <summary>One code point of a set.</summary>
internal sealed record SetNode(CodePointSet Set) : PatternNode
{
    /// <inheritdoc/>
    public override (int Least, int? Most) Length => (1, 1);
}

/// <summary>A literal that is compared after full case folding.</summary>
internal sealed record FoldedNode(List<int> Folded) : PatternNode
{
    /// <inheritdoc/>
    public override (int Least, int? Most) Length => (1, Folded.Count);
}

/// <summary>How eager a repetition is.</summary>
internal enum RepeatKind
{
    Greedy,
    Lazy,
    Possessive,
}

/// <summary>A node several times over; no most where <paramref name="Most"/> is <see cref="int.MaxValue"/>.</summary>
internal sealed record RepeatNode(PatternNode Inner, int Least, int Most, RepeatKind Kind) : PatternNode
{
    /// <inheritdoc/>
    public override (int Least, int? Most) Length =>
        ((int)Math.Min((long)Inner.Length.Least * Least, int.MaxValue), Most == int.MaxValue || Inner.Length.Most is not { } most ? null : (int)Math.Min((long)most * Most, int.MaxValue));
}

/// <summary>A node that is never tried again once it matched.</summary>
internal sealed record AtomicNode(PatternNode Inner) : PatternNode
{
    /// <inheritdoc/>
    public override (int Least, int? Most) Length => Inner.Length;
}

/// <summary>A look ahead or behind.</summary>
internal sealed record LookNode(PatternNode Inner, bool Behind, bool Negative) : PatternNode
{
    /// <inheritdoc/>
    public override (int Least, int? Most) Length => (0, 0);
}

/// <summary>Something that holds at a position.</summary>
internal sealed record AssertNode(PatternAssertion Kind) : PatternNode
{
    /// <inheritdoc/>
    public override (int Least, int? Most) Length => (0, 0);
}

/// <summary>A grapheme cluster (<c>\X</c>).</summary>
internal sealed record GraphemeNode : PatternNode
{
    /// <inheritdoc/>
    public override (int Least, int? Most) Length => (1, null);
}

/// <summary>What can hold at a position.</summary>
internal enum PatternAssertion
{
    LineStart,
    LineEnd,
    TextStart,
    TextEnd,
    TextEndOrLastBreak,
    WordBoundary,
    NoWordBoundary,
    SearchStart,
}
