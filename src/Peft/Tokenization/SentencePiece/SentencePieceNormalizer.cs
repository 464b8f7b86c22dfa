using Peft.Tokenization.Normalizers;
using Peft.Tokenization.Text;

namespace Peft.Tokenization.SentencePiece;

/// <summary>
/// SentencePiece's own normalization: the longest rule that fits at each place, blanks to ▁, a blank put in front (or behind), and extra
/// blanks removed.
/// </summary>
internal sealed class SentencePieceNormalizer
{
    private const char Blank = '\u2581';
    private readonly SentencePieceFile _file;
    private readonly CharacterMap _map;
    private readonly CharTrie? _symbols;

    /// <summary>The normalization of a model; user-defined symbols pass unchanged.</summary>
    public SentencePieceNormalizer(SentencePieceFile file, CharTrie? symbols, string path)
    {
        _file = file;
        _map = new CharacterMap(file.CharacterMap, path);
        _symbols = symbols;
    }

    /// <summary>Normalizes a text.</summary>
    /// <param name="text">The text.</param>
    /// <param name="prefix">Whether a blank may be put in front.</param>
    /// <returns>The text, and for each of its units, and one more, where it came from.</returns>
    public (string Text, int[] Origins) Normalize(ReadOnlySpan<char> text, bool prefix)
    {
        var limit = TextGrowth.Limit(text.Length);
        var output = new List<char>(text.Length + 1);
        var origins = new List<int>(text.Length + 2);
        var at = _file.RemoveExtraWhitespace ? BlanksInFront(text) : 0;
        if (at == text.Length)
        {
            return (string.Empty, [at]);
        }

        if (!_file.WhitespaceIsSuffix && _file.AddDummyPrefix && prefix)
        {
            Add(" ");
        }

        var afterBlank = _file.RemoveExtraWhitespace;
        while (at < text.Length)
        {
            var replacement = Step(text, at, out var length);
            replacement = afterBlank ? replacement.TrimStart(' ') : replacement;
            if (replacement.Length > 0)
            {
                Add(replacement);
                afterBlank = replacement.EndsWith(' ');
            }

            at += length;
            afterBlank &= _file.RemoveExtraWhitespace;
        }

        at = _file.RemoveExtraWhitespace ? RemoveBlanksBehind(output, origins, at) : at;
        var end = at;
        if (_file.WhitespaceIsSuffix && _file.AddDummyPrefix)
        {
            Add(" ");
        }

        origins.Add(end);
        return (new string([.. output]), [.. origins]);

        void Add(string part)
        {
            TextGrowth.Check((long)output.Count + part.Length, limit);
            foreach (var unit in part)
            {
                output.Add(unit == ' ' && _file.EscapeWhitespace ? Blank : unit);
                origins.Add(at);
            }
        }
    }

    private int BlanksInFront(ReadOnlySpan<char> text)
    {
        var at = 0;
        while (at < text.Length && Step(text, at, out var skipped) is " ")
        {
            at += skipped;
        }

        return at;
    }

    /// <summary>Takes blanks off the end, and says where what is left ends in the text.</summary>
    private int RemoveBlanksBehind(List<char> output, List<int> origins, int end)
    {
        var blank = _file.EscapeWhitespace ? Blank : ' ';
        while (output.Count > 0 && output[^1] == blank)
        {
            end = origins[^1];
            output.RemoveAt(output.Count - 1);
            origins.RemoveAt(origins.Count - 1);
        }

        return end;
    }

    /// <summary>What the text at a place becomes, and how much of it.</summary>
    private string Step(ReadOnlySpan<char> text, int at, out int length)
    {
        if (_symbols is not null && _symbols.Longest(text[at..], out length) >= 0)
        {
            return text.Slice(at, length).ToString();
        }

        CodePoints.At(text, at, out length);
        if (_map.IsEmpty)
        {
            return char.IsSurrogate(text[at]) && length == 1 ? "\uFFFD" : text.Slice(at, length).ToString();
        }

        // Rules are short; a few more code points than the longest one are enough to look at.
        Span<byte> bytes = stackalloc byte[256];
        System.Text.Encoding.UTF8.GetEncoder().Convert(text.Slice(at, Math.Min(text.Length - at, 80)), bytes, flush: true, out _, out var count, out _);
        if (_map.Find(bytes[..count], longest: true, out var taken) is not { } replacement)
        {
            return char.IsSurrogate(text[at]) && length == 1 ? "\uFFFD" : text.Slice(at, length).ToString();
        }

        length = 0;
        for (var used = 0; used < taken;)
        {
            used += CodePoints.Utf8Length(CodePoints.At(text, at + length, out var units));
            length += units;
        }

        return replacement;
    }
}
