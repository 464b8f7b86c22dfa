namespace Peft.Tokenization.Models;

/// <summary>Whole words or the unknown token.</summary>
internal sealed class WordLevelModel(Dictionary<string, int> vocabulary, string unknownToken) : TokenModel(vocabulary)
{
    /// <inheritdoc/>
    public override void Tokenize(ReadOnlySpan<char> piece, TokenSink sink)
    {
        if (TryGetId(piece, out var id) || TryGetId(unknownToken, out id))
        {
            sink.Add(id, 0, piece.Length);
            return;
        }

        throw new PeftException("TokenizerUnknownTokenMissing",
            $"The text has the word \"{piece}\", and neither it nor the unknown token \"{unknownToken}\" is in the tokenizer's vocabulary.");
    }
}
