using Peft.Tokenization.AddedTokens;
using Peft.Tokenization.Models;
using Peft.Tokenization.PostProcessors;
using Peft.Tokenization.PreTokenizers;
using Peft.Tokenization.Text;

namespace Peft.Tokenization;

/// <summary>
/// A tokenizer as model folders hold it: text to token ids and back, and chat conversations to text. Gives exactly the ids that the Python
/// packages give. Immutable, and safe to use from several threads.
/// </summary>
/// <example>
/// <code>
/// var tokenizer = Tokenizer.FromFolder("assets/pocket-llama");
/// int[] ids = tokenizer.EncodeIds("Hello, world!");
/// string text = tokenizer.Decode(ids);
/// </code>
/// </example>
public sealed partial class Tokenizer
{
    private readonly TokenizerPipeline _pipeline;
    private readonly TokenizerFiles _files;

    internal Tokenizer(TokenizerPipeline pipeline, TokenizerConfiguration configuration, TokenizerFiles files)
    {
        _pipeline = pipeline;
        _files = files;
        Configuration = configuration;
        ChatTemplates = configuration.ChatTemplates;
    }

    /// <summary>What tokenizer_config.json and its relatives say.</summary>
    public TokenizerConfiguration Configuration { get; }

    /// <summary>The number of different tokens, added ones included. Ids can be larger where the vocabulary has gaps.</summary>
    public int VocabularySize => _pipeline.Model.Size + AddedTokens.Count(token => _pipeline.Model.TokenId(token.Content) is null);

    /// <inheritdoc/>
    public override string ToString() => string.Create(System.Globalization.CultureInfo.InvariantCulture, $"{VocabularySize} tokens");

    /// <summary>The tokens that are found in the text before the model sees it.</summary>
    public IReadOnlyCollection<AddedToken> AddedTokens => _pipeline.AddedTokens.Tokens;

    /// <summary>How encodings are cut, or null. Files opened with <see cref="FromFolder"/> start without; see <see cref="With"/>.</summary>
    public Truncation? Truncation => _pipeline.Truncation;

    /// <summary>How encodings are filled up, or null. Files opened with <see cref="FromFolder"/> start without; see <see cref="With"/>.</summary>
    public Padding? Padding => _pipeline.Padding;

    /// <summary>The token that starts a text, or null.</summary>
    public string? BosToken => Configuration.BosToken;

    /// <summary>The token that ends a text, or null.</summary>
    public string? EosToken => Configuration.EosToken;

    /// <summary>The token that fills batches, or null.</summary>
    public string? PadToken => Configuration.PadToken;

    /// <summary>The token that stands for one to fill in, or null.</summary>
    public string? MaskToken => Configuration.MaskToken;

    /// <summary>The token for what the vocabulary lacks, or null.</summary>
    public string? UnkToken => Configuration.UnkToken;

    /// <summary>The id of <see cref="BosToken"/>, or null.</summary>
    public int? BosTokenId => BosToken is null ? null : TokenId(BosToken);

    /// <summary>The id of <see cref="EosToken"/>, or null.</summary>
    public int? EosTokenId => EosToken is null ? null : TokenId(EosToken);

    /// <summary>The id of <see cref="PadToken"/>, or null.</summary>
    public int? PadTokenId => PadToken is null ? null : TokenId(PadToken);

    /// <summary>The id of <see cref="MaskToken"/>, or null.</summary>
    public int? MaskTokenId => MaskToken is null ? null : TokenId(MaskToken);

    /// <summary>Ids of the special tokens that were added to the vocabulary.</summary>
    public IReadOnlyList<int> SpecialIds => [.. AddedTokens.Where(static token => token.Special).Select(static token => token.Id)];

    /// <summary>The id of <see cref="UnkToken"/>, or null.</summary>
    public int? UnkTokenId => UnkToken is null ? null : TokenId(UnkToken);

    internal TokenizerPipeline Pipeline => _pipeline;

    /// <summary>The same tokenizer with other truncation and padding; null switches them off.</summary>
    public Tokenizer With(Truncation? truncation, Padding? padding) =>
        new(_pipeline with { Truncation = truncation, Padding = padding }, Configuration, _files);

