namespace Peft.Tokenization.Text;

/// <summary>
/// The alphabet of byte-level tokenizers (GPT-2): each byte is one printable character; visible Latin-1 stands for itself, the other bytes
/// for the characters from U+0100 on.
/// </summary>
internal static class ByteLevelAlphabet
{
    private static readonly char[] s_characters = MakeCharacters();
    private static readonly short[] s_bytes = MakeBytes();

    /// <summary>The character of a byte.</summary>
    public static char Character(byte value) => s_characters[value];

    /// <summary>The byte of a character, or -1 where the character isn't in the alphabet.</summary>
    public static int Byte(char character) => character < s_bytes.Length ? s_bytes[character] : -1;

    /// <summary>Appends the UTF-8 bytes of a text in this alphabet; every byte has its whole character's origin.</summary>
    /// <param name="text">The text.</param>
    /// <param name="index">Where it starts in the string that <paramref name="map"/> belongs to.</param>
    /// <param name="map">The origins.</param>
    /// <param name="builder">What to append to.</param>
    public static void Spell(ReadOnlySpan<char> text, int index, Alignment map, TextBuilder builder)
    {
        Span<byte> bytes = stackalloc byte[4];
        for (var i = 0; i < text.Length;)
        {
            var codePoint = CodePoints.At(text, i, out var length);
            var start = map.Start(index + i);
            var end = map.End(index + i + length - 1);
            var count = Utf8(codePoint, bytes);
            for (var b = 0; b < count; b++)
            {
                builder.Add(s_characters[bytes[b]], start, end);
            }

            i += length;
        }
    }

    /// <summary>The UTF-8 bytes of a code point, a lone surrogate as U+FFFD; returns how many.</summary>
    public static int Utf8(int codePoint, Span<byte> bytes)
    {
        if (codePoint < 0x80)
        {
            bytes[0] = (byte)codePoint;
            return 1;
        }

        if (codePoint < 0x800)
        {
            bytes[0] = (byte)(0xC0 | (codePoint >> 6));
            bytes[1] = (byte)(0x80 | (codePoint & 0x3F));
            return 2;
        }

        if (codePoint < 0x10000)
        {
            if (codePoint is >= 0xD800 and <= 0xDFFF)
            {
                codePoint = 0xFFFD;
            }

            bytes[0] = (byte)(0xE0 | (codePoint >> 12));
            bytes[1] = (byte)(0x80 | ((codePoint >> 6) & 0x3F));
            bytes[2] = (byte)(0x80 | (codePoint & 0x3F));
            return 3;
        }

        bytes[0] = (byte)(0xF0 | (codePoint >> 18));
        bytes[1] = (byte)(0x80 | ((codePoint >> 12) & 0x3F));
        bytes[2] = (byte)(0x80 | ((codePoint >> 6) & 0x3F));
        bytes[3] = (byte)(0x80 | (codePoint & 0x3F));
        return 4;
    }

    private static char[] MakeCharacters()
    {
        var characters = new char[256];
        var next = 0x100;
        for (var b = 0; b < 256; b++)
        {
            var visible = b is >= 0x21 and <= 0x7E or >= 0xA1 and <= 0xAC or >= 0xAE;
            characters[b] = (char)(visible ? b : next++);
        }

        return characters;
    }

    private static short[] MakeBytes()
    {
        var bytes = new short[0x100 + 68];
        Array.Fill(bytes, (short)-1);
        for (var b = 0; b < 256; b++)
        {
            bytes[s_characters[b]] = (short)b;
        }

        return bytes;
    }
}
