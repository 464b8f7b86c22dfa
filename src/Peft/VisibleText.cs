using System.Globalization;
using System.Text;

namespace Peft;

/// <summary>
/// Text for a terminal. Names in files are foreign data: an escape code in one could clear the screen, colour what follows or type for the
/// user, and a mark of writing direction could make one name look like another.
/// </summary>
public static class VisibleText
{
    private const char FirstPicture = '\u2400';
    private const char DeletePicture = '\u2421';

    /// <summary>The text with control characters, but for line breaks and tabs, as something to look at.</summary>
    /// <param name="text">Any text.</param>
    /// <returns>The text itself where it holds none; else with Unicode's pictures of them, or as <c>\u009b</c>.</returns>
    public static string Of(string text)
    {
        ArgumentNullException.ThrowIfNull(text);
        if (!text.Any(IsControl))
        {
            return text;
        }

        var visible = new StringBuilder(text.Length + 16);
        for (var i = 0; i < text.Length; i++)
        {
            var unit = text[i];
            var isBreak = unit is '\n' or '\t' || (unit == '\r' && i + 1 < text.Length && text[i + 1] == '\n');
            if (isBreak || !IsControl(unit))
            {
                visible.Append(unit);
            }
            else if (unit < ' ' || unit == '\u007F')
            {
                visible.Append(unit < ' ' ? (char)(FirstPicture + unit) : DeletePicture);
            }
            else
            {
                visible.Append(CultureInfo.InvariantCulture, $"\\u{(int)unit:x4}");
            }
        }

        return visible.ToString();
    }

    /// <summary>Whether a name holds something that it can't be shown with: control characters, marks of direction, half a surrogate pair.</summary>
    internal static bool IsNeeded(string name) => name.Any(IsControl) || HasLoneSurrogate(name);

    private static bool IsControl(char unit) => char.IsControl(unit) || unit is (>= '\u202A' and <= '\u202E') or (>= '\u2066' and <= '\u2069');

    private static bool HasLoneSurrogate(string text)
    {
        for (var i = 0; i < text.Length; i++)
        {
            if (char.IsSurrogate(text[i]))
            {
                if (i + 1 >= text.Length || !char.IsSurrogatePair(text[i], text[i + 1]))
                {
                    return true;
                }

                i++;
            }
        }

        return false;
    }
}
