using System.Globalization;

namespace Peft.Tokenization.Text;

/// <summary>Unicode properties of code points, as the tokenizers library's patterns understand them.</summary>
internal static class CharacterClass
{
    /// <summary>Neither letter nor number nor white space.</summary>
    public const byte Other = 0;

    /// <summary>General category L.</summary>
    public const byte Letter = 1;

    /// <summary>General category N.</summary>
    public const byte Number = 2;

    /// <summary>White space other than line breaks.</summary>
    public const byte Space = 3;

    /// <summary>Carriage return or line feed.</summary>
    public const byte Break = 4;

    private static readonly byte[] s_kinds = MakeKinds();

    /// <summary>Letter, number, space, break or other.</summary>
    public static byte Kind(int codePoint) => codePoint < 0x10000 ? s_kinds[codePoint] : Compute(codePoint);

    /// <summary>The kinds of the basic plane, for scanners.</summary>
    public static ReadOnlySpan<byte> Kinds => s_kinds;

    /// <summary>The general category; also of lone surrogates.</summary>
    public static UnicodeCategory Category(int codePoint) => CharUnicodeInfo.GetUnicodeCategory(codePoint);

    /// <summary>White_Space.</summary>
    public static bool IsWhiteSpace(int codePoint) => codePoint < 0x10000 && char.IsWhiteSpace((char)codePoint);

    /// <summary>Categories Nd, Nl and No.</summary>
    public static bool IsNumeric(int codePoint) => Category(codePoint)
        is UnicodeCategory.DecimalDigitNumber or UnicodeCategory.LetterNumber or UnicodeCategory.OtherNumber;

    /// <summary>Categories Mn, Mc and Me.</summary>
    public static bool IsMark(int codePoint) => Category(codePoint)
        is UnicodeCategory.NonSpacingMark or UnicodeCategory.SpacingCombiningMark or UnicodeCategory.EnclosingMark;

    /// <summary>Category P, and the ASCII symbols that BERT counts as punctuation.</summary>
    public static bool IsPunctuation(int codePoint) => codePoint < 0x80
        ? codePoint is (>= 0x21 and <= 0x2F) or (>= 0x3A and <= 0x40) or (>= 0x5B and <= 0x60) or (>= 0x7B and <= 0x7E)
        : Category(codePoint) is >= UnicodeCategory.ConnectorPunctuation and <= UnicodeCategory.OtherPunctuation;

    private static byte[] MakeKinds()
    {
        var kinds = new byte[0x10000];
        for (var i = 0; i < kinds.Length; i++)
        {
            kinds[i] = Compute(i);
        }

        return kinds;
    }

    private static byte Compute(int codePoint)
    {
        if (codePoint is '\r' or '\n')
        {
            return Break;
        }

        if (IsWhiteSpace(codePoint))
        {
            return Space;
        }

        return Category(codePoint) switch
        {
            <= UnicodeCategory.OtherLetter => Letter,
            UnicodeCategory.DecimalDigitNumber or UnicodeCategory.LetterNumber or UnicodeCategory.OtherNumber => Number,
            _ => Other,
        };
    }
}
