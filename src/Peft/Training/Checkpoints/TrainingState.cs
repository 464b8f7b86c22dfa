using System.Text.Json.Nodes;
using Peft.Files;
using Peft.Tensors;
using Peft.Training.Optimizers;
using Peft.Training.Schedules;
using static TorchSharp.torch;

namespace Peft.Training.Checkpoints;

/// <summary>
/// What a checkpoint holds beside the adapter: weights exactly as trained, the optimiser's memory, the schedule's, and the number of steps,
/// which is also the position in the data and the state of every random generator (see <see cref="DataOrder"/>).
/// </summary>
internal static class TrainingState
{
    /// <summary>Written last: a folder without it is no checkpoint.</summary>
    public const string FileName = "training_state.json";

    private const string TensorFileName = "training_state.safetensors";
    private const string OptimizerPrefix = "optimizer.";
    private const string WeightsName = "weights";

    /// <summary>Writes the state into a folder.</summary>
    public static void Save(string folder, int step, Optimizer optimizer, Schedule schedule, TrainingIdentity identity)
    {
        SafetensorsWriter.Write(
            Path.Combine(folder, TensorFileName),
            [(WeightsName, optimizer.Parameters.Values), .. optimizer.State.Select(static entry => (OptimizerPrefix + entry.Key, entry.Value))]);
        JsonFile.Write(Path.Combine(folder, FileName), new JsonObject
        {
            ["step"] = step,
            ["optimizer_steps"] = optimizer.StepCount,
            ["schedule"] = schedule.SaveState(),
            ["identity"] = identity.ToJson(),
            ["parameters"] = Layout(optimizer.Parameters),
        });
    }

    /// <summary>Reads a checkpoint's description, or null where the folder holds no valid one.</summary>
    public static JsonObject? ReadDescription(string folder)
    {
        var file = Path.Combine(folder, FileName);
        if (!File.Exists(file))
        {
            return null;
        }

        try
        {
            using var tensors = SafetensorsFile.Open(Path.Combine(folder, TensorFileName));
            return tensors.Contains(WeightsName) ? JsonFile.ReadNode(file) : null;
        }
        catch (PeftException error)
        {
            System.Diagnostics.Trace.TraceWarning($"The checkpoint '{folder}' is passed over: {error.Message}");
            return null;
        }
    }

    /// <summary>Takes up a state.</summary>
    /// <returns>Steps made.</returns>
    /// <exception cref="PeftException"><c>CheckpointMismatch</c>: it is for other parameters or another optimiser.</exception>
    public static int Load(string folder, JsonObject description, Optimizer optimizer, Schedule schedule)
    {
        if (!JsonNode.DeepEquals(description["parameters"], Layout(optimizer.Parameters)))
        {
            throw new PeftException("CheckpointMismatch", $"The checkpoint '{folder}' trains other parameters than this training.")
            {
                Target = folder,
                RecommendedAction = "Give the adapter's configuration that the training began with, or start anew without resuming.",
            };
        }

        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        using var file = SafetensorsFile.Open(Path.Combine(folder, TensorFileName));
        optimizer.Parameters.Values.copy_(file.Read(WeightsName));
        optimizer.Load(
            (int)description["optimizer_steps"]!,
            file.Names.Where(static name => name.StartsWith(OptimizerPrefix, StringComparison.Ordinal))
                .ToDictionary(static name => name[OptimizerPrefix.Length..], name => file.Read(name), StringComparer.Ordinal));
        if (description["schedule"] is JsonObject state)
        {
            schedule.LoadState(state);
        }

        optimizer.Parameters.MarkChanged();
        return (int)description["step"]!;
    }

    /// <summary>Names and sizes in the order of the buffers, in a form that compares equal to what was read from a file.</summary>
    private static JsonNode Layout(FlatParameters parameters) => JsonNode.Parse(
        new JsonArray([.. parameters.Entries.Select(static entry => new JsonArray(entry.Trained.Name, entry.Trained.Parameter.Count))]).ToJsonString())!;
}
