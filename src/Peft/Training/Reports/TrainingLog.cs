using System.Buffers;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using Peft.Adapters.Model;
using Peft.Engine;
using Peft.Files;
using Peft.Training.Checkpoints;

namespace Peft.Training.Reports;

/// <summary>
/// A file with one JSON object a line for every step and every evaluation, under Hugging Face's names, the same in every culture.
/// It can be read while the training runs, and a resumed training takes its past from it.
/// </summary>
internal sealed class TrainingLog : IDisposable
{
    /// <summary>The file's name in an adapter's folder.</summary>
    public const string FileName = "training_log.jsonl";

    private const double LongestSeconds = 1e10;
    private const double MaxCount = 1L << 53;

    private const string EvaluationPrefix = "eval_";
    private const string SampleField = "samples";
    private const string Threads = "threads";
    private const string Products = "products";

    /// <summary>The figures that every line has; any other is an objective's own.</summary>
    private static readonly string[] s_common = ["step", "epoch", "loss", "learning_rate", "grad_norm", "num_tokens", "num_targets", "seconds", "memory", Threads, Products];

    private readonly Action<string> _say;
    private readonly ArrayBufferWriter<byte> _lines = new(256);
    private FileStream? _stream;
    private string _path;
    private long _length;
    private bool _isFailing;

    private TrainingLog(string path, Action<string> say)
    {
        _path = path;
        _say = say;
        _stream = Open(path);
        _length = _stream.Length;
    }

    /// <summary>Opens the log for a training that goes on after a number of steps; what a broken-off run wrote beyond is dropped.</summary>
    /// <param name="path">The file.</param>
    /// <param name="afterStep">Steps that were made before.</param>
    /// <param name="say">Told where lines can't be written, once until they can again.</param>
    public static TrainingLog Open(string path, int afterStep, Action<string>? say = null)
    {
        var kept = afterStep > 0 && File.Exists(path) ? ReadLines(path).Where(entry => StepOf(entry) <= afterStep).ToArray() : [];
        AtomicFile.WriteText(path, string.Concat(kept.Select(static entry => entry.ToJsonString() + "\n")));
        return new TrainingLog(path, say ?? (static _ => { }));
    }

    /// <summary>The record of the training that an adapter's folder, or a checkpoint, is of; null where there is no log.</summary>
    /// <param name="name">The adapter's name.</param>
    /// <param name="parameters">How many parameters it trains; null for what the training wrote down.</param>
    /// <param name="folder">The folder.</param>
    public static TrainingRecord? Recall(string name, long? parameters, string folder)
    {
        var upToStep = int.MaxValue;
        if (!File.Exists(Path.Combine(folder, FileName)) && CheckpointStore.TrainingOf(folder) is var (training, step))
        {
            (folder, upToStep) = (training, step);
        }

        var (steps, evaluations) = Read(Path.Combine(folder, FileName), upToStep);
        if (steps.Count == 0)
        {
            return null;
        }

        var options = new TrainingOptions();
        if (Path.Combine(folder, TrainingOptions.FileName) is var path && File.Exists(path))
        {
            try
            {
                options = TrainingOptions.FromFile(path);
            }
            catch (Exception error) when (error is PeftException or IOException or UnauthorizedAccessException)
            {
                // The log alone says what happened.
            }
        }

        var run = TrainingRun.Read(folder);
        return new TrainingRecord
        {
            AdapterName = name,
            Options = options,
            Objective = options.Objective,
            Steps = steps,
            Evaluations = evaluations,
            Run = run,
            TrainedParameters = parameters ?? run?.TrainedParameters ?? 0,
            OutputPath = folder,
        };
    }

    /// <summary>Reads what a log says of the first steps of a training.</summary>
    public static (List<StepRecord> Steps, List<EvaluationRecord> Evaluations) Read(string path, int upToStep)
    {
        List<StepRecord> steps = [];
        List<EvaluationRecord> evaluations = [];
        foreach (var entry in File.Exists(path) ? ReadLines(path) : [])
        {
            var (step, epoch) = (StepOf(entry), Number(entry, "epoch"));
            if (step > upToStep)
            {
                continue;
            }

            if (entry["eval_loss"] is not null)
            {
                evaluations.Add(new EvaluationRecord(step, epoch, Number(entry, "eval_loss")) { Metrics = Metrics(entry), Samples = Samples(entry) });
            }
            else
            {
                steps.Add(new StepRecord(
                    step, epoch, Number(entry, "loss"), Number(entry, "learning_rate"), Number(entry, "grad_norm"),
                    Count(entry, "num_tokens"), Count(entry, "num_targets"), Number(entry, "seconds") is >= 0 and < LongestSeconds and var seconds ? seconds : 0)
                {
                    Metrics = Metrics(entry),
                    MemoryBytes = entry["memory"] is null ? null : Count(entry, "memory"),
                    Compute = ComputeChoice.FromJson(entry),
                });
            }
        }

        return (steps, evaluations);
    }

    /// <summary>Adds a step.</summary>
    public void Write(StepRecord step) => Write(
        [("step", step.Step), ("epoch", step.Epoch), ("loss", step.Loss), ("learning_rate", step.LearningRate), ("grad_norm", step.GradientNorm),
        ("num_tokens", step.Tokens), ("num_targets", step.Targets), ("seconds", step.Seconds), .. step.MemoryBytes is { } memory ? [("memory", (double)memory)] : (ReadOnlySpan<(string, double)>)[], .. Figures("", step.Metrics)],
        step.Compute);

