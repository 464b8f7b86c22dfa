namespace Peft.Tokenization.Models;

/// <summary>The vocabulary and the rule that cuts a piece of text into its tokens. Immutable and safe to use from several threads.</summary>
internal abstract class TokenModel
{
    private readonly Dictionary<string, int> _ids;
    private readonly string?[] _texts;

    /// <summary>A model over a vocabulary.</summary>
    protected TokenModel(Dictionary<string, int> vocabulary)
    {
        _ids = vocabulary;
        var largest = -1;
        foreach (var id in vocabulary.Values)
        {
            if (id is < 0 or > 1 << 28)
            {
                throw new PeftException("TokenizerFileInvalid", $"The tokenizer's vocabulary holds the id {id}, which is no token id.");
            }

            largest = Math.Max(largest, id);
        }

        if (largest > 16 * (vocabulary.Count + 4096L))
        {
            throw new PeftException("TokenizerFileInvalid", $"The tokenizer's vocabulary has {vocabulary.Count} entries and an id of {largest}.");
        }

        _texts = new string?[largest + 1];
        foreach (var (text, id) in vocabulary)
        {
            _texts[id] = text;
        }
    }

    /// <summary>The number of vocabulary entries.</summary>
    public int Size => _ids.Count;

    /// <summary>Token texts to ids.</summary>
    public IReadOnlyDictionary<string, int> Vocabulary => _ids;

    /// <summary>The id of a token, or null.</summary>
    public int? TokenId(string token) => _ids.TryGetValue(token, out var id) ? id : null;

    /// <summary>The text of a token, or null.</summary>
    public string? TokenText(int id) => (uint)id < (uint)_texts.Length ? _texts[id] : null;

    /// <summary>Whether <see cref="TokenizeBytes"/> works.</summary>
    public virtual bool ReadsBytes => false;

    /// <summary>Whether the model turns ids into text itself, with <see cref="Decode"/>.</summary>
    public virtual bool DecodesIds => false;

    /// <summary>Turns ids, or the texts of added tokens, into text.</summary>
    public virtual string Decode(IReadOnlyList<(int Id, string? Added)> tokens) => throw new NotSupportedException();

    /// <summary>Cuts a piece and adds its tokens.</summary>
    public abstract void Tokenize(ReadOnlySpan<char> piece, TokenSink sink);

    /// <summary>Cuts a piece that stands for its UTF-8 bytes in the byte-level alphabet.</summary>
    public virtual void TokenizeBytes(ReadOnlySpan<char> piece, TokenSink sink) => throw new NotSupportedException();

    /// <summary>Looks a span up without making a string of it.</summary>
    protected bool TryGetId(ReadOnlySpan<char> token, out int id) =>
        _ids.GetAlternateLookup<ReadOnlySpan<char>>().TryGetValue(token, out id);
}
