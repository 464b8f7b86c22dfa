using System.Runtime.InteropServices;
using System.Text.Json;
using System.Text.Json.Nodes;
using Peft.Engine;
using Peft.Files;

namespace Peft.Training.Reports;

/// <summary>What a training ran on and where: what its options don't say. Saved beside the adapter.</summary>
public sealed record TrainingRun
{
    /// <inheritdoc/>
    public override string ToString() => $"{Model} on {Data}";

    /// <summary>Name of the file in an adapter's folder.</summary>
    public const string FileName = "training_run.json";

    /// <summary>When it began, or was gone on with the last time.</summary>
    public DateTimeOffset Started { get; init; } = DateTimeOffset.Now;

    /// <summary>The base model's folder, or its name.</summary>
    public string? Model { get; init; }

    /// <summary>The type that its weights were loaded in, such as <c>bfloat16</c>.</summary>
    public string? DataType { get; init; }

    /// <summary>Where the rows came from.</summary>
    public string? Data { get; init; }

    /// <summary>Where the rows for evaluation came from; null for none of their own.</summary>
    public string? EvaluationData { get; init; }

    /// <summary>The adapter's configuration, as its file has it; null where the base itself was trained.</summary>
    public JsonObject? Config { get; init; }

    /// <summary>Number of trained parameters.</summary>
    public long TrainedParameters { get; init; }

    /// <summary>What computed: the engine, the processor, the system.</summary>
    public IReadOnlyDictionary<string, string> Environment { get; init => field = Values.Of(value ?? new Dictionary<string, string>()); } = Values.Of(new Dictionary<string, string>());

    /// <summary>That of a training.</summary>
    internal static TrainingRun Of(TrainingRequest request, TrainedPart part, IReadOnlyList<TrainedParameter> trained) => new()
    {
        Model = request.Model.Path ?? request.Model.Name,
        DataType = request.Model.DataType.ToString().ToLowerInvariant(),
        Data = request.DataOrigin,
        EvaluationData = request.EvaluationOrigin,
        Config = part.IsBase ? null : part.Config,
        TrainedParameters = trained.Sum(static entry => entry.Parameter.Count),
        Environment = CurrentEnvironment(),
    };

    /// <summary>What this process computes with.</summary>
    public static IReadOnlyDictionary<string, string> CurrentEnvironment()
    {
        var engine = EngineDescription.Current;
        return new Dictionary<string, string>
        {
            ["Peft"] = typeof(TrainingRun).Assembly.GetName().Version?.ToString(3) ?? "",
            ["Engine"] = engine.Engine,
            ["Kernels"] = engine.Kernels,
            ["Processor"] = engine.Processor,
            ["Threads"] = FormattableString.Invariant($"{engine.Threads}"),
            ["System"] = RuntimeInformation.OSDescription,
            [".NET"] = RuntimeInformation.FrameworkDescription,
        };
    }

    /// <summary>Reads what a training left in its folder; null where there is nothing that can be read.</summary>
    internal static TrainingRun? Read(string folder)
    {
        try
        {
            return JsonFile.ReadNode(Path.Combine(folder, FileName)).Deserialize<TrainingRun>(JsonFile.WriteOptions);
        }
        catch (Exception error) when (error is PeftException or JsonException)
        {
            return null;
        }
    }

    /// <summary>Writes it into a folder.</summary>
    internal void Save(string folder) => AtomicFile.WriteText(Path.Combine(folder, FileName), JsonSerializer.Serialize(this, JsonFile.WriteOptions) + "\n");
}
