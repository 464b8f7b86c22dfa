using System.Buffers;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace Peft.Training.Reports;

/// <summary>
/// A file with one JSON object a line for every step and every evaluation, under Hugging Face's names, the same in every culture.
/// It can be read while the training runs, and a resumed training takes its past from it.
/// </summary>
internal sealed class TrainingLog : IDisposable
{
    /// <summary>The file's name in an adapter's folder.</summary>
    public const string FileName = "training_log.jsonl";

    private readonly FileStream stream;
    private readonly ArrayBufferWriter<byte> line = new(256);

    private TrainingLog(FileStream stream)
    {
        this.stream = stream;
    }

    /// <summary>Opens the log for a training that goes on after a number of steps; what a broken-off run wrote beyond is dropped.</summary>
    public static TrainingLog Open(string path, int afterStep)
    {
        var kept = afterStep > 0 && File.Exists(path) ? ReadLines(path).Where(entry => StepOf(entry) <= afterStep).ToArray() : [];
        Files.AtomicFile.WriteText(path, string.Concat(kept.Select(static entry => entry.ToJsonString() + "\n")));
        return new TrainingLog(new FileStream(path, FileMode.Append, FileAccess.Write, FileShare.Read));
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
                evaluations.Add(new EvaluationRecord(step, epoch, Number(entry, "eval_loss")));
            }
            else
            {
                steps.Add(new StepRecord(
                    step, epoch, Number(entry, "loss"), Number(entry, "learning_rate"), Number(entry, "grad_norm"),
                    (long)Number(entry, "num_tokens"), (long)Number(entry, "num_targets"), Number(entry, "seconds")));
            }
        }

        return (steps, evaluations);
    }

    /// <summary>Adds a step.</summary>
    public void Write(StepRecord step) => Write(
        ("step", step.Step), ("epoch", step.Epoch), ("loss", step.Loss), ("learning_rate", step.LearningRate), ("grad_norm", step.GradientNorm),
        ("num_tokens", step.Tokens), ("num_targets", step.Targets), ("seconds", step.Seconds));

    /// <summary>Adds an evaluation.</summary>
    public void Write(EvaluationRecord evaluation) =>
        Write(("step", evaluation.Step), ("epoch", evaluation.Epoch), ("eval_loss", evaluation.Loss));

    /// <inheritdoc/>
    public void Dispose() => stream.Dispose();

    private void Write(params ReadOnlySpan<(string Name, double Value)> fields)
    {
        line.ResetWrittenCount();
        using (var json = new Utf8JsonWriter(line))
        {
            json.WriteStartObject();
            foreach (var (name, value) in fields)
            {
                json.WriteNumber(name, value);
            }

            json.WriteEndObject();
        }

        line.Write("\n"u8);
        stream.Write(line.WrittenSpan);
        stream.Flush();
    }

    /// <summary>The complete lines; a run that was killed may have left half a one.</summary>
    private static IEnumerable<JsonObject> ReadLines(string path)
    {
        foreach (var text in File.ReadLines(path, Encoding.UTF8))
        {
            JsonObject? entry = null;
            try
            {
                entry = JsonNode.Parse(text) as JsonObject;
            }
            catch (JsonException)
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

    private static int StepOf(JsonObject entry) => (int)Number(entry, "step");

    private static double Number(JsonObject entry, string name) => entry[name] is JsonValue value && value.TryGetValue<double>(out var number) ? number : double.NaN;
}
