using System.Collections.ObjectModel;
using System.Globalization;

namespace Peft;

/// <summary>A list that says what is in it where it is turned into text, as a cell of a table or of a CSV file is.</summary>
/// <typeparam name="T">What is in it.</typeparam>
/// <param name="values">The values, which must not change any more.</param>
public sealed class Values<T>(IList<T> values) : ReadOnlyCollection<T>(values)
{
    private const int Shown = 20;

    /// <summary>The values, of many the first ones and how many there are.</summary>
    public override string ToString() =>
        string.Join(", ", this.Take(Shown).Select(static value => value is IFormattable figure ? figure.ToString(null, CultureInfo.InvariantCulture) : value?.ToString()))
        + (Count > Shown ? string.Create(CultureInfo.InvariantCulture, $", … ({Count:N0})") : "");
}

/// <summary>A table of texts that says what is in it where it is turned into text.</summary>
/// <param name="values">The texts by name, which must not change any more.</param>
public sealed class NamedTexts(IDictionary<string, string> values) : ReadOnlyDictionary<string, string>(values)
{
    /// <summary>Each name with its text.</summary>
    public override string ToString() => string.Join(", ", this.Select(static entry => $"{entry.Key} = {entry.Value}"));
}

/// <summary>Makes lists that say what is in them.</summary>
public static class Values
{
    /// <summary>A list of values.</summary>
    /// <typeparam name="T">What is in it.</typeparam>
    /// <param name="values">The values.</param>
    public static Values<T> Of<T>(IEnumerable<T> values) => values as Values<T> ?? new([.. values]);

    /// <summary>A table of texts.</summary>
    /// <param name="values">The texts by name.</param>
    public static NamedTexts Of(IReadOnlyDictionary<string, string> values) => values as NamedTexts ?? new(values.ToDictionary(StringComparer.Ordinal));
}
