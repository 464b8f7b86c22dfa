using System.Diagnostics;
using Peft.Adapters;
using Peft.Adapters.Model;
using Peft.Engine;
using Peft.Models;
using Peft.Training.Objectives;
using Peft.Training.Optimizers;
using Peft.Training.Schedules;
using static TorchSharp.torch;

namespace Peft.Training;

/// <summary>
/// A training from its first step, or the one after a checkpoint's, to its last: gradients of the micro batches into the flat buffer, clipping, optimiser, schedule,
/// evaluations and checkpoints between. Knows no method: it trains what the adapter says, through the adapter's hooks.
/// </summary>
internal sealed class TrainingLoop : IDisposable
{
    private readonly TrainingRequest request;
    private readonly TrainingOptions options;
    private readonly IObjective objective;
    private readonly TrainingPlan plan;
    private readonly int[] heldOut;
    private readonly TrainingOutput? output;
    private readonly TrainedParameter[] trainedAtFirst;
    private readonly ForwardContext context;
    private readonly Device device;
    // While the optimiser moves, the parameters are of no whole step.
    private bool isMoving;
    private bool saidShared;
    private readonly Generator generator;
    private readonly Stopwatch time = new();
    private List<StepRecord> records = [];
    private List<EvaluationRecord> evaluations = [];
    private int firstStep;
    private double secondsBefore;
    private long tokens;

    /// <summary>Prepares everything in memory; the disk is not touched before <see cref="Run"/>.</summary>
    public TrainingLoop(TrainingRequest request, TrainedPart part, CancellationToken cancellation)
    {
        this.request = request;
        options = request.Options;
        Part = part;
        objective = request.Objective ?? ObjectiveRegistry.Create(options);
        RefuseOtherData(request.Data);
        RefuseOtherData(request.EvaluationData ?? request.Data);
        (var rows, heldOut) = request.EvaluationData is null
            ? TrainingPlan.Split(request.Data.Count, options)
            : ([.. Enumerable.Range(0, request.Data.Count)], [.. Enumerable.Range(0, request.EvaluationData.Count)]);
        plan = new TrainingPlan(options, rows);
        part.Adapter?.OnTraining(plan.TotalSteps);
        device = request.Model.Device;
        Schedule = ScheduleRegistry.Create(
            options.Schedule, options.LearningRate, options.WarmupStepsOf(plan.TotalSteps), plan.TotalSteps, options.ScheduleOptions);
        output = request.OutputPath is null ? null : new TrainingOutput(request, part, objective.Name);
        Reference = objective.NeedsReference ? new ReferenceModel(part.IsBase ? ReferenceKind.Start : request.Reference, part.Parameters()) : null;
        trainedAtFirst = [.. part.Parameters()];
        Optimizer = OptimizerRegistry.Create(trainedAtFirst, options);
        generator = new Generator((ulong)options.Seed, device);
        context = new ForwardContext
        {
            Selection = part.Selection,
            Generator = generator,
            Checkpointing = options.GradientCheckpointing,
            Cancellation = cancellation,
        };
    }

    /// <summary>What is trained.</summary>
    public TrainedPart Part { get; }

    /// <summary>What the objective compares with, or null.</summary>
    public ReferenceModel? Reference { get; }

    /// <summary>The optimiser, which holds what is trained. The loop makes another one when the adapter's layout changes.</summary>
    public Optimizer Optimizer { get; private set; }

    /// <summary>What was trained at first and has been frozen since.</summary>
    public IEnumerable<TrainedParameter> Frozen => trainedAtFirst.ExceptBy(Optimizer.Parameters.Entries.Select(static entry => entry.Trained.Name), static trained => trained.Name);

    /// <summary>The schedule.</summary>
    public Schedule Schedule { get; }

    /// <summary>Steps that the adapter has learnt from, those of a checkpoint that was taken up included.</summary>
    public int StepsMade { get; private set; }

