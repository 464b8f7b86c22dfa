using System.Text.Json;

namespace Peft.Training.Data;

/// <summary>What a column of a data set holds.</summary>
/// <param name="Name">Its name.</param>
/// <param name="Role">The part it plays; null where it plays none.</param>
/// <param name="Filled">Rows in which it isn't empty.</param>
/// <param name="Distinct">Different values.</param>
/// <param name="Longest">Characters of its longest value.</param>
/// <param name="Example">Its first value that isn't empty.</param>
public sealed record ColumnPreview(string Name, ColumnRole? Role, int Filled, int Distinct, int Longest, string Example)
{
    private static readonly JsonSerializerOptions s_json = new(Files.JsonFile.WriteOptions) { WriteIndented = false };

    /// <inheritdoc/>
    public override string ToString() => Role is { } role ? $"{Name} ({role})" : Name;

    internal static ColumnPreview Of(string name, TrainingDataset dataset)
    {
        string[] filled = [.. dataset.Rows.Select(row => Text(row.Values.GetValueOrDefault(name))).Where(static text => text.Length > 0)];
        ColumnRole[] roles = [.. dataset.Columns.Names.Where(entry => entry.Value == name).Select(static entry => entry.Key)];
        return new ColumnPreview(
            name, roles.Length > 0 ? roles[0] : null, filled.Length, filled.Distinct(StringComparer.Ordinal).Count(), filled.Select(static text => text.Length).DefaultIfEmpty().Max(), filled.FirstOrDefault() ?? "");
    }

    private static string Text(object? value) => value switch
    {
        null => "",
        string text => text,
        _ => JsonSerializer.Serialize(value, s_json),
    };
}
