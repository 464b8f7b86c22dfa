using System.Text.Json;
using System.Text.Json.Nodes;
using Peft.Adapters;

namespace Peft.Training.Reports;

/// <summary>Writes a training down as the command that repeats it.</summary>
internal static class RunCommand
{
    // What another run decides anew.
    private const string Compute = "compute";
    private const string Method = "peft_type";
    private static readonly string[] s_notConfigured = ["inference_mode", "auto_mapping", "base_model_name_or_path", "revision", "peft_version"];

    /// <summary>The command; null where nobody wrote down what the training ran on.</summary>
    public static string? Of(TrainingRecord record)
    {
        if (record.Run is not { Model: { } model } run)
        {
            return null;
        }

        var isPreference = Objectives.ObjectiveRegistry.Create(record.Options).ExampleKind is Data.ExampleKind.Pair or Data.ExampleKind.Judged;
        var options = Table(Changed(record.Options), indent: 4);
        var lines = new List<string> { $"Import-PeftModel {Quoted(model)}{(run.DataType is { } type ? $" -DataType {type}" : "")} |", $"    {(isPreference ? "Invoke-PreferenceTraining" : "Invoke-LoraTraining")}" };
        lines[^1] += run.Config is null ? " -Full" : $" -Config {Table(Without(run.Config), indent: 4)}";
        lines[^1] += $" -Dataset {Quoted(run.Data ?? "data.jsonl")}";
        if (run.EvaluationData is { } evaluation)
        {
            lines[^1] += $" -EvaluationDataset {Quoted(evaluation)}";
        }

        lines[^1] += (run.Config is null ? "" : $" -AdapterName {Quoted(record.AdapterName)}") + (options.Length > 0 ? $" -Options {options}" : "");
        return string.Join('\n', lines);
    }

    /// <summary>The options that aren't the defaults, with the names that stand in files.</summary>
    internal static JsonObject Changed(TrainingOptions options)
    {
        var defaults = JsonNode.Parse(new TrainingOptions().ToJson())!.AsObject();
        return new JsonObject(JsonNode.Parse(options.ToJson())!.AsObject()
            .Where(entry => entry.Key != Compute && !JsonNode.DeepEquals(entry.Value, defaults[entry.Key]))
            .Select(static entry => KeyValuePair.Create(entry.Key, entry.Value?.DeepClone())));
    }

    private static JsonObject Without(JsonObject config)
    {
        var defaults = AdapterConfig.FromJson(new JsonObject { [Method] = config[Method]?.DeepClone() }).ToJson();
        return new(config
            .Where(entry => entry.Key == Method || (!s_notConfigured.Contains(entry.Key) && entry.Value is not null and not JsonObject { Count: 0 } && !JsonNode.DeepEquals(entry.Value, defaults[entry.Key])))
            .Select(static entry => KeyValuePair.Create(entry.Key, entry.Value?.DeepClone())));
    }

    private static string Table(JsonObject table, int indent) => table.Count == 0 ? "" : "@{\n"
        + string.Concat(table.Select(entry => $"{new string(' ', indent + 4)}{Quoted(entry.Key)} = {Value(entry.Value, indent + 4)}\n")) + new string(' ', indent) + "}";

    private static string Value(JsonNode? value, int indent) => value switch
    {
        null => "$null",
        JsonObject { Count: 0 } => "@{}",
        JsonObject table => Table(table, indent),
        JsonArray list => $"@({string.Join(", ", list.Select(item => Value(item, indent)))})",
        _ => value.GetValueKind() switch
        {
            JsonValueKind.String => Quoted(value.GetValue<string>()),
            JsonValueKind.True => "$true",
            JsonValueKind.False => "$false",
            _ => value.ToJsonString(),
        },
    };

    private static string Quoted(string text) => $"'{text.Replace("'", "''", StringComparison.Ordinal)}'";
}
