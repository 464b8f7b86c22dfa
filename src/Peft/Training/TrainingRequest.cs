using Peft.Adapters.Model;
using Peft.Training.Objectives;

namespace Peft.Training;

/// <summary>One training: what is trained, on what, towards what, and where the result goes.</summary>
public sealed record TrainingRequest
{
    /// <summary>Name of the folder of results where the base itself is trained.</summary>
    public const string BaseName = TrainedPart.BaseName;

    /// <summary>The model. It is held for the time of the training.</summary>
    public required PeftModel Model { get; init; }

    /// <summary>
    /// Name of the adapter to train, which the model has already; null to train all weights of the base model, which takes sixteen bytes of memory a weight with AdamW
    /// and computes in float32. The model itself is saved then, under <c>model/</c>.
    /// </summary>
    public required string? AdapterName { get; init; }

    /// <summary>The rows to train on.</summary>
    public required ITrainingData Data { get; init; }

    /// <summary>The rows to evaluate on; null to set some of <see cref="Data"/> apart where the options say so, and not to evaluate otherwise.</summary>
    public ITrainingData? EvaluationData { get; init; }

    /// <summary>General texts, whose loss says what the model forgets while it learns; measured without the adapter before, with it at each evaluation and at the end. Null for none.</summary>
    public ITrainingData? RetentionData { get; init; }

    /// <summary>By how much that loss may rise, in nats a token, before a warning. Default 0.1, a tenth of the perplexity.</summary>
    public double RetentionLimit { get; init; } = 0.1;

    /// <summary>The options.</summary>
    public TrainingOptions Options { get; init; } = new();

    /// <summary>What is made small; null for the one that the options name.</summary>
    public IObjective? Objective { get; init; }

    /// <summary>What the objective compares with, where it does. Default: the base model with the adapter off.</summary>
    public ReferenceKind Reference { get; init; }

    /// <summary>Folder that gets <c>NAME/</c> with the adapter, its log and <c>checkpoints/step-N</c>; null to write nothing.</summary>
    public string? OutputPath { get; init; }

    /// <summary>Whether to go on from the newest valid checkpoint there. Without one the training starts anew, unless that would replace more than a log.</summary>
    public bool Resume { get; init; }

    /// <summary>Whether an existing output may be replaced. It stays until the first checkpoint of this training is written.</summary>
    public bool Force { get; init; }

    /// <summary>What the machine had decided when the training that this one repeats was made; null for one of its own.</summary>
    public Engine.ComputeChoice? Compute { get; init; }

    /// <summary>Told once, on the training's own thread, before the first step: everything that could refuse the training has been looked at.</summary>
    public Action<TrainingStart>? OnStart { get; init; }

    /// <summary>Prompts that the model is tried on at each evaluation, and after the last step; none by default. What it answers is in the record and in the log.</summary>
    public IReadOnlyList<string> SamplePrompts { get; init; } = [];

    /// <summary>How many tokens each answer has at most.</summary>
    public int SampleLength { get; init; } = 64;

    /// <summary>What else hears of each step and evaluation, such as <see cref="Reports.TensorBoardLog"/>. They belong to whoever made them.</summary>
    public IReadOnlyList<Reports.ITrainingObserver> Observers { get; init; } = [];

    /// <summary>Where the rows came from, for the record; null where nobody says.</summary>
    public string? DataOrigin { get; init; }

    /// <summary>The same of the rows for evaluation.</summary>
    public string? EvaluationOrigin { get; init; }

    /// <summary>Told how the training stands, on the training's own thread.</summary>
    public IProgress<TrainingProgress>? Progress { get; init; }

    /// <summary>Told after each step how many were made, on the training's own thread: the model is as after it, to see what it makes by now.</summary>
    public Action<int>? AfterStep { get; init; }

    /// <summary>Told at once, on the training's own thread, what the user should know although it is no error; <see cref="TrainingRecord.Messages"/> collects it.</summary>
    public Action<string>? OnMessage { get; init; }

    /// <summary>What a training that starts anew replaces in its folder, or deletes there once its first checkpoint is written.</summary>
    /// <param name="outputPath">As <see cref="OutputPath"/>.</param>
    /// <param name="adapterName">As <see cref="AdapterName"/>.</param>
    /// <returns>Paths of files, and of the folders of checkpoints. Whatever else is there stays.</returns>
    public static IReadOnlyList<string> Replaced(string outputPath, string adapterName) => TrainingOutput.Replaced(outputPath, adapterName);

    /// <summary>Sees each step before its gradients are clipped.</summary>
    internal Action<StepDetails>? OnStep { get; init; }
}

/// <summary>A step from the inside, for tests.</summary>
/// <param name="Step">Counted from 0.</param>
/// <param name="Losses">Losses of its micro batches.</param>
/// <param name="Items">What they were divided by.</param>
/// <param name="Rates">Rate of each group.</param>
/// <param name="Parameters">Weights and gradients.</param>
internal readonly record struct StepDetails(int Step, IReadOnlyList<float> Losses, long Items, IReadOnlyList<double> Rates, FlatParameters Parameters);
