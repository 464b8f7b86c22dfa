namespace Peft.Training.Data;

/// <summary>The names under which layouts of rows are known.</summary>
internal static class DatasetLayout
{
    /// <summary>What a data set's rows are.</summary>
    public static string Of(TrainingDataset dataset) => dataset.Parts.Count > 0
        ? string.Join(" + ", dataset.Parts.Select(static part => part.Layout).Distinct(StringComparer.Ordinal))
        : Of(dataset.Columns, dataset.Rows[0]);

    private static string Of(DatasetColumns columns, TrainingRow row) => columns.Kind switch
    {
        var kind when kind == RowKind.Messages => IsShareGpt(row, columns[ColumnRole.Messages]!) ? "ShareGPT" : "Chat",
        var kind when kind == RowKind.Instruction && columns[ColumnRole.Instruction] is "instruction" && columns[ColumnRole.Input] is "input" => "Alpaca",
        var kind when columns.IsConversation(row) => $"{kind.Name} (chat)",
        var kind => kind.Name,
    };

    private static bool IsShareGpt(TrainingRow row, string column) =>
        row.Values.GetValueOrDefault(column) is IReadOnlyList<object?> { Count: > 0 } list && list[0] is IReadOnlyDictionary<string, object?> first && first.ContainsKey("from") && !first.ContainsKey("role");
}
