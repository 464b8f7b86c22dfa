using System.Text;

namespace Peft.Tokenization.Text;

/// <summary>Upper and lower case by Unicode's own rules, whatever the culture.</summary>
internal static class Casing
{
    /// <summary>Lower case; a sigma at the end of a word is a final one.</summary>
    public static string Lower(string text)
    {
        var builder = new StringBuilder(text.Length);
        for (var i = 0; i < text.Length;)
        {
            var codePoint = CodePoints.At(text, i, out var length);
            if (codePoint == 0x3A3)
            {
                builder.Append(IsFinal(text, i) ? '\u03C2' : '\u03C3');
            }
            else
            {
                AppendLower(builder, codePoint);
            }

            i += length;
        }

        return builder.ToString();
    }

    /// <summary>Upper case, with the characters that become several.</summary>
    public static string Upper(string text)
    {
        var builder = new StringBuilder(text.Length);
        for (var i = 0; i < text.Length;)
        {
            var codePoint = CodePoints.At(text, i, out var length);
            if (CaseFolding.Expanded(codePoint) is { } several && Upper(codePoint) == codePoint)
            {
                foreach (var part in several)
                {
                    builder.Append(CodePoints.Text(Upper(part)));
                }
            }
            else
            {
                builder.Append(CodePoints.Text(Upper(codePoint)));
            }

            i += length;
        }

        return builder.ToString();
    }

    /// <summary>Each word's first letter upper case, the rest lower case; anything without case ends a word.</summary>
    public static string Title(string text)
    {
        var builder = new StringBuilder(text.Length);
        var inside = false;
        for (var i = 0; i < text.Length;)
        {
            CodePoints.At(text, i, out var length);
            var character = text.Substring(i, length);
            builder.Append(inside ? Lower(character) : Upper(character));
            inside = HasCase(character);
            i += length;
        }

        return builder.ToString();
    }

    /// <summary>The first character upper case, the rest lower case.</summary>
    public static string Capitalize(string text)
    {
        if (text.Length == 0)
        {
            return text;
        }

        CodePoints.At(text, 0, out var length);
        return Upper(text[..length]) + Lower(text[length..]);
    }

    /// <summary>Full case folding.</summary>
    public static string Fold(string text)
    {
        var builder = new StringBuilder(text.Length);
        for (var i = 0; i < text.Length;)
        {
            var codePoint = CodePoints.At(text, i, out var length);
            foreach (var part in CaseFolding.Fold(codePoint))
            {
                builder.Append(CodePoints.Text(part));
            }

            i += length;
        }

        return builder.ToString();
    }

    /// <summary>Whether any character has an upper or lower case.</summary>
    public static bool HasCase(string text)
    {
        for (var i = 0; i < text.Length;)
        {
            var codePoint = CodePoints.At(text, i, out var length);
            if (Upper(codePoint) != codePoint || Lower(codePoint) != codePoint || codePoint == 0xDF)
            {
                return true;
            }

            i += length;
        }

        return false;
    }

    /// <summary>Appends the lower case of one code point, whatever stands around it.</summary>
    public static void AppendLower(StringBuilder builder, int codePoint)
    {
        if (codePoint == 0x130)
        {
            builder.Append("i\u0307");
        }
        else
        {
            builder.Append(CodePoints.Text(Lower(codePoint)));
        }
    }

    /// <summary>The simple lower case of a code point.</summary>
    public static int Lower(int codePoint) => Rune.IsValid(codePoint) ? Rune.ToLowerInvariant(new Rune(codePoint)).Value : codePoint;

    /// <summary>The simple upper case of a code point.</summary>
    public static int Upper(int codePoint) => codePoint switch
    {
        0x131 => 'I',
        0x17F => 'S',
        _ => Rune.IsValid(codePoint) ? Rune.ToUpperInvariant(new Rune(codePoint)).Value : codePoint,
    };

    private static bool IsFinal(string text, int at)
    {
        var before = at > 0 && char.IsLetter(text[at - 1]);
        var after = at + 1 < text.Length && char.IsLetter(text[at + 1]);
        return before && !after;
    }
}
