using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using Peft.Files;

namespace Peft.Diffusion.Schedulers;

/// <summary>A <c>scheduler_config.json</c>: its options by diffusers' names. What it leaves out has the default of the scheduler that reads it.</summary>
public sealed class SchedulerConfig
{
    /// <summary>The file's name in a model folder.</summary>
    public const string FileName = "scheduler_config.json";

    // Betas are kept in arrays, and a file may say anything.
    private const int MaxTrainTimesteps = 1_000_000;

    /// <summary>Wraps a document.</summary>
    /// <param name="document">The document.</param>
    public SchedulerConfig(JsonObject document) => Document = document;

    /// <summary>The document as read.</summary>
    public JsonObject Document { get; }

    /// <summary>The scheduler's class (<c>_class_name</c>), or null.</summary>
    public string? ClassName => Word("_class_name", null);

    /// <summary>What the model predicts; epsilon by default.</summary>
    /// <exception cref="NotSupportedByPeftException"><c>SchedulerNotSupported</c>.</exception>
    public PredictionKind Prediction => Word("prediction_type", null) switch
    {
        null or "epsilon" => PredictionKind.Epsilon,
        "v_prediction" => PredictionKind.Velocity,
        "sample" or "original_sample" => PredictionKind.Sample,
        var other => throw NotSupported("prediction_type", other),
    };

    /// <summary>How many noise levels the model was trained on; 1000 by default.</summary>
    public int TrainTimesteps => Integer("num_train_timesteps", 1000) is var steps and >= 1 and <= MaxTrainTimesteps ? steps : throw Invalid("num_train_timesteps", "a number from 1 to 1000000");

    /// <summary>Reads a file.</summary>
    /// <param name="path">The file.</param>
    /// <exception cref="PeftException"><c>FileNotFound</c>, <c>FileUnreadable</c>, <c>JsonInvalid</c> or <c>JsonNotAnObject</c>.</exception>
    public static SchedulerConfig FromFile(string path) => new(JsonFile.ReadNode(path));

    /// <summary>The same options with others in their place.</summary>
    /// <param name="changes">The options to set.</param>
    public SchedulerConfig With(JsonObject changes)
    {
        ArgumentNullException.ThrowIfNull(changes);
        var document = (JsonObject)Document.DeepClone();
        foreach (var (key, value) in changes)
        {
            document[key] = value?.DeepClone();
        }

        return new SchedulerConfig(document);
    }

    internal double Number(string key, double fallback) => OptionalNumber(key) ?? fallback;

    internal double? OptionalNumber(string key) => Document[key] switch
    {
        null => null,
        JsonValue value when value.GetValueKind() == JsonValueKind.Number => double.Parse(value.ToJsonString(), NumberStyles.Float, CultureInfo.InvariantCulture),
        _ => throw Invalid(key, "a number"),
    };

    internal int Integer(string key, int fallback) => OptionalNumber(key) switch
    {
        null => fallback,
        { } number when number == Math.Truncate(number) && Math.Abs(number) <= int.MaxValue => (int)number,
        _ => throw Invalid(key, "a whole number"),
    };

    internal bool Flag(string key, bool fallback) => Document[key] switch
    {
        null => fallback,
        JsonValue value when value.TryGetValue<bool>(out var flag) => flag,
        _ => throw Invalid(key, "true or false"),
    };

    internal string? Word(string key, string? fallback) => Document[key] switch
    {
        null => fallback,
        JsonValue value when value.TryGetValue<string>(out var word) => word,
        _ => throw Invalid(key, "a word"),
    };

    internal IReadOnlyList<double>? Numbers(string key) => Document[key] switch
    {
        null => null,
        JsonArray list when list.All(static entry => entry?.GetValueKind() == JsonValueKind.Number) => [.. list.Select(static entry => entry!.GetValue<double>())],
        _ => throw Invalid(key, "a list of numbers"),
    };

    /// <summary>Refuses an option that is on and has no code here.</summary>
    internal void Refuse(params ReadOnlySpan<string> keys)
    {
        foreach (var key in keys)
        {
            if (Document[key] is JsonValue value && !(value.TryGetValue<bool>(out var flag) && !flag))
            {
                throw NotSupported(key, value.ToJsonString());
            }
        }
    }

    internal static NotSupportedByPeftException NotSupported(string key, string value) =>
        new("SchedulerNotSupported", $"'{key}' of the scheduler's configuration is '{value}', for which there is no code.")
        {
            Target = key,
        };

    internal static PeftException Invalid(string key, string expected) =>
        new("SchedulerConfigInvalid", $"'{key}' of the scheduler's configuration must be {expected}.")
        {
            Target = key,
        };
}
