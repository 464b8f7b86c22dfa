#if MICROSOFT_ML_TOKENIZERS
using System.Buffers;
using Peft.Tokenization.AddedTokens;
using MicrosoftToken = Microsoft.ML.Tokenizers.EncodedToken;

namespace Peft.Tokenization.Interop;

/// <summary>
/// A tokenizer of this library in the type that .NET programs exchange. Offsets count UTF-16 units; texts are never normalized, so the
/// normalized text that the base class asks for is always null.
/// </summary>
public sealed class MicrosoftTokenizer : Microsoft.ML.Tokenizers.Tokenizer
{
    private readonly bool _addSpecialTokens;

    /// <summary>Wraps a tokenizer.</summary>
    /// <param name="inner">The tokenizer.</param>
    /// <param name="addSpecialTokens">Whether encoding adds the post-processor's tokens (begin, end, separators).</param>
    public MicrosoftTokenizer(Tokenizer inner, bool addSpecialTokens = false)
    {
        ArgumentNullException.ThrowIfNull(inner);
        Inner = inner;
        _addSpecialTokens = addSpecialTokens;
    }

    /// <summary>The wrapped tokenizer.</summary>
    public Tokenizer Inner { get; }

    /// <inheritdoc/>
    public override string Decode(IEnumerable<int> ids)
    {
        ArgumentNullException.ThrowIfNull(ids);
        return Inner.Decode([.. ids], skipSpecialTokens: false);
    }

    /// <inheritdoc/>
    public override OperationStatus Decode(IEnumerable<int> ids, Span<char> destination, out int idsConsumed, out int charsWritten)
    {
        ArgumentNullException.ThrowIfNull(ids);
        var all = ids.ToArray();
        var text = Inner.Decode(all, skipSpecialTokens: false);
        if (text.TryCopyTo(destination))
        {
            (idsConsumed, charsWritten) = (all.Length, text.Length);
            return OperationStatus.Done;
        }

        // As many ids as fit, so that the caller can go on with the others.
        var (fits, most) = (0, all.Length);
        while (fits < most)
        {
            var middle = fits + ((most - fits + 1) / 2);
            if (Inner.Decode(all.AsSpan(0, middle), skipSpecialTokens: false).Length <= destination.Length)
            {
                fits = middle;
            }
            else
            {
                most = middle - 1;
            }
        }

        var part = Inner.Decode(all.AsSpan(0, fits), skipSpecialTokens: false);
        part.CopyTo(destination);
        (idsConsumed, charsWritten) = (fits, part.Length);
        return OperationStatus.DestinationTooSmall;
    }

    /// <inheritdoc/>
    protected override Microsoft.ML.Tokenizers.EncodeResults<MicrosoftToken> EncodeToTokens(
        string? text, ReadOnlySpan<char> textSpan, Microsoft.ML.Tokenizers.EncodeSettings settings)
    {
        var encoding = Inner.Encode(text ?? textSpan.ToString(), _addSpecialTokens);
        var tokens = new List<MicrosoftToken>(encoding.Count);
        for (var i = 0; i < encoding.Count && i < settings.MaxTokenCount; i++)
        {
            tokens.Add(new MicrosoftToken(encoding.Ids[i], encoding.Tokens[i], encoding.Offsets[i].Start..encoding.Offsets[i].End));
        }

        return new Microsoft.ML.Tokenizers.EncodeResults<MicrosoftToken>
        {
            Tokens = tokens,
            NormalizedText = null,
            CharsConsumed = Consumed(encoding, tokens.Count, (text ?? textSpan.ToString()).Length),
        };
    }

    /// <inheritdoc/>
    protected override Microsoft.ML.Tokenizers.EncodeResults<int> EncodeToIds(
        string? text, ReadOnlySpan<char> textSpan, Microsoft.ML.Tokenizers.EncodeSettings settings)
    {
        var encoding = Inner.Encode(text ?? textSpan.ToString(), _addSpecialTokens);
        var count = Math.Min(encoding.Count, settings.MaxTokenCount);
        return new Microsoft.ML.Tokenizers.EncodeResults<int>
        {
            Tokens = encoding.Ids.AsSpan(0, count).ToArray(),
            NormalizedText = null,
            CharsConsumed = Consumed(encoding, count, (text ?? textSpan.ToString()).Length),
        };
    }

    /// <inheritdoc/>
    protected override int CountTokens(string? text, ReadOnlySpan<char> textSpan, Microsoft.ML.Tokenizers.EncodeSettings settings) =>
        Math.Min(Inner.EncodeIds(text ?? textSpan.ToString(), _addSpecialTokens).Length, settings.MaxTokenCount);

