using System.Globalization;
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
            if (CaseFolding.Expanded(codePoint) is { } several && codePoint is not (0x130 or 0x1E9E) && (Upper(codePoint) == codePoint || HasIotaBelow(codePoint)))
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
            builder.Append(inside ? Lower(character) : TitleOf(character));
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
        return TitleOf(text[..length]) + Lower(text[length..]);
    }

    /// <summary>A character at the start of a word: digraphs have a form of their own, Georgian letters stay, and of several letters only the first is upper case.</summary>
    private static string TitleOf(string character)
    {
        var codePoint = CodePoints.At(character, 0, out _);
        switch (codePoint)
        {
            case >= 0x1C4 and <= 0x1CC:
                return CodePoints.Text(0x1C5 + ((codePoint - 0x1C4) / 3 * 3));
            case >= 0x1F1 and <= 0x1F3:
                return CodePoints.Text(0x1F2);
            case 0x149:
                return "\u02BCN";
            case var _ when HasIotaBelow(codePoint):
                return CodePoints.Text(Upper(codePoint));
            case (>= 0x10D0 and <= 0x10FA) or (>= 0x10FD and <= 0x10FF):
                return character;
            default:
                var upper = Upper(character);
                CodePoints.At(upper, 0, out var length);
                return upper[..length] + Lower(upper[length..]);
        }
    }

    /// <summary>Greek letters with a small iota below, which stays small at the start of a word.</summary>
    private static bool HasIotaBelow(int codePoint) => codePoint is (>= 0x1F80 and <= 0x1FAF) or 0x1FB3 or 0x1FBC or 0x1FC3 or 0x1FCC or 0x1FF3 or 0x1FFC;

    /// <summary>Whether there are upper case letters and no others that have case.</summary>
    public static bool IsUpper(string text) => HasOnly(text, UnicodeCategory.UppercaseLetter, UnicodeCategory.LowercaseLetter);

    /// <summary>Whether there are lower case letters and no others that have case.</summary>
    public static bool IsLower(string text) => HasOnly(text, UnicodeCategory.LowercaseLetter, UnicodeCategory.UppercaseLetter);

    private static bool HasOnly(string text, UnicodeCategory wanted, UnicodeCategory unwanted)
    {
        var found = false;
        for (var i = 0; i < text.Length;)
        {
            var category = CharacterClass.Category(CodePoints.At(text, i, out var length));
            if (category == unwanted || category == UnicodeCategory.TitlecaseLetter)
            {
                return false;
            }

            found |= category == wanted;
            i += length;
        }

        return found;
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
