using System.Collections;
using System.Globalization;
using System.Management.Automation;

namespace Peft.Module;

/// <summary>Takes an object of the pipeline as a row of a data set: its values as JSON would have them.</summary>
internal static class DatasetRow
{
    /// <summary>The values of an object by column; a plain text is a row with a <c>text</c>.</summary>
    public static IReadOnlyDictionary<string, object?> From(PSObject item) => item.BaseObject switch
    {
        string text => new Dictionary<string, object?>(StringComparer.Ordinal) { ["text"] = text },
        IDictionary table => Table(table),
        _ => Properties(item),
    };

    private static Dictionary<string, object?> Table(IDictionary table)
    {
        var row = new Dictionary<string, object?>(StringComparer.Ordinal);
        foreach (DictionaryEntry entry in table)
        {
            row[entry.Key.ToString()!] = Value(entry.Value);
        }

        return row;
    }

    private static Dictionary<string, object?> Properties(PSObject item)
    {
        var row = new Dictionary<string, object?>(StringComparer.Ordinal);
        foreach (var property in item.Properties)
        {
            row[property.Name] = Value(property.Value);
        }

        return row;
    }

    private static object? Value(object? value) => (value is PSObject wrapped ? wrapped.BaseObject : value) switch
    {
        null => null,
        string text => text,
        bool truth => truth,
        sbyte or byte or short or ushort or int or uint or long => Convert.ToInt64(Unwrap(value), CultureInfo.InvariantCulture),
        float or double or decimal or ulong => Convert.ToDouble(Unwrap(value), CultureInfo.InvariantCulture),
        IDictionary table => Table(table),
        IEnumerable list => list.Cast<object?>().Select(Value).ToList(),
        PSCustomObject => Properties((PSObject)value!),
        IFormattable other => other.ToString(null, CultureInfo.InvariantCulture),
        _ => Properties(PSObject.AsPSObject(value)),
    };

    private static object? Unwrap(object? value) => value is PSObject wrapped ? wrapped.BaseObject : value;
}