    /// <summary>
    /// The same tokenizer with further tokens, whose ids follow those that there are. They are found in a text before anything else is; saved
    /// files hold them as Hugging Face's packages write theirs.
    /// </summary>
    /// <param name="tokens">Texts that are no tokens yet, and whether each is a special token.</param>
    public Tokenizer WithTokens(IReadOnlyList<(string Text, bool IsSpecial)> tokens)
    {
        ArgumentNullException.ThrowIfNull(tokens);
        var next = Math.Max(_pipeline.Model.Size, AddedTokens.Select(static token => token.Id + 1).DefaultIfEmpty(0).Max());
        AddedToken[] added = [.. tokens.Select((token, index) => new AddedToken { Content = token.Text, Id = next + index, Special = token.IsSpecial, Normalized = !token.IsSpecial })];
        return FolderReader.Read("the extended tokenizer", AddedTokenFiles.With(_files, added)).With(Truncation, Padding);
    }

    /// <summary>The id of a token by its text, or null.</summary>
    public int? TokenId(string token)
    {
        ArgumentNullException.ThrowIfNull(token);
        return _pipeline.AddedTokens.Find(token)?.Id ?? _pipeline.Model.TokenId(token);
    }

    /// <summary>The text of a token as the vocabulary spells it, or null where there is no such id.</summary>
    public string? TokenText(int id) => _pipeline.AddedTokens.Find(id)?.Content ?? _pipeline.Model.TokenText(id);

    /// <summary>Whether an id is a special token's.</summary>
    public bool IsSpecial(int id) => TokenText(id) is { } text && _pipeline.AddedTokens.IsSpecial(text);

    /// <summary>Every token with its id.</summary>
    public IReadOnlyDictionary<string, int> Vocabulary()
    {
        var vocabulary = new Dictionary<string, int>(_pipeline.Model.Vocabulary, StringComparer.Ordinal);
        foreach (var token in AddedTokens)
        {
            vocabulary[token.Content] = token.Id;
        }

        return vocabulary;
    }

    /// <summary>Encodes a text.</summary>
    /// <param name="text">The text.</param>
    /// <param name="addSpecialTokens">Whether the post-processor's tokens (begin, end, separators) are added.</param>
    /// <exception cref="PeftException">The text needs an unknown token and there is none, or truncation leaves no room.</exception>
    public TokenEncoding Encode(string text, bool addSpecialTokens = true)
    {
        ArgumentNullException.ThrowIfNull(text);
        return Finish(addSpecialTokens, new EncodingParts(EncodeText(text, 0, -1), text));
    }

    /// <summary>Encodes a pair of texts.</summary>
    /// <param name="text">The first text.</param>
    /// <param name="pair">The second text.</param>
    /// <param name="addSpecialTokens">Whether the post-processor's tokens are added.</param>
    public TokenEncoding Encode(string text, string pair, bool addSpecialTokens = true)
    {
        ArgumentNullException.ThrowIfNull(text);
        ArgumentNullException.ThrowIfNull(pair);
        return Finish(addSpecialTokens, new EncodingParts(EncodeText(text, 0, -1), text), new EncodingParts(EncodeText(pair, 1, -1), pair));
    }

    /// <summary>Encodes a text that is cut into words already. Offsets count from the start of each word.</summary>
    /// <param name="words">The words.</param>
    /// <param name="addSpecialTokens">Whether the post-processor's tokens are added.</param>
    public TokenEncoding EncodeWords(IReadOnlyList<string> words, bool addSpecialTokens = true)
    {
        ArgumentNullException.ThrowIfNull(words);
        var parts = words.Select((word, i) => new EncodingParts(EncodeText(word, 0, i))).ToList();
        return Finish(addSpecialTokens, new EncodingParts(EncodingParts.Merge(parts).ToEncoding(this), words));
    }

