using System.Globalization;

namespace Peft.Tokenization.Text;

/// <summary>
/// <c>\w</c> as Unicode's recommendation for regular expressions has it (UTS 18, annex C): alphabetic, marks, decimal digits, connectors and
/// the two joiners. This is what the Whitespace pre-tokenizer and single-word tokens mean by a word.
/// </summary>
internal static class WordCharacter
{
    /// <summary>Whether a code point belongs to words.</summary>
    public static bool Is(int codePoint) => CharacterClass.Category(codePoint) switch
    {
        <= UnicodeCategory.OtherLetter => true,
        UnicodeCategory.NonSpacingMark or UnicodeCategory.SpacingCombiningMark or UnicodeCategory.EnclosingMark => true,
        UnicodeCategory.DecimalDigitNumber or UnicodeCategory.LetterNumber or UnicodeCategory.ConnectorPunctuation => true,
        UnicodeCategory.Format => codePoint is 0x200C or 0x200D,
        UnicodeCategory.OtherSymbol => codePoint is (>= 0x24B6 and <= 0x24E9) or (>= 0x1F130 and <= 0x1F149) or (>= 0x1F150 and <= 0x1F169) or (>= 0x1F170 and <= 0x1F189),
        _ => false,
    };
}
