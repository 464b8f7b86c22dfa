using System.Text;
using Peft.Files;

namespace Peft.Training.Data;

/// <summary>Finds out how a text file is encoded, and refuses bytes that aren't.</summary>
internal static class TextEncoding
{
    private const int ShiftJis = 932;

    static TextEncoding() => Encoding.RegisterProvider(CodePagesEncodingProvider.Instance);

    /// <summary>The encoding to read a file in.</summary>
    /// <param name="path">The file.</param>
    /// <param name="name">What the user chose, or null.</param>
    /// <returns>An encoding that throws on invalid bytes.</returns>
    /// <exception cref="PeftException"><c>DatasetEncodingUnknown</c>.</exception>
    public static Encoding Of(string path, string? name)
    {
        if (name is not null)
        {
            return Named(name);
        }

        Span<byte> start = stackalloc byte[4];
        using (var file = CompressedFile.Open(path))
        {
            var count = file.Content.ReadAtLeast(start, 4, throwOnEndOfStream: false);
            if (Marked(start[..count]) is { } marked)
            {
                return marked;
            }
        }

        var utf8 = new UTF8Encoding(false, true);
        if (IsValid(path, utf8, out _))
        {
            return utf8;
        }

        // Latin letters with accents may be valid Shift-JIS by chance, but give no kana; Japanese text is full of them.
        var shiftJis = Strict(ShiftJis);
        if (IsValid(path, shiftJis, out var hasKana) && hasKana)
        {
            return shiftJis;
        }

        throw new PeftException("DatasetEncodingUnknown", $"'{path}' is neither UTF-8 nor Japanese text in Shift-JIS, and has no byte order mark.")
        {
            Target = path,
            RecommendedAction = "Name its encoding, for instance windows-1252.",
        };
    }

    private static Encoding? Marked(ReadOnlySpan<byte> start) => start switch
    {
        [0xEF, 0xBB, 0xBF, ..] => new UTF8Encoding(true, true),
        [0xFF, 0xFE, 0, 0] => new UTF32Encoding(false, true, true),
        [0, 0, 0xFE, 0xFF] => new UTF32Encoding(true, true, true),
        [0xFF, 0xFE, ..] => new UnicodeEncoding(false, true, true),
        [0xFE, 0xFF, ..] => new UnicodeEncoding(true, true, true),

        // Without a mark, a first line of Latin letters still shows: every other byte is zero.
        [not 0, 0, not 0, 0] => new UnicodeEncoding(false, false, true),
        [0, not 0, 0, not 0] => new UnicodeEncoding(true, false, true),
        _ => null,
    };

    private static Encoding Named(string name)
    {
        try
        {
            return Encoding.GetEncoding(name, EncoderFallback.ExceptionFallback, DecoderFallback.ExceptionFallback);
        }
        catch (ArgumentException error)
        {
            throw new PeftException("DatasetEncodingUnknown", $"There is no text encoding named '{name}'.", error)
            {
                Target = name,
                RecommendedAction = "Use a name such as utf-8, utf-16, shift_jis or windows-1252.",
            };
        }
    }

    private static Encoding Strict(int codePage) => Encoding.GetEncoding(codePage, EncoderFallback.ExceptionFallback, DecoderFallback.ExceptionFallback);

    private static bool IsValid(string path, Encoding encoding, out bool hasKana)
    {
        using var file = CompressedFile.Open(path);
        hasKana = false;
        var decoder = encoding.GetDecoder();
        var bytes = new byte[1 << 16];
        var characters = new char[encoding.GetMaxCharCount(bytes.Length)];
        try
        {
            while (file.Content.Read(bytes) is var count && count > 0)
            {
                var decoded = decoder.GetChars(bytes.AsSpan(0, count), characters, flush: false);
                hasKana |= characters.AsSpan(0, decoded).ContainsAnyInRange('\u3041', '\u30FA');
            }

            decoder.GetChars([], characters, flush: true);
            return true;
        }
        catch (DecoderFallbackException)
        {
            return false;
        }
    }
}