    /// <summary>The ids alone, which is faster.</summary>
    /// <param name="text">The text.</param>
    /// <param name="addSpecialTokens">Whether the post-processor's tokens are added.</param>
    /// <param name="plainSpecialTokens">Whether special tokens that the text spells are read as plain text, as text from strangers should be.</param>
    public int[] EncodeIds(string text, bool addSpecialTokens = true, bool plainSpecialTokens = false)
    {
        ArgumentNullException.ThrowIfNull(text);
        var bare = Truncation is null && Padding is null && (!addSpecialTokens || (_pipeline.PostProcessor?.AddedTokens(false) ?? 0) == 0);
        if (bare)
        {
            return Collect(text, -1, plainSpecialTokens, idsOnly: true).Ids();
        }

        return Finish(addSpecialTokens, new EncodingParts(Collect(text, -1, plainSpecialTokens, idsOnly: false).ToEncoding(this, 0), text)).Ids;
    }

    /// <summary>
    /// The ids of a whole text as a model reads it: with the post-processor's tokens, but the one that begins a text only once where the text
    /// spells it itself, as a rendered conversation does.
    /// </summary>
    /// <param name="text">The text.</param>
    public int[] EncodeWhole(string text)
    {
        var ids = EncodeIds(text);
        return ids is [var first, var second, ..] && first == second && first == BosTokenId && text.StartsWith(BosToken!, StringComparison.Ordinal) ? ids[1..] : ids;
    }

    /// <summary>Encodes texts together, so that padding, where it is on (<see cref="With"/>), fills all up to the longest.</summary>
    /// <param name="texts">The texts.</param>
    /// <param name="addSpecialTokens">Whether the special tokens that frame a text are added.</param>
    public IReadOnlyList<TokenEncoding> EncodeBatch(IEnumerable<string> texts, bool addSpecialTokens = true)
    {
        ArgumentNullException.ThrowIfNull(texts);
        return PadBatch([.. texts.Select(text => Encode(text, addSpecialTokens))]);
    }

    /// <summary>Encodes pairs together, so that padding, where it is on (<see cref="With"/>), fills all up to the longest.</summary>
    /// <param name="pairs">Texts, each with a second one behind it.</param>
    /// <param name="addSpecialTokens">Whether the special tokens that frame a pair are added.</param>
    public IReadOnlyList<TokenEncoding> EncodeBatch(IEnumerable<(string Text, string Pair)> pairs, bool addSpecialTokens = true)
    {
        ArgumentNullException.ThrowIfNull(pairs);
        return PadBatch([.. pairs.Select(pair => Encode(pair.Text, pair.Pair, addSpecialTokens))]);
    }

    /// <summary>Turns ids back into text.</summary>
    /// <param name="ids">Token ids; ids without a token are left out.</param>
    /// <param name="skipSpecialTokens">Whether special tokens are left out.</param>
    /// <param name="cleanUp">
    /// Whether spaces before punctuation and contractions are taken out afterwards; null does what tokenizer_config.json says. Byte-pair
    /// vocabularies are never cleaned up.
    /// </param>
    public string Decode(ReadOnlySpan<int> ids, bool skipSpecialTokens = true, bool? cleanUp = null)
    {
        var decoded = _pipeline.Model.DecodesIds ? DecodeByModel(ids, skipSpecialTokens) : DecodeByText(ids, skipSpecialTokens);
        if (Configuration.TokenizerClass is "CLIPTokenizer" or "CLIPTokenizerFast")
        {
            // transformers' class does this outside of its decoder.
            decoded = decoded.Replace("</w>", " ", StringComparison.Ordinal).Trim();
        }

        return (cleanUp ?? Configuration.CleanUpSpaces) && _pipeline.Model is not BytePairModel ? CleanUp(decoded) : decoded;
    }

    /// <summary>Starts decoding token by token, for text that is shown while it is made.</summary>
    /// <param name="skipSpecialTokens">Whether special tokens are left out.</param>
    public StreamingDecoder CreateDecoder(bool skipSpecialTokens = true) => new(this, skipSpecialTokens);

