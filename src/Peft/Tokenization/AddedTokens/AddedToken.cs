namespace Peft.Tokenization.AddedTokens;

/// <summary>A token that is found in the text before the model sees it.</summary>
public sealed record AddedToken
{
    /// <summary>The text that stands for the token.</summary>
    public required string Content { get; init; }

    /// <summary>The id.</summary>
    public int Id { get; init; }

    /// <summary>Whether it is skipped when decoding without special tokens.</summary>
    public bool Special { get; init; }

    /// <summary>Whether it matches whole words only.</summary>
    public bool SingleWord { get; init; }

    /// <summary>Whether it takes white space on its left along.</summary>
    public bool StripLeft { get; init; }

    /// <summary>Whether it takes white space on its right along.</summary>
    public bool StripRight { get; init; }

    /// <summary>Whether it is looked for in normalized text, in its own normalized form.</summary>
    public bool Normalized { get; init; }
}
