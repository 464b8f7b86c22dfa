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
    /// <summary>Steps, schedule, what the training is, and the layout of the tensors.</summary>
    public const string FileName = "training_state.json";

    /// <summary>The trained weights and the optimiser's memory.</summary>
    public const string TensorFileName = "training_state.safetensors";

    private const string OptimizerPrefix = "optimizer.";
    private const string AdapterPrefix = "adapter.";
    private const string FrozenPrefix = "frozen.";
    private const string ReferencePrefix = "reference.";
    private const string ObjectivePrefix = "objective.";
    private const string WeightsName = "weights";
    private const string AveragedName = "averaged";

    /// <summary>Writes the state into a folder.</summary>
    /// <param name="folder">The checkpoint.</param>
    /// <param name="step">Steps made.</param>
    /// <param name="loop">The training.</param>
    /// <param name="identity">What it is.</param>
    /// <param name="averaged">The weights to evaluate with, where they aren't those that are trained.</param>
    public static void Save(string folder, int step, TrainingLoop loop, TrainingIdentity identity, Tensor? averaged)
    {
        var optimizer = loop.Optimizer;
        SafetensorsWriter.Write(
            Path.Combine(folder, TensorFileName),
            [
                (WeightsName, optimizer.Parameters.Values),
                .. averaged is null ? Array.Empty<(string, Tensor)>() : [(AveragedName, averaged)],
                .. optimizer.State.Select(static entry => (OptimizerPrefix + entry.Key, entry.Value)),
                .. (loop.Part.Adapter?.State() ?? new Dictionary<string, Tensor>()).Select(static entry => (AdapterPrefix + entry.Key, entry.Value)),
                .. loop.Frozen.Select(static trained => (FrozenPrefix + trained.Name, trained.Parameter.Data)),
                .. (loop.Reference?.State ?? []).Select(static entry => (ReferencePrefix + entry.Name, entry.Weights)),
                .. loop.Objective.State().Select(static entry => (ObjectivePrefix + entry.Key, entry.Value)),
            ]);
        JsonFile.Write(Path.Combine(folder, FileName), new JsonObject
        {
            ["step"] = step,
            ["optimizer_steps"] = optimizer.StepCount,
            ["schedule"] = loop.Schedule.SaveState(),
            ["identity"] = identity.ToJson(),
            ["compute"] = loop.Compute.ToJson(),
            ["loss_scale"] = loop.Scale.Value,
            ["parameters"] = Layout(optimizer.Parameters),
        });
    }

    /// <summary>Reads a checkpoint's description after checking every file of it.</summary>
    /// <param name="folder">The checkpoint.</param>
    /// <param name="problem">What is wrong with it where there is no description.</param>
    /// <returns>The description, or null where the folder is no sound checkpoint.</returns>
    public static JsonObject? ReadDescription(string folder, out string? problem)
    {
        problem = Checksums.Problem(folder);
        if (problem is not null)
        {
            return null;
        }

        try
        {
            var description = JsonFile.ReadNode(Path.Combine(folder, FileName));
            problem = IsNumber(description["step"]) && IsNumber(description["optimizer_steps"]) && description["identity"] is JsonObject && description["parameters"] is JsonArray
                ? null
                : $"{FileName} lacks what a checkpoint says of itself";
            return problem is null ? description : null;
        }
        catch (PeftException error)
        {
            problem = error.Message;
            return null;
        }
    }

    /// <summary>Takes up a state: first the adapter's own, on which what is trained may depend.</summary>
    /// <returns>Steps made.</returns>
    /// <exception cref="PeftException"><c>CheckpointMismatch</c>: it is for other parameters or another optimiser.</exception>
    public static int Load(string folder, JsonObject description, TrainingLoop loop)
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        using var file = SafetensorsFile.Open(Path.Combine(folder, TensorFileName));
        loop.Part.Adapter?.LoadState(Read(file, AdapterPrefix));
        if (!Fits(loop))
        {
            loop.RemakeOptimizer();
        }

        var weights = file.Read(WeightsName);
        if (!Fits(loop) || weights.numel() != loop.Optimizer.Parameters.Count)
        {
            throw Mismatch(folder);
        }

        loop.Optimizer.Parameters.Values.copy_(weights.view(loop.Optimizer.Parameters.Values.shape));
        loop.Optimizer.Load((int)description["optimizer_steps"]!, Read(file, OptimizerPrefix));
        Copy(file, FrozenPrefix, loop.Frozen.Select(static trained => (trained.Name, trained.Parameter.Data)), folder);
        Copy(file, ReferencePrefix, loop.Reference?.State ?? [], folder);
        loop.Objective.LoadState(Read(file, ObjectivePrefix));
        if (description["schedule"] is JsonObject state)
        {
            loop.Schedule.LoadState(state);
        }

        loop.Optimizer.Parameters.MarkChanged();
        loop.Scale.Value = description["loss_scale"] is JsonValue scale && scale.TryGetValue<double>(out var value) && value is > 0 and <= 65536 ? value : loop.Scale.Value;
        return (int)description["step"]!;

        bool Fits(TrainingLoop loop) => JsonNode.DeepEquals(description["parameters"], Layout(loop.Optimizer.Parameters));
    }

    /// <summary>The weights that a checkpoint holds, by the parameters' names; null where it is damaged or gone.</summary>
    public static Dictionary<string, Tensor>? ReadWeights(string folder)
    {
        if (!Directory.Exists(folder) || ReadDescription(folder, out _) is not { } description)
        {
            return null;
        }

        using var noGrad = no_grad();
        using var file = SafetensorsFile.Open(Path.Combine(folder, TensorFileName));
        var weights = Read(file, FrozenPrefix).ToDictionary(static entry => entry.Key, static entry => entry.Value.DetachFromDisposeScope(), StringComparer.Ordinal);
        using var all = file.Read(file.Names.Contains(AveragedName) ? AveragedName : WeightsName);
        long at = 0;
        foreach (var entry in description["parameters"]!.AsArray())
        {
            var count = (long)entry![1]!;
            weights[(string)entry[0]!] = all.view(-1).narrow(0, at, count).clone().DetachFromDisposeScope();
            at += count;
        }

        return weights;
    }

    private static Dictionary<string, Tensor> Read(SafetensorsFile file, string prefix) => file.Names
        .Where(name => name.StartsWith(prefix, StringComparison.Ordinal))
        .ToDictionary(name => name[prefix.Length..], name => file.Read(name), StringComparer.Ordinal);

    private static void Copy(SafetensorsFile file, string prefix, IEnumerable<(string Name, Tensor Weights)> targets, string folder)
    {
        var stored = Read(file, prefix);
        foreach (var (name, weights) in targets)
        {
            weights.copy_(stored.TryGetValue(name, out var given) && given.shape.SequenceEqual(weights.shape) ? given : throw Mismatch(folder));
        }
    }

    private static PeftException Mismatch(string folder) => new("CheckpointMismatch", $"The checkpoint '{folder}' trains other parameters than this training.")
    {
        Target = folder,
        RecommendedAction = "Give the adapter's configuration that the training began with, or start anew without resuming.",
    };

    private static bool IsNumber(JsonNode? node) => node is JsonValue value && value.TryGetValue<int>(out _);

    /// <summary>Names and sizes in the order of the buffers, in a form that compares equal to what was read from a file.</summary>
    private static JsonNode Layout(FlatParameters parameters) => JsonNode.Parse(
        new JsonArray([.. parameters.Entries.Select(static entry => new JsonArray(entry.Trained.Name, entry.Trained.Parameter.Count))]).ToJsonString())!;
}
