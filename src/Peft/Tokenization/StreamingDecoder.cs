using System.Runtime.InteropServices;

namespace Peft.Tokenization;

/// <summary>
/// Decodes one token at a time: gives out text as soon as it can't change any more, so that no character is shown broken and no space is
/// lost. Together the pieces are what decoding all at once gives.
/// </summary>
public sealed class StreamingDecoder
{
    /// <summary>So many tokens without a whole character are no text; they are given out as they are.</summary>
    private const int LongestWait = 128;

    private readonly Tokenizer _tokenizer;
    private readonly bool _skipSpecialTokens;
    private readonly List<int> _ids = [];
    private string _prefix = string.Empty;
    private int _prefixCount;

    internal StreamingDecoder(Tokenizer tokenizer, bool skipSpecialTokens)
    {
        _tokenizer = tokenizer;
        _skipSpecialTokens = skipSpecialTokens;
    }

    /// <summary>Takes a token and returns the text that is finished by it; empty where nothing is.</summary>
    public string Append(int id)
    {
        if (_prefix.Length == 0 && _ids.Count > 0)
        {
            var prefix = Decode();
            if (!EndsBroken(prefix))
            {
                _prefix = prefix;
                _prefixCount = _ids.Count;
            }
        }

        _ids.Add(id);
        var text = Decode();
        var longer = text.Length > _prefix.Length;
        return longer && (!EndsBroken(text) || _ids.Count > LongestWait) ? Advance(text) : string.Empty;
    }

    /// <summary>Returns what is still held back, broken characters as U+FFFD, and starts afresh.</summary>
    public string Flush()
    {
        var text = _ids.Count == 0 ? string.Empty : Decode();
        var rest = text.Length > _prefix.Length ? text[CommonLength(text)..] : string.Empty;
        _ids.Clear();
        _prefix = string.Empty;
        _prefixCount = 0;
        return rest;
    }

    /// <summary>Gives out what is new and keeps only the last tokens, whose text the next ones may depend on.</summary>
    private string Advance(string text)
    {
        var fresh = text[CommonLength(text)..];
        var kept = _ids.Count - _prefixCount;
        _ids.RemoveRange(0, _prefixCount);
        _prefix = Decode();
        _prefixCount = kept;
        return fresh;
    }

    /// <summary>Where later tokens changed what was given out already, only the rest of that length can still be given.</summary>
    private int CommonLength(string text) => Math.Min(_prefix.Length, text.Length);

    private string Decode() => _tokenizer.Decode(CollectionsMarshal.AsSpan(_ids), _skipSpecialTokens, cleanUp: false);

    private static bool EndsBroken(string text) => text.EndsWith('\uFFFD');
}