    private string DecodeByText(ReadOnlySpan<int> ids, bool skipSpecialTokens)
    {
        var tokens = new List<string>(ids.Length);
        var added = _pipeline.AddedTokens;
        foreach (var id in ids)
        {
            var token = added.Find(id);
            if ((token?.Content ?? _pipeline.Model.TokenText(id)) is { } text && !(skipSpecialTokens && added.IsSpecial(text)))
            {
                tokens.Add(token is null ? text : added.DecodedText(token));
            }
        }

        return _pipeline.Decoder is { } decoder ? string.Concat(decoder.Decode(tokens)) : string.Join(' ', tokens);
    }

    private string DecodeByModel(ReadOnlySpan<int> ids, bool skipSpecialTokens)
    {
        var tokens = new List<(int Id, string? Added)>(ids.Length);
        foreach (var id in ids)
        {
            var token = _pipeline.AddedTokens.Find(id);
            if (!(skipSpecialTokens && token is { Special: true }))
            {
                tokens.Add((id, token?.Content));
            }
        }

        return _pipeline.Model.Decode(tokens);
    }

    private static string CleanUp(string text) => text
        .Replace(" .", ".", StringComparison.Ordinal).Replace(" ?", "?", StringComparison.Ordinal).Replace(" !", "!", StringComparison.Ordinal)
        .Replace(" ,", ",", StringComparison.Ordinal).Replace(" ' ", "'", StringComparison.Ordinal).Replace(" n't", "n't", StringComparison.Ordinal)
        .Replace(" 'm", "'m", StringComparison.Ordinal).Replace(" 's", "'s", StringComparison.Ordinal)
        .Replace(" 've", "'ve", StringComparison.Ordinal).Replace(" 're", "'re", StringComparison.Ordinal);

    private TokenEncoding EncodeText(string text, int typeId, int word) => Collect(text, word, plainSpecialTokens: false, idsOnly: false).ToEncoding(this, typeId);

    /// <summary>The ids of a text in which no added token is looked for.</summary>
    private int[] EncodePlain(string text) =>
        new Tokenizer(_pipeline with { AddedTokens = new AddedVocabulary([], _pipeline.Normalizer), Truncation = null, Padding = null }, Configuration, _files)
            .EncodeIds(text, addSpecialTokens: false);

    private TokenSink Collect(string text, int word, bool plainSpecialTokens, bool idsOnly)
    {
        var tokens = new TokenSink(idsOnly, (text.Length / 4) + 8);
        var model = new ModelStep(_pipeline, tokens, word);
        ITextSpanSink first = _pipeline.PreTokenizer is { } splitter ? new SplitStep(splitter, model) : model;
        _pipeline.AddedTokens.Split(text, plainSpecialTokens, first);
        return tokens;
    }

    private TokenEncoding Finish(bool addSpecialTokens, params List<EncodingParts> parts)
    {
        if (Truncation is { } truncation)
        {
            var added = addSpecialTokens ? _pipeline.PostProcessor?.AddedTokens(parts.Count > 1) ?? 0 : 0;
            Truncate(parts, truncation, truncation.MaximumLength - added);
        }

        for (var i = 0; i < parts.Count; i++)
        {
            Array.Fill(parts[i].SequenceIds, i);
            parts[i].Overflowing.ForEach(part => Array.Fill(part.SequenceIds, i));
            if (_pipeline.PostProcessor is not null)
            {
                Array.Fill(parts[i].TypeIds, i);
            }
        }

        if (_pipeline.PostProcessor is { } processor)
        {
            parts = processor.Process(parts, addSpecialTokens);
        }

        var merged = EncodingParts.Merge(parts);
        if (Padding is { } padding)
        {
            merged.Pad(PaddedLength(padding.Length ?? merged.Ids.Length, padding), padding);
        }

        return merged.ToEncoding(this);
    }