    /// <summary>Adds an evaluation.</summary>
    public void Write(EvaluationRecord evaluation) =>
        Write([("step", evaluation.Step), ("epoch", evaluation.Epoch), ("eval_loss", evaluation.Loss), .. Figures(EvaluationPrefix, evaluation.Metrics)], samples: evaluation.Samples);

    /// <summary>Puts what was written on the disk.</summary>
    public void Sync() => Try(() => Disk.Sync(_stream ??= Open(_path)));

    /// <summary>Gives the log another name, in place of the file that has it.</summary>
    public void Rename(string name)
    {
        if (name != _path && Try(() => Disk.Move(_path, name)))
        {
            _path = name;
        }
    }

    /// <inheritdoc/>
    public void Dispose() => _stream?.Dispose();

    private static IEnumerable<(string, double)> Figures(string prefix, IReadOnlyDictionary<string, double>? metrics) =>
        (metrics ?? new Dictionary<string, double>()).Where(static metric => double.IsFinite(metric.Value)).Select(metric => (prefix + metric.Key, metric.Value));

    private static Dictionary<string, double>? Metrics(JsonObject entry)
    {
        var metrics = entry.Select(static field => (Key: field.Key, Name: field.Key.StartsWith(EvaluationPrefix, StringComparison.Ordinal) ? field.Key[EvaluationPrefix.Length..] : field.Key))
            .Where(static field => !s_common.Contains(field.Name) && field.Name != SampleField)
            .DistinctBy(static field => field.Name).ToDictionary(static field => field.Name, field => Number(entry, field.Key), StringComparer.Ordinal);
        return metrics.Count == 0 ? null : metrics;
    }

    private static TrainingSample[]? Samples(JsonObject entry) => entry[SampleField] is JsonArray list
        ? [.. list.OfType<JsonObject>().Select(static sample => new TrainingSample((string?)sample["prompt"] ?? "", (string?)sample["text"] ?? ""))]
        : null;

    private static FileStream Open(string path) => new(path, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.Read | FileShare.Delete, 1);

    private void Write(ReadOnlySpan<(string Name, double Value)> fields, ComputeChoice? compute = null, IReadOnlyList<TrainingSample>? samples = null)
    {
        using (var json = new Utf8JsonWriter(_lines))
        {
            json.WriteStartObject();
            foreach (var (name, value) in fields)
            {
                json.WriteNumber(name, value);
            }

            if (compute is not null)
            {
                json.WriteNumber(Threads, compute.Threads);
                json.WriteString(Products, compute.Products);
            }

            if (samples is { Count: > 0 })
            {
                json.WriteStartArray(SampleField);
                foreach (var sample in samples)
                {
                    json.WriteStartObject();
                    json.WriteString("prompt", sample.Prompt);
                    json.WriteString("text", sample.Text);
                    json.WriteEndObject();
                }

                json.WriteEndArray();
            }

            json.WriteEndObject();
        }

        _lines.Write("\n"u8);
        if (Try(WriteLines))
        {
            _isFailing = false;
            _lines.ResetWrittenCount();
        }
    }

    /// <summary>What could not be written the last time is written with the next line, from where the last whole line ended.</summary>
    private void WriteLines()
    {
        if (_stream is not null && !File.Exists(_path))
        {
            MakeAnew(_stream);
        }

        _stream ??= Open(_path);
        if (_isFailing)
        {
            // It may be another file than before, with less in it.
            _length = Math.Min(_length, _stream.Length);
            _stream.SetLength(_length);
        }

        _stream.Position = _length;
        Disk.Write(_stream, _lines.WrittenSpan);
        _length = _stream.Position;
    }

    /// <summary>Somebody has removed the file, or its whole folder: what is still held open is written to a new one.</summary>
    private void MakeAnew(FileStream gone)
    {
        Directory.CreateDirectory(Path.GetDirectoryName(Path.GetFullPath(_path))!);
        var stream = Open(_path);
        gone.Position = 0;
        gone.CopyTo(stream);
        gone.Dispose();
        (_stream, _length) = (stream, stream.Position);
    }

    /// <summary>A log is not worth a training: what can't be written is said and kept for later.</summary>
    private bool Try(Action step)
    {
        try
        {
            step();
            return true;
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            Disk.TryTo(() => _stream?.Dispose());
            _stream = null;
            if (!_isFailing)
            {
                _say($"The log '{_path}' could not be written: {error.Message} The training goes on; the lines are kept and written when that is possible again.");
            }

            _isFailing = true;
            return false;
        }
    }

    /// <summary>The complete lines; a run that was killed may have left half a one.</summary>
    private static IEnumerable<JsonObject> ReadLines(string path)
    {
        foreach (var text in File.ReadLines(path, Encoding.UTF8))
        {
            JsonObject? entry = null;
            try
            {
                entry = JsonFile.Node(JsonFile.Parse(Encoding.UTF8.GetBytes(text), path)) as JsonObject;
            }
            catch (PeftException)
            {
                // Half a line is the end of what was written.
                yield break;
            }

            if (entry?["step"] is not null)
            {
                yield return entry;
            }
        }
    }

    /// <summary>A number of things; damaged lines may say anything, and sums of what they say must stay numbers.</summary>
    private static long Count(JsonObject entry, string name) => Number(entry, name) is >= 0 and <= MaxCount and var count ? (long)count : 0;

    private static int StepOf(JsonObject entry) => (int)Number(entry, "step");

    private static double Number(JsonObject entry, string name) => entry[name] is JsonValue value && value.TryGetValue<double>(out var number) ? number : double.NaN;
}