    /// <summary>
    /// Runs to the end. Where it is cancelled the checkpoint of the last whole step is written, if there is an output. Weights that have diverged
    /// are never gone on from.
    /// </summary>
    public TrainingRecord Run()
    {
        (StepsMade, records, evaluations) = output?.Begin(this) ?? (0, [], []);
        firstStep = StepsMade;
        secondsBefore = records.Count > 0 ? records[^1].Seconds : 0;
        time.Start();
        try
        {
            if (StepsMade > 0 && !evaluations.Exists(evaluation => evaluation.Step == StepsMade))
            {
                // The training was stopped while it evaluated.
                EvaluateWhereDue();
            }

            while (StepsMade < plan.TotalSteps)
            {
                var record = Step(StepsMade);
                StepsMade++;
                records.Add(record);
                output?.Write(record);
                Report(record);
                SayWhereShared();
                EvaluateWhereDue();
                if (options.CheckpointInterval > 0 && StepsMade % options.CheckpointInterval == 0)
                {
                    SaveCheckpoint();
                }
            }
        }
        catch (OperationCanceledException)
        {
            SaveCheckpoint();
            throw;
        }
        catch (PeftException error) when (error.ErrorId == "TrainingDiverged")
        {
            output?.SetAsideDiverged(StepsMade);
            throw;
        }
        catch (Exception error) when (EngineErrors.IsOutOfMemory(error))
        {
            if (!isMoving)
            {
                SaveCheckpoint();
            }

            throw EngineErrors.OutOfMemory(error);
        }

        SaveCheckpoint();
        output?.Finish();
        return new TrainingRecord
        {
            AdapterName = Part.Name,
            Options = options,
            Objective = objective.Name,
            Steps = records,
            Evaluations = evaluations,
            TrainedParameters = Optimizer.Parameters.Count,
            ResumedFrom = firstStep,
            OutputPath = output?.Folder,
            Messages = output?.Messages ?? [],
        };
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        Optimizer.Dispose();
        generator.Dispose();
        Reference?.Dispose();
        output?.Dispose();
    }

    private void SayWhereShared()
    {
        if (!saidShared && SharedCores.AreShared)
        {
            saidShared = true;
            request.OnMessage?.Invoke("Other programs use this machine's processors: the engine makes room for them, and the training is slower while they run.");
        }
    }

    private void SaveCheckpoint() => output?.SaveCheckpoint(StepsMade, this);

    /// <summary>Makes one optimiser step, counted from 0. Until the optimiser moves, nothing of the model has changed.</summary>
    /// <exception cref="PeftException"><c>TrainingDiverged</c>: the loss or a gradient is no number any more; the weights are those of the step before.</exception>
    private StepRecord Step(int step)
    {
        using var scope = NewDisposeScope();
        generator.manual_seed(DataOrder.SeedOf(options.Seed, step, -1));
        var batches = objective.MakeBatches([.. plan.MicroBatches(step).Select(rows => request.Data.Collate(rows, device))], request.Model, context, step);
        var (tokenCount, targets, items) = (batches.Sum(static batch => batch.TokenCount), batches.Sum(static batch => batch.TargetCount), batches.Sum(objective.Items));
        using var metrics = new MetricSums();
        var gradients = Optimizer.Parameters.Gradients;
        gradients.zero_();
        var figures = new List<Tensor>(batches.Count + 1);
        for (var micro = 0; micro < batches.Count; micro++)
        {
            generator.manual_seed(DataOrder.SeedOf(options.Seed, step, micro));
            figures.Add(Accumulate(batches[micro], items, metrics));
            batches[micro].Dispose();
        }

        Part.Adapter?.OnGradients(step);
        figures.Add(gradients.norm());
        figures.AddRange(metrics.Sums);

        // The one time in a step that anything is copied to the host.
        var values = stack(figures).cpu().data<float>().ToArray();
        var losses = values[..batches.Count];
        var norm = values[batches.Count];
        var loss = losses.Sum(static value => (double)value);
        RefuseNotFinite(step, loss, norm);
        var scheduled = Schedule.Factor(step);
        request.OnStep?.Invoke(new StepDetails(step, losses, items, Optimizer.Rates(scheduled), Optimizer.Parameters));
        if (options.MaxGradientNorm > 0 && options.MaxGradientNorm / (norm + 1e-6) is < 1 and var factor)
        {
            gradients.mul_(factor);
        }

        Part.Adapter?.OnClippedGradients(step);
        isMoving = true;
        Optimizer.Step(scheduled);
        isMoving = false;
        var rate = Optimizer.Rates(scheduled)[0];
        if (Part.Adapter?.OnStepped(step) == true)
        {
            RemakeOptimizer();
        }

        return new StepRecord(step + 1, plan.EpochsAfter(step + 1), loss, rate, norm, tokenCount, targets, secondsBefore + time.Elapsed.TotalSeconds)
        {
            Metrics = metrics.Means(values.AsSpan(batches.Count + 1)),
        };
    }

