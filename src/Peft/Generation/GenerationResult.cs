namespace Peft.Generation;

/// <summary>Why a continuation ended.</summary>
public enum FinishReason
{
    /// <summary>The longest length asked for was reached.</summary>
    Length,

    /// <summary>The model ended the text.</summary>
    EndOfText,

    /// <summary>A stop string came.</summary>
    StopString,
}

/// <summary>A continued text.</summary>
/// <param name="Prompt">What was continued; null where ids were given.</param>
/// <param name="Text">The continuation, without the prompt and without a stop string.</param>
/// <param name="TokenIds">Ids added, including the one that ended the text.</param>
/// <param name="PromptTokens">Number of ids of the prompt.</param>
/// <param name="FinishReason">Why it ended.</param>
public sealed record GenerationResult(string? Prompt, string Text, IReadOnlyList<int> TokenIds, int PromptTokens, FinishReason FinishReason)
{
    /// <summary>Whether the model's scores were numbers all along. Where they weren't (NaN or infinity), the text says nothing.</summary>
    public bool IsFinite { get; init; } = true;

    /// <summary>Prompt and continuation together.</summary>
    public string FullText => Prompt + Text;

    /// <summary>Of a search, the log-probability of the continuation over a power of its length, by which the best were chosen; null where nothing was searched.</summary>
    public double? Score { get; init; }

    /// <inheritdoc/>
    public override string ToString() => Text;
}

/// <summary>A piece of text that is certain, while a row is still being continued.</summary>
/// <param name="Row">Index of the prompt in its batch.</param>
/// <param name="Text">The new piece; may be empty while a character is incomplete.</param>
/// <param name="TokenId">The token that brought it.</param>
public readonly record struct GenerationChunk(int Row, string Text, int TokenId);
