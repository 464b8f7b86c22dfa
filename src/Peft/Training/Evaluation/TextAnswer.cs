using System.Globalization;
using System.Text;

namespace Peft.Training.Evaluation;

/// <summary>What a model answered to a question of a data set, beside what was expected.</summary>
/// <param name="Index">The row's index, counted from 0.</param>
/// <param name="Prompt">The question as the model read it.</param>
/// <param name="Expected">The data set's answer.</param>
/// <param name="Answer">The model's.</param>
public sealed record TextAnswer(int Index, string Prompt, string Expected, string Answer)
{
    /// <summary>Whether both are the same text, but for white space around them.</summary>
    public bool IsExact => Answer.Trim() == Expected.Trim();

    /// <summary>Whether both are the same words: case, punctuation, accents' encoding and white space don't count.</summary>
    public bool IsNormalized => Normalized(Answer) == Normalized(Expected);

    /// <summary>Whether the answer has the expected words in it, compared as <see cref="IsNormalized"/> does.</summary>
    public bool IsContained => Normalized(Expected) is { Length: > 0 } expected && $" {Normalized(Answer)} ".Contains($" {expected} ", StringComparison.Ordinal);

    /// <summary>What the user's own test said of it; null where there was none.</summary>
    public bool? IsPassed { get; init; }

    /// <inheritdoc/>
    public override string ToString() => Answer;

    /// <summary>Compatibility forms, lower case, letters and digits alone, words parted by one space. Scripts without spaces keep theirs joined.</summary>
    private static string Normalized(string text)
    {
        var words = new StringBuilder(text.Length);
        foreach (var rune in text.Normalize(NormalizationForm.FormKC).ToLowerInvariant().EnumerateRunes())
        {
            if (Rune.IsLetterOrDigit(rune) || Rune.GetUnicodeCategory(rune) is UnicodeCategory.NonSpacingMark or UnicodeCategory.SpacingCombiningMark or UnicodeCategory.CurrencySymbol or UnicodeCategory.MathSymbol)
            {
                words.Append(rune.ToString());
            }
            else if (rune.Value is not ('\'' or '’') && words.Length > 0 && words[^1] != ' ')
            {
                words.Append(' ');
            }
        }

        return words.ToString().TrimEnd();
    }
}
