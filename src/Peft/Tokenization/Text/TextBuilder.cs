using System.Text;

namespace Peft.Tokenization.Text;

/// <summary>Text under construction, with the origin of each UTF-16 unit.</summary>
internal sealed class TextBuilder
{
    private readonly long _limit;
    private char[] _characters;
    private int[] _starts;
    private int[] _ends;

    /// <summary>A builder with room for <paramref name="capacity"/> units, which refuses to hold more than <paramref name="limit"/>.</summary>
    public TextBuilder(int capacity, long limit = int.MaxValue)
    {
        _limit = limit;
        capacity = Math.Max(capacity, 16);
        _characters = new char[capacity];
        _starts = new int[capacity];
        _ends = new int[capacity];
    }

    /// <summary>The number of UTF-16 units so far.</summary>
    public int Count { get; private set; }

    /// <summary>Adds one UTF-16 unit.</summary>
    public void Add(char unit, int start, int end)
    {
        if (Count == _characters.Length)
        {
            Grow();
        }

        _characters[Count] = unit;
        _starts[Count] = start;
        _ends[Count] = end;
        Count++;
    }

    /// <summary>Adds one code point (a lone surrogate is its own code point).</summary>
    public void AddCodePoint(int codePoint, int start, int end)
    {
        if (codePoint < 0x10000)
        {
            Add((char)codePoint, start, end);
            return;
        }

        var rest = codePoint - 0x10000;
        Add((char)(0xD800 + (rest >> 10)), start, end);
        Add((char)(0xDC00 + (rest & 0x3FF)), start, end);
    }

    /// <summary>The origin of unit <paramref name="index"/>.</summary>
    public (int Start, int End) Origin(int index) => (_starts[index], _ends[index]);

    /// <summary>The text so far.</summary>
    public string Text() => new(_characters, 0, Count);

    /// <summary>The origins so far. The builder must not grow afterwards.</summary>
    public Alignment Alignment() => new(_starts, _ends);

    private void Grow()
    {
        TextGrowth.Check((long)Count + 1, _limit);
        var size = (int)Math.Min((long)_characters.Length * 2, Math.Min(Math.Max(_limit, _characters.Length + 1), Array.MaxLength));
        Array.Resize(ref _characters, size);
        Array.Resize(ref _starts, size);
        Array.Resize(ref _ends, size);
    }
}

/// <summary>
/// How much longer a tokenizer file may make a text. Real ones double it at most; without a bound a file of a few lines, whose steps double
/// what the step before gave, asks for more memory than there is.
/// </summary>
internal static class TextGrowth
{
    private const long Factor = 64;
    private const long Free = 1 << 20;

    /// <summary>The longest text that may come of one of <paramref name="length"/> units.</summary>
    public static long Limit(long length) => Math.Min((length * Factor) + Free, Array.MaxLength);

    /// <summary>Throws where a text gets too long.</summary>
    /// <exception cref="PeftException"><c>TokenizerTextTooLong</c>.</exception>
    public static void Check(long length, long limit)
    {
        if (length > limit)
        {
            throw new PeftException("TokenizerTextTooLong", $"The tokenizer's rules make a text longer than {limit} characters, {Factor} times as long as it was.");
        }
    }
}

/// <summary>Walks over text by code points.</summary>
internal static class CodePoints
{
    /// <summary>The code point at <paramref name="index"/> and its length in UTF-16 units. A lone surrogate is its own code point.</summary>
    public static int At(ReadOnlySpan<char> text, int index, out int length)
    {
        var unit = text[index];
        if (char.IsHighSurrogate(unit) && index + 1 < text.Length && char.IsLowSurrogate(text[index + 1]))
        {
            length = 2;
            return char.ConvertToUtf32(unit, text[index + 1]);
        }

        length = 1;
        return unit;
    }

    /// <summary>The code point before <paramref name="index"/> and its length in UTF-16 units.</summary>
    public static int Before(ReadOnlySpan<char> text, int index, out int length)
    {
        var unit = text[index - 1];
        if (char.IsLowSurrogate(unit) && index > 1 && char.IsHighSurrogate(text[index - 2]))
        {
            length = 2;
            return char.ConvertToUtf32(text[index - 2], unit);
        }

        length = 1;
        return unit;
    }

    /// <summary>The number of code points.</summary>
    public static int Count(ReadOnlySpan<char> text)
    {
        var count = 0;
        for (var i = 0; i < text.Length; count++)
        {
            At(text, i, out var length);
            i += length;
        }

        return count;
    }

    /// <summary>The number of UTF-8 bytes of a code point; a lone surrogate is written as U+FFFD.</summary>
    public static int Utf8Length(int codePoint) => codePoint < 0x80 ? 1 : codePoint < 0x800 ? 2 : codePoint < 0x10000 ? 3 : 4;

    /// <summary>The code point as text.</summary>
    public static string Text(int codePoint) =>
        codePoint < 0x10000 ? ((char)codePoint).ToString() : new Rune(codePoint).ToString();
}