    /// <inheritdoc/>
    protected override int GetIndexByTokenCount(
        string? text, ReadOnlySpan<char> textSpan, Microsoft.ML.Tokenizers.EncodeSettings settings, bool fromEnd, out string? normalizedText, out int tokenCount)
    {
        var length = (text ?? textSpan.ToString()).Length;
        var encoding = Inner.Encode(text ?? textSpan.ToString(), _addSpecialTokens);
        normalizedText = null;
        tokenCount = Math.Min(encoding.Count, settings.MaxTokenCount);
        if (!fromEnd)
        {
            return Consumed(encoding, tokenCount, length);
        }

        return tokenCount == encoding.Count ? 0 : encoding.Offsets[encoding.Count - tokenCount - 1].End;
    }

    /// <summary>How much of the text the first tokens cover.</summary>
    private static int Consumed(TokenEncoding encoding, int count, int length) =>
        count == encoding.Count ? length : count == 0 ? 0 : encoding.Offsets[count - 1].End;
}

/// <summary>Uses one of Microsoft.ML.Tokenizers' tokenizers where a tokenizer of this library is asked for.</summary>
public static class MicrosoftTokenizerExtensions
{
    /// <summary>This tokenizer in the type that .NET programs exchange.</summary>
    /// <param name="tokenizer">The tokenizer.</param>
    /// <param name="addSpecialTokens">Whether encoding adds the post-processor's tokens.</param>
    public static Microsoft.ML.Tokenizers.Tokenizer ToMicrosoftTokenizer(this Tokenizer tokenizer, bool addSpecialTokens = false) =>
        new MicrosoftTokenizer(tokenizer, addSpecialTokens);

    /// <summary>A tokenizer that asks one of Microsoft.ML.Tokenizers' (Tiktoken, SentencePiece, BPE, WordPiece) for ids and text.</summary>
    /// <param name="tokenizer">The tokenizer to ask.</param>
    /// <param name="specialTokens">
    /// The model's special tokens by name (<c>bos_token</c>, <c>eos_token</c>, <c>pad_token</c>, ...) with text and id, or null for none.
    /// </param>
    public static Tokenizer ToPeftTokenizer(
        this Microsoft.ML.Tokenizers.Tokenizer tokenizer, IReadOnlyDictionary<string, (string Text, int Id)>? specialTokens = null)
    {
        ArgumentNullException.ThrowIfNull(tokenizer);
        if (tokenizer is MicrosoftTokenizer wrapped)
        {
            return wrapped.Inner;
        }

        var named = specialTokens ?? new Dictionary<string, (string, int)>(StringComparer.Ordinal);
        var added = named.Values.DistinctBy(token => token.Id).Select(token => new AddedToken { Content = token.Text, Id = token.Id, Special = true });
        return new Tokenizer(
            new TokenizerPipeline { Model = new ForeignModel(tokenizer), AddedTokens = new AddedTokens.AddedVocabulary(added, null) },
            new TokenizerConfiguration { SpecialTokens = named.ToDictionary(token => token.Key, token => token.Value.Text, StringComparer.Ordinal) },
            TokenizerFiles.None);
    }

    /// <summary>A model whose tokens another library finds. It has no vocabulary to list, only ids and their texts.</summary>
    private sealed class ForeignModel(Microsoft.ML.Tokenizers.Tokenizer tokenizer) : Models.TokenModel(new Dictionary<string, int>(StringComparer.Ordinal))
    {
        public override bool DecodesIds => true;

        public override void Tokenize(ReadOnlySpan<char> piece, Models.TokenSink sink)
        {
            var tokens = tokenizer.EncodeToTokens(piece, out var normalized);
            var length = piece.Length;
            foreach (var token in tokens)
            {
                // Offsets are those of the normalized text where there is one; only equal lengths say where that came from.
                var (start, end) = (token.Offset.Start.GetOffset(normalized?.Length ?? length), token.Offset.End.GetOffset(normalized?.Length ?? length));
                sink.AddAt(token.Id, sink.Origin + Math.Min(start, length), sink.Origin + Math.Min(end, length), token.Value);
            }
        }

        public override string Decode(IReadOnlyList<(int Id, string? Added)> tokens)
        {
            var text = new System.Text.StringBuilder();
            var run = new List<int>();
            foreach (var (id, added) in tokens)
            {
                if (added is null)
                {
                    run.Add(id);
                    continue;
                }

                text.Append(tokenizer.Decode(run)).Append(added);
                run.Clear();
            }

            return text.Append(tokenizer.Decode(run)).ToString();
        }
    }
}
#endif
