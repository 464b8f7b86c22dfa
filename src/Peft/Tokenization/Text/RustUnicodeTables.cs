namespace Peft.Tokenization.Text;

/// <summary>
/// Where the character tables of the tokenizers library's libraries differ from .NET's: most of them are several versions of Unicode older, and what was
/// added since is no mark, no punctuation and has no decomposition there; upper and lower case and numbers are of Unicode 17. All of them
/// list code points: the first, and how many where it is more than one.
/// </summary>
internal static class RustUnicodeTables
{
    /// <summary>Code points whose decomposition is newer than the tokenizers library's; with them the blocks that had no character then.</summary>
    private const string Undecomposed =
        "32FF,A7F1+4,AB69,105C0+40,10780+40,11380+80,11900+60,16100+40,16D40+40,1CC00+2C0,1E030+60,1F16C,1FBF0+A";

    /// <summary>Marks to either .NET or the tokenizers library's StripAccents, but not to both.</summary>
    private const string Marks =
        "7FD,897+9,8CA+A,9FE,AFA+6,B55,C04,C3C,CF3,D00,D3B+2,D81,EBA,ECE,1715,180F,1ABF+10,1CF2+2,1CF7,1DF6+5,A82C,A8FF,10D24+4," +
        "10D69+5,10EAB+2,10EFC+4,10F46+B,10F82+4,11070,11073+2,110C2,11145+2,111C9,111CE+2,11241,1133B,113B8+9,113C2,113C5,113C7+4," +
        "113CC+5,113D2,113E1+2,1145E,1182C+F,11930+6,11937+2,1193B+4,11940,11942+2,119D1+7,119DA+7,119E4,11A01+A,11A33+7,11A3B+4,11A47," +
        "11A51+B,11A8A+10,11D31+6,11D3A,11D3C+2,11D3F+7,11D47,11D8A+5,11D90+2,11D93+5,11EF3+4,11F00+2,11F03,11F34+7,11F3E+5,11F5A," +
        "13440,13447+F,1611E+12,16F4F,16F7F+9,16FE4,16FF0+2,1CF00+2E,1CF30+17,1E08F,1E130+7,1E2AE,1E2EC+4,1E4EC+4,1E5EE+2";

    /// <summary>Nonspacing marks to either .NET or the tokenizers library's BertNormalizer, but not to both.</summary>
    private const string Nonspacing =
        "7FD,897+9,8CA+18,9FE,AFA+6,B55,C04,C3C,D00,D3B+2,D81,EBA,ECE,1734,180F,1885+2,1ABF+10,1DF6+6,A82C,A8C5,A8FF,A9BD,10D24+4," +
        "10D69+5,10EAB+2,10EFC+4,10F46+B,10F82+4,11070,11073+2,110C2,111C9,111CF,1123E,11241,1133B,113BB+6,113CE,113D0,113D2,113E1+2," +
        "11438+8,11442+3,11446,1145E,1171E,1182F+9,11839+2,1193B+2,1193E,11943,119D4+4,119DA+2,119E0,11A01+A,11A33+6,11A3B+4,11A47," +
        "11A51+6,11A59+3,11A8A+D,11A98+2,11C30+7,11C38+6,11C3F,11C92+16,11CAA+7,11CB2+2,11CB5+2,11D31+6,11D3A,11D3C+2,11D3F+7,11D47," +
        "11D90+2,11D95,11D97,11EF3+2,11F00+2,11F36+5,11F40,11F42,11F5A,13440,13447+F,1611E+C,1612D+3,16F4F,16FE4,1CF00+2E,1CF30+17," +
        "1E000+7,1E008+11,1E01B+7,1E023+2,1E026+5,1E08F,1E130+7,1E2AE,1E2EC+4,1E4EC+4,1E5EE+2,1E944+7";

    /// <summary>Punctuation to either .NET or the tokenizers library, but not to both.</summary>
    private const string Punctuation =
        "61D,9FD,A76,C77,C84,166D,1B4E+2,1B7D+3,2E43+D,2E52+C,10D6E,10EAD,10F55+5,10F86+4,111C9,113D4+2,113D7+2,1144B+5,1145A+2,1145D," +
        "11660+D,116B9,1183B,11944+3,119E2,11A3F+8,11A9A+3,11A9E+5,11B00+A,11BE1,11C41+5,11C70+2,11EF7+2,11F43+D,11FFF,12FF1+2,16D6D+3," +
        "16E97+4,16FE2,1E5FF,1E95E+2";

    /// <summary>Format characters that the tokenizers library's BertNormalizer doesn't clean away.</summary>
    private const string Uncontrolled =
        "890+2,8E2,110CD,13430+10";

    /// <summary>Numbers that .NET doesn't know yet.</summary>
    private const string Numbers =
        "11DE0+A,16FF4+3";

    private static readonly HashSet<int> s_undecomposed = Set(Undecomposed);
    private static readonly HashSet<int> s_marks = Set(Marks);
    private static readonly HashSet<int> s_nonspacing = Set(Nonspacing);
    private static readonly HashSet<int> s_punctuation = Set(Punctuation);
    private static readonly HashSet<int> s_uncontrolled = Set(Uncontrolled);
    private static readonly HashSet<int> s_numbers = Set(Numbers);

    /// <summary>Whether the tokenizers library's normal forms can take a character apart, or put it together.</summary>
    public static bool Decomposes(int codePoint) => !s_undecomposed.Contains(codePoint);

    /// <summary>What StripAccents takes out.</summary>
    public static bool IsMark(int codePoint) => CharacterClass.IsMark(codePoint) != s_marks.Contains(codePoint);

    /// <summary>What BertNormalizer takes for an accent.</summary>
    public static bool IsNonspacingMark(int codePoint) =>
        CharacterClass.Category(codePoint) == System.Globalization.UnicodeCategory.NonSpacingMark != s_nonspacing.Contains(codePoint);

    /// <summary>What the Punctuation and BERT pre-tokenizers cut out.</summary>
    public static bool IsPunctuation(int codePoint) =>
        CharacterClass.IsPunctuation(codePoint) != (codePoint >= 0x80 && s_punctuation.Contains(codePoint));

    /// <summary>Whether BertNormalizer leaves a format character where it is.</summary>
    public static bool KeepsFormat(int codePoint) => s_uncontrolled.Contains(codePoint);

    /// <summary>What the Digits pre-tokenizer cuts out.</summary>
    public static bool IsNumeric(int codePoint) => CharacterClass.IsNumeric(codePoint) || (codePoint >= 0x80 && s_numbers.Contains(codePoint));

    /// <summary>Lower case by Unicode 17, whose newest letters .NET doesn't know yet.</summary>
    public static int Lower(int codePoint) => codePoint switch
    {
        0x1C89 or 0xA7CC or 0xA7CE or 0xA7D2 or 0xA7D4 or 0xA7DA => codePoint + 1,
        0xA7CB => 0x264,
        0xA7DC => 0x19B,
        >= 0x10D50 and <= 0x10D65 => codePoint + 0x20,
        >= 0x16EA0 and <= 0x16EB8 => codePoint + 0x1B,
        _ => Casing.Lower(codePoint),
    };

    private static HashSet<int> Set(string ranges) =>
        [.. Scripts.Read(ranges).SelectMany(range => Enumerable.Range(range.Start, range.End - range.Start))];
}
