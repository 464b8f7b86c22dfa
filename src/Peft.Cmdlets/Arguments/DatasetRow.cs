using System.Collections;
using System.Globalization;
using System.Management.Automation;
using System.Numerics;
using System.Text.Json;
using Peft.Training.Data;

namespace Peft.Cmdlets.Arguments;

/// <summary>Takes an object of the pipeline as a row of a data set: its values as JSON would have them.</summary>
internal static class DatasetRow
{
    /// <summary>As deep as a file of JSON may be nested.</summary>
    private const int MaxDepth = 64;

    /// <summary>The values of an object by column; a plain text is a row with a <c>text</c>.</summary>
    /// <exception cref="PeftException"><c>DatasetRowInvalid</c>: it is a folder, or nested without end.</exception>
    public static IReadOnlyDictionary<string, object?> From(PSObject item) => item.BaseObject switch
    {
        string text => new Dictionary<string, object?>(StringComparer.Ordinal) { ["text"] = text },
        TrainingRow row => row.Values,
        IDictionary table => Table(table, MaxDepth),
        DirectoryInfo folder => throw Invalid($"'{folder.FullName}' is a folder, not a row.", folder, "Pipe in its files, with Get-ChildItem -File, or rows."),
        _ => Properties(item, MaxDepth),
    };

    /// <summary>A value as JSON would have it: tables, lists and custom objects all the way down, any other object as its text.</summary>
    /// <param name="value">The value.</param>
    /// <param name="depth">How many levels may lie below.</param>
    /// <exception cref="PeftException"><c>DatasetRowInvalid</c>: it is nested without end.</exception>
    public static object? Value(object? value, int depth = MaxDepth) => value.Unwrap() switch
    {
        null => null,
        string text => text,
        bool truth => truth,
        sbyte or byte or short or ushort or int or uint or long => Convert.ToInt64(value.Unwrap(), CultureInfo.InvariantCulture),
        BigInteger whole => whole,
        ulong whole => new BigInteger(whole),
        float or double or decimal => Convert.ToDouble(value.Unwrap(), CultureInfo.InvariantCulture),
        IEnumerable or PSCustomObject when depth == 0 => throw Invalid($"a value is nested more than {MaxDepth} levels deep.", value, "See that no table or list holds itself."),
        IDictionary table => Table(table, depth),
        IEnumerable list => list.Cast<object?>().Select(entry => Value(entry, depth - 1)).ToList(),
        PSCustomObject => Properties((PSObject)value!, depth),

        // Other objects aren't entered: their properties may lead on for ever, as DirectoryInfo.Root does.
        IFormattable other => other.ToString(null, CultureInfo.InvariantCulture),
        var other => other.ToString(),
    };

    /// <summary>A value of JSON as a table would have it, as far as a tutorial's arguments go.</summary>
    public static object? FromJson(JsonElement value) => value.ValueKind switch
    {
        JsonValueKind.True => true,
        JsonValueKind.False => false,
        JsonValueKind.Null or JsonValueKind.Undefined => null,
        JsonValueKind.String => value.GetString(),
        JsonValueKind.Array => value.EnumerateArray().Select(FromJson).ToList(),
        _ => value,
    };

    private static Dictionary<string, object?> Table(IDictionary table, int depth)
    {
        var row = new Dictionary<string, object?>(StringComparer.Ordinal);
        foreach (DictionaryEntry entry in table)
        {
            row[entry.Key.ToString()!] = Value(entry.Value, depth - 1);
        }

        return row;
    }

    private static Dictionary<string, object?> Properties(PSObject item, int depth)
    {
        var row = new Dictionary<string, object?>(StringComparer.Ordinal);
        foreach (var property in item.Properties)
        {
            row[property.Name] = Value(property.Value, depth - 1);
        }

        return row;
    }

    private static PeftException Invalid(string what, object? target, string action) =>
        new("DatasetRowInvalid", what) { Target = target, RecommendedAction = action };
}