    /// <summary>The adapter trains other parameters from now on: they get buffers of their own, and what the optimiser remembers of those that stay goes on.</summary>
    public void RemakeOptimizer()
    {
        using var before = Optimizer;
        before.ReleaseParameters();
        Optimizer = OptimizerRegistry.Create(Part.Parameters(), options);
        Optimizer.TakeOver(before);
    }

    /// <summary>Adds the gradients of a micro batch and returns its loss.</summary>
    private Tensor Accumulate(TrainingBatch batch, long items, MetricSums metrics)
    {
        using var scope = NewDisposeScope();
        using var tape = new Tape();
        var loss = Loss(batch, Math.Max(1, items), context with { Tape = tape, IsTraining = true }, metrics);
        tape.Backward(loss, null, context.Cancellation);
        return loss.MoveToOuterDisposeScope();
    }

    /// <summary>The loss with the adapter's own term, in training and in evaluation alike.</summary>
    private Tensor Loss(TrainingBatch batch, double? divisor, ForwardContext context, MetricSums metrics)
    {
        var pass = new ObjectivePass(objective, request.Model, batch, divisor, context, Reference, metrics);
        return Part.Loss(objective.Loss(pass), pass.Context);
    }

    private void EvaluateWhereDue()
    {
        var isLast = StepsMade == plan.TotalSteps;
        var isDue = options.EvaluationInterval > 0 ? isLast || StepsMade % options.EvaluationInterval == 0 : isLast || plan.EndsEpoch(StepsMade - 1);
        if (heldOut.Length == 0 || !isDue)
        {
            return;
        }

        var evaluation = Evaluate(request.EvaluationData ?? request.Data);
        if (!double.IsFinite(evaluation.Loss))
        {
            throw Diverged(FormattableString.Invariant($"After step {StepsMade} the loss on the evaluation data is {evaluation.Loss}"));
        }

        evaluations.Add(evaluation);
        Schedule.OnEvaluation(evaluation.Loss);
        output?.Write(evaluation);
    }

    /// <summary>Mean loss over the rows that are set apart, each batch counted by its rows.</summary>
    private EvaluationRecord Evaluate(ITrainingData data)
    {
        using var metrics = new MetricSums();
        double sum = 0;
        long counted = 0;
        foreach (var chunk in heldOut.Chunk(options.EvaluationBatchSize))
        {
            context.Cancellation.ThrowIfCancellationRequested();
            using var scope = NewDisposeScope();
            using var batch = data.Collate(chunk, device);
            sum += Loss(batch, null, context, metrics).item<float>() * batch.InputIds.size(0);
            counted += batch.InputIds.size(0);
        }

        return new EvaluationRecord(StepsMade, plan.EpochsAfter(StepsMade), sum / counted)
        {
            Metrics = metrics.Means([.. metrics.Sums.Select(static figure => figure.item<float>())]),
        };
    }

    private void Report(StepRecord step)
    {
        tokens += step.Tokens;
        if (request.Progress is null || (step.Step % options.LoggingInterval != 0 && step.Step != plan.TotalSteps))
        {
            return;
        }

        var seconds = time.Elapsed.TotalSeconds;
        request.Progress.Report(new TrainingProgress(
            step.Step, plan.TotalSteps, step.Epoch, step.Loss, step.LearningRate, tokens / Math.Max(seconds, 1e-9),
            TimeSpan.FromSeconds(seconds / (step.Step - firstStep) * (plan.TotalSteps - step.Step))));
    }

    private void RefuseOtherData(ITrainingData data)
    {
        if (data.ExampleKind != objective.ExampleKind)
        {
            throw new PeftException("ObjectiveDataMismatch", $"The objective '{objective.Name}' learns from examples of the kind {objective.ExampleKind}; the data holds {data.ExampleKind}.")
            {
                Target = data,
                RecommendedAction = "Choose the objective that belongs to the data, or data that belongs to the objective.",
            };
        }
    }

    private static void RefuseNotFinite(int step, double loss, double norm)
    {
        if (!double.IsFinite(loss) || !double.IsFinite(norm))
        {
            throw Diverged(FormattableString.Invariant(
                $"In step {step + 1} the loss is {loss} and the norm of the gradients {norm}; the weights are those of step {step}"));
        }
    }

    /// <summary>The error of a training whose numbers are none any more.</summary>
    /// <param name="what">What was found, as a sentence without its full stop.</param>
    internal static PeftException Diverged(string what) => new("TrainingDiverged", $"{what}: the training has diverged.")
    {
        RecommendedAction = "Lower the learning rate, lengthen the warm-up, clip gradients, or compute in float32, and start again from a checkpoint.",
    };
}
