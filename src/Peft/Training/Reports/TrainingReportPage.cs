using System.Globalization;
using System.Net;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using Peft.Files;
using Peft.Training.Diffusion;

namespace Peft.Training.Reports;

/// <summary>Writes one page of HTML about one training or several: curves, samples, options, environment. It needs nothing beside it and nothing from the net.</summary>
public static class TrainingReportPage
{
    private const int Kilo = 1000;

    /// <summary>Writes the page.</summary>
    /// <param name="path">The file.</param>
    /// <param name="runs">The trainings, each with the examples with the highest loss, or none.</param>
    /// <param name="title">What stands above it; null for the adapters' names.</param>
    /// <exception cref="PeftException"><c>TrainingRecordMissing</c>: there are no trainings.</exception>
    public static void Write(string path, IReadOnlyList<(TrainingRecord Record, IReadOnlyList<HardExample> Hardest)> runs, string? title = null)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        AtomicFile.WriteText(path, Html(runs, title));
    }

    /// <summary>The page as text.</summary>
    /// <param name="runs">The trainings, each with the examples with the highest loss, or none.</param>
    /// <param name="title">What stands above it; null for the adapters' names.</param>
    public static string Html(IReadOnlyList<(TrainingRecord Record, IReadOnlyList<HardExample> Hardest)> runs, string? title = null)
    {
        ArgumentNullException.ThrowIfNull(runs);
        if (runs.Count == 0)
        {
            throw new PeftException("TrainingRecordMissing", "There is no training to report on.");
        }

        title ??= $"Training of {string.Join(", ", runs.Select(static run => run.Record.AdapterName).Distinct(StringComparer.Ordinal))}";
        return Resource("report.html")
            .Replace("{{title}}", WebUtility.HtmlEncode(title), StringComparison.Ordinal)
            .Replace("{{style}}", Resource("report.css"), StringComparison.Ordinal)
            .Replace("{{script}}", Resource("report.js"), StringComparison.Ordinal)
            .Replace("{{data}}", Data(runs), StringComparison.Ordinal);
    }

    private static string Resource(string name)
    {
        using var stream = typeof(TrainingReportPage).Assembly.GetManifestResourceStream($"Peft.Training.Reports.Page.{name}")!;
        using var reader = new StreamReader(stream, Encoding.UTF8);
        return reader.ReadToEnd().TrimEnd();
    }

    /// <summary>The figures as JSON that may stand in a page: its writer escapes what HTML would read.</summary>
    private static string Data(IReadOnlyList<(TrainingRecord Record, IReadOnlyList<HardExample> Hardest)> runs)
    {
        using var bytes = new MemoryStream();
        using (var json = new Utf8JsonWriter(bytes))
        {
            json.WriteStartObject();
            json.WriteStartArray("runs");
            for (var i = 0; i < runs.Count; i++)
            {
                Write(json, runs[i].Record, runs[i].Hardest, NameOf(runs, i));
            }

            json.WriteEndArray();
            json.WriteEndObject();
        }

        return Encoding.UTF8.GetString(bytes.ToArray());
    }

    /// <summary>The adapter's name, with a number where several have it.</summary>
    private static string NameOf(IReadOnlyList<(TrainingRecord Record, IReadOnlyList<HardExample> Hardest)> runs, int index)
    {
        var name = runs[index].Record.AdapterName;
        return runs.Count(run => run.Record.AdapterName == name) > 1 ? FormattableString.Invariant($"{name} ({index + 1})") : name;
    }

    private static void Write(Utf8JsonWriter json, TrainingRecord record, IReadOnlyList<HardExample> hardest, string name)
    {
        json.WriteStartObject();
        json.WriteString("name", name);
        json.WriteString("objective", record.Objective);
        json.WriteString("model", record.Run?.Model);
        json.WriteString("data", record.Run?.Data);
        json.WriteString("started", record.Run?.Started.ToString("yyyy-MM-dd HH:mm zzz", CultureInfo.InvariantCulture));
        json.WriteString("command", RunCommand.Of(record));
        json.WriteNumber("parameters", record.TrainedParameters);
        json.WriteNumber("tokens", record.TokenCount);
        Number(json, "tokensPerSecond", record.TokensPerSecond);
        WriteSteps(json, record.Steps);
        var pictures = SamplePictures.In(record.OutputPath);
        WriteEvaluations(json, record.Evaluations, pictures.Select(static picture => picture.Sample.Text).ToHashSet(StringComparer.Ordinal));
        WritePictures(json, record.OutputPath, pictures);
        Texts(json, "options", JsonNode.Parse(record.Options.ToJson())!.AsObject().Where(static entry => entry.Value is not null).Select(static entry => (entry.Key, entry.Value is JsonValue value && value.TryGetValue<string>(out var text) ? text : entry.Value!.ToJsonString())));
        Texts(json, "environment", (record.Run?.Environment ?? new Dictionary<string, string>()).Select(static entry => (entry.Key, entry.Value)));
        json.WriteStartArray("messages");
        foreach (var message in record.Messages)
        {
            json.WriteStringValue(message);
        }

        json.WriteEndArray();
        json.WriteStartArray("hardest");
        foreach (var example in hardest)
        {
            json.WriteStartObject();
            Number(json, "loss", example.Loss);
            json.WriteString("place", example.Place);
            json.WriteStartArray("parts");
            foreach (var segment in example.Segments)
            {
                json.WriteStartObject();
                json.WriteString("text", VisibleText.Of(segment.Text));
                json.WriteBoolean("learnt", segment.IsLearned);
                json.WriteEndObject();
            }

            json.WriteEndArray();
            json.WriteEndObject();
        }

        json.WriteEndArray();
        json.WriteEndObject();
    }

    private static void WriteSteps(Utf8JsonWriter json, IReadOnlyList<StepRecord> steps)
    {
        json.WriteStartObject("steps");
        Numbers(json, "step", steps.Select(static step => (double)step.Step));
        Numbers(json, "loss", steps.Select(static step => step.Loss));
        Numbers(json, "rate", steps.Select(static step => step.LearningRate));
        Numbers(json, "norm", steps.Select(static step => step.GradientNorm));
        Numbers(json, "tokens", steps.Select(static step => (double)step.Tokens));
        Numbers(json, "seconds", steps.Select(static step => Math.Round(step.Seconds, 4)), figures: 9);
        Numbers(json, "memory", steps.Select(static step => step.MemoryBytes is { } bytes ? Math.Round((double)bytes / (Kilo * Kilo)) : double.NaN));
        json.WriteEndObject();
        json.WriteStartObject("metrics");
        foreach (var name in steps.SelectMany(static step => step.Metrics?.Keys ?? []).Distinct(StringComparer.Ordinal))
        {
            Numbers(json, name, steps.Select(step => step.Metrics?.TryGetValue(name, out var value) == true ? value : double.NaN));
        }

        json.WriteEndObject();
    }

    private static void WriteEvaluations(Utf8JsonWriter json, IReadOnlyList<EvaluationRecord> evaluations, HashSet<string> pictures)
    {
        json.WriteStartArray("evaluations");
        foreach (var evaluation in evaluations)
        {
            json.WriteStartObject();
            json.WriteNumber("step", evaluation.Step);
            Number(json, "loss", evaluation.Loss);
            json.WriteStartObject("metrics");
            foreach (var (name, value) in evaluation.Metrics ?? new Dictionary<string, double>())
            {
                Number(json, name, value);
            }

            json.WriteEndObject();
            json.WriteStartArray("samples");
            foreach (var sample in (evaluation.Samples ?? []).Where(sample => !pictures.Contains(sample.Text)))
            {
                json.WriteStartObject();
                json.WriteString("prompt", VisibleText.Of(sample.Prompt));
                json.WriteString("text", VisibleText.Of(sample.Text));
                json.WriteEndObject();
            }

            json.WriteEndArray();
            json.WriteEndObject();
        }

        json.WriteEndArray();
    }

    /// <summary>What a diffusion model drew along the way, whole, for the page stands alone.</summary>
    private static void WritePictures(Utf8JsonWriter json, string? folder, IReadOnlyList<(int Step, TrainingSample Sample)> pictures)
    {
        json.WriteStartArray("pictures");
        foreach (var (step, sample) in pictures)
        {
            json.WriteStartObject();
            json.WriteNumber("step", step);
            json.WriteString("prompt", VisibleText.Of(sample.Prompt));
            json.WriteBase64String("png", File.ReadAllBytes(Path.Combine(folder!, sample.Text)));
            json.WriteEndObject();
        }

        json.WriteEndArray();
    }

    private static void Texts(Utf8JsonWriter json, string name, IEnumerable<(string Key, string Value)> entries)
    {
        json.WriteStartObject(name);
        foreach (var (key, value) in entries)
        {
            json.WriteString(key, value);
        }

        json.WriteEndObject();
    }

    private static void Numbers(Utf8JsonWriter json, string name, IEnumerable<double> values, int figures = 6)
    {
        json.WriteStartArray(name);
        foreach (var value in values)
        {
            json.WriteRawValue(Spelt(value, figures));
        }

        json.WriteEndArray();
    }

    private static void Number(Utf8JsonWriter json, string name, double value)
    {
        json.WritePropertyName(name);
        json.WriteRawValue(Spelt(value, 6));
    }

    private static string Spelt(double value, int figures) => !double.IsFinite(value) ? "null"
        : value == Math.Floor(value) && Math.Abs(value) < 1e15 ? value.ToString("F0", CultureInfo.InvariantCulture)
        : value.ToString($"G{figures}", CultureInfo.InvariantCulture);
}
