namespace Peft.Training.Data;

/// <summary>What preparing examples needs of a model's tokenizer.</summary>
public interface IExampleTokenizer
{
    /// <summary>The text of the token that ends a sequence, or null where the tokenizer has none.</summary>
    string? EndOfSequence { get; }

    /// <summary>The id that fills short rows; any will do, for padding is masked.</summary>
    int PaddingId { get; }

    /// <summary>Tokenises a text.</summary>
    /// <param name="text">The text; special tokens spelt out in it become their ids.</param>
    /// <param name="addSpecialTokens">Whether the tokenizer adds the tokens it puts around a sequence.</param>
    /// <returns>The ids, and the characters each token stands for (equal ends for added tokens).</returns>
    (int[] Ids, (int Start, int End)[] Offsets) Encode(string text, bool addSpecialTokens);

    /// <summary>The text of some tokens, special tokens included.</summary>
    /// <param name="ids">The ids.</param>
    /// <returns>The text.</returns>
    string Decode(IReadOnlyList<int> ids);

    /// <summary>Renders a conversation with the model's chat template.</summary>
    /// <param name="messages">The messages.</param>
    /// <param name="addGenerationPrompt">Whether to open the assistant's next turn.</param>
    /// <returns>The text, and which of its characters the template marks as the assistant's.</returns>
    /// <exception cref="PeftException">The tokenizer has no chat template, or it fails.</exception>
    RenderedConversation Render(IReadOnlyList<IReadOnlyDictionary<string, object?>> messages, bool addGenerationPrompt);
}

/// <summary>A conversation as text.</summary>
/// <param name="Text">The text.</param>
/// <param name="Generated">
/// The spans that the template's <c>generation</c> blocks enclose, as start and end characters; null where the template has no such block.
/// </param>
public sealed record RenderedConversation(string Text, IReadOnlyList<(int Start, int End)>? Generated);
