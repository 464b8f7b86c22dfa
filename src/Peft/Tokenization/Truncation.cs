namespace Peft.Tokenization;

/// <summary>Which end of a text truncation cuts off.</summary>
public enum TruncationDirection
{
    /// <summary>The end.</summary>
    Right,

    /// <summary>The beginning.</summary>
    Left,
}

/// <summary>Which text of a pair truncation shortens.</summary>
public enum TruncationStrategy
{
    /// <summary>The longer one first, until both fit.</summary>
    LongestFirst,

    /// <summary>Only the first.</summary>
    OnlyFirst,

    /// <summary>Only the second.</summary>
    OnlySecond,
}

/// <summary>Cuts encodings to a length; the <c>truncation</c> block of tokenizer.json.</summary>
public sealed record Truncation
{
    /// <summary>The largest number of tokens, special tokens included.</summary>
    public required int MaximumLength { get; init; }

    /// <summary>How many tokens neighbouring windows of the overflow share.</summary>
    public int Stride { get; init; }

    /// <summary>Which text of a pair is shortened.</summary>
    public TruncationStrategy Strategy { get; init; }

    /// <summary>Which end is cut off.</summary>
    public TruncationDirection Direction { get; init; }
}

/// <summary>Where padding goes.</summary>
public enum PaddingDirection
{
    /// <summary>After the tokens.</summary>
    Right,

    /// <summary>Before the tokens.</summary>
    Left,
}

/// <summary>Fills encodings up to a common length; the <c>padding</c> block of tokenizer.json.</summary>
public sealed record Padding
{
    /// <summary>A fixed length, or null for the longest of the batch.</summary>
    public int? Length { get; init; }

    /// <summary>Rounds the length up to a multiple.</summary>
    public int? MultipleOf { get; init; }

    /// <summary>The padding token's id.</summary>
    public int Id { get; init; }

    /// <summary>The padding token's text.</summary>
    public string Token { get; init; } = "[PAD]";

    /// <summary>The type id of padding.</summary>
    public int TypeId { get; init; }

    /// <summary>Where padding goes.</summary>
    public PaddingDirection Direction { get; init; }
}