    private static void Truncate(List<EncodingParts> parts, Truncation truncation, int length)
    {
        if (length < 0)
        {
            throw new PeftException("TruncationTooShort",
                $"The maximum length of {truncation.MaximumLength} tokens is less than the special tokens alone.");
        }

        var total = parts.Sum(part => part.Ids.Length);
        var excess = total - length;
        if (excess <= 0)
        {
            return;
        }

        if (length == 0)
        {
            parts.ForEach(part => part.Truncate(0, truncation.Stride, truncation.Direction));
            return;
        }

        if (truncation.Strategy == TruncationStrategy.LongestFirst)
        {
            var (first, second) = Shares(parts[0].Ids.Length, parts.Count > 1 ? parts[1].Ids.Length : 0, length, parts.Count > 1);
            parts[0].Truncate(first, truncation.Stride, truncation.Direction);
            if (parts.Count > 1)
            {
                parts[1].Truncate(second, truncation.Stride, truncation.Direction);
            }

            return;
        }

        var index = truncation.Strategy == TruncationStrategy.OnlyFirst ? 0 : 1;
        if (index >= parts.Count)
        {
            throw new PeftException("TruncationPairMissing", "Truncation is set to shorten the second text only, and there is none.");
        }

        var target = parts[index];
        if (target.Ids.Length <= excess)
        {
            throw new PeftException("TruncationTooShort",
                $"The {(index == 0 ? "first" : "second")} text has {target.Ids.Length} tokens, too few to take {excess} away.");
        }

        target.Truncate(target.Ids.Length - excess, truncation.Stride, truncation.Direction);
    }

    /// <summary>How many tokens each of a pair keeps: the shorter one all of its own where it fits, else half each.</summary>
    private static (int First, int Second) Shares(int first, int second, int length, bool pair)
    {
        if (!pair)
        {
            return (length, 0);
        }

        var swap = first > second;
        var (shorter, longer) = swap ? (second, first) : (first, second);
        longer = shorter > length ? shorter : Math.Max(shorter, length - shorter);
        if (shorter + longer > length)
        {
            shorter = length / 2;
            longer = shorter + (length % 2);
        }

        return swap ? (longer, shorter) : (shorter, longer);
    }

    private static int PaddedLength(int length, Padding padding) =>
        padding.MultipleOf is > 0 and { } multiple && length % multiple != 0 ? length + multiple - (length % multiple) : length;

    private IReadOnlyList<TokenEncoding> PadBatch(List<TokenEncoding> encodings)
    {
        if (Padding is not { Length: null } padding || encodings.Count == 0)
        {
            return encodings;
        }

        var length = PaddedLength(encodings.Max(encoding => encoding.Count), padding);
        return encodings.ConvertAll(encoding =>
        {
            var parts = new EncodingParts(encoding, []);
            parts.Pad(length, padding);
            return parts.ToEncoding(this);
        });
    }

    /// <summary>Hands pieces to the pre-tokenizer, and added tokens past it.</summary>
    private sealed class SplitStep(PreTokenizer splitter, ModelStep model) : ITextSpanSink
    {
        public void Add(in TextSpan piece)
        {
            if (piece.TokenId >= 0)
            {
                model.Add(piece);
            }
            else
            {
                splitter.Split(piece, model);
            }
        }
    }

    /// <summary>Hands pieces to the model.</summary>
    private sealed class ModelStep(TokenizerPipeline pipeline, TokenSink tokens, int givenWord) : ITextSpanSink
    {
        private int _word;

        public void Add(in TextSpan piece)
        {
            var word = givenWord >= 0 ? givenWord : _word;
            _word++;
            if (piece.TokenId >= 0)
            {
                AddToken(piece, word);
            }
            else if (piece.Bytes && pipeline.Model.ReadsBytes)
            {
                tokens.Begin(piece, word);
                pipeline.Model.TokenizeBytes(piece.Span, tokens);
            }
            else
            {
                var spelled = piece.Spelled();
                tokens.Begin(spelled, word);
                pipeline.Model.Tokenize(spelled.Span, tokens);
            }
        }

        private void AddToken(in TextSpan piece, int word)
        {
            tokens.Begin(piece, word);
            var content = pipeline.AddedTokens.Find(piece.TokenId)!.Content;
            if (piece.Span.SequenceEqual(content))
            {
                tokens.Add(piece.TokenId, 0, piece.Length);
            }
            else
            {
                tokens.Add(piece.TokenId, 0, piece.Length, piece.Span.ToString());
            }
        }
    }
}
