using System.Diagnostics;
using Peft.Adapters;
using Peft.Adapters.Model;
using Peft.Models;
using Peft.Training.Objectives;
using Peft.Training.Optimizers;
using Peft.Training.Schedules;
using static TorchSharp.torch;

namespace Peft.Training;

/// <summary>
/// The steps of a training, one after another on the calling thread: gradients of the micro batches into the flat buffer, clipping, optimiser, schedule.
/// Knows no method: it trains what the adapter says, through the adapter's hooks.
/// </summary>
internal sealed class TrainingLoop : IDisposable
{
    private readonly TrainingRequest request;
    private readonly TrainingOptions options;
    private readonly PretrainedModel model;
    private readonly Adapter adapter;
    private readonly IObjective objective;
    private readonly Optimizer optimizer;
    private readonly Schedule schedule;
    private readonly TrainingPlan plan;
    private readonly ForwardContext context;
    private readonly Device device;
    private readonly Generator generator;

    public TrainingLoop(
        TrainingRequest request, PeftAdapter adapter, IObjective objective, Optimizer optimizer, Schedule schedule, TrainingPlan plan, CancellationToken cancellation)
    {
        this.request = request;
        options = request.Options;
        model = request.Model.Base;
        this.adapter = adapter.Adapter;
        this.objective = objective;
        this.optimizer = optimizer;
        this.schedule = schedule;
        this.plan = plan;
        device = request.Model.Device;
        generator = new Generator((ulong)options.Seed, device);
        context = new ForwardContext
        {
            Selection = AdapterSelection.Of(adapter.Name),
            Generator = generator,
            Checkpointing = options.GradientCheckpointing,
            Cancellation = cancellation,
        };
    }

    /// <summary>Makes one optimiser step. Until its last line nothing of the model has changed.</summary>
    /// <param name="step">Counted from 0.</param>
    /// <param name="time">Time since this run began.</param>
    /// <param name="secondsBefore">Time of the runs before it, of which this is the continuation.</param>
    /// <exception cref="PeftException"><c>TrainingDiverged</c>: the loss or a gradient is no number any more; the weights are those of the step before.</exception>
    public StepRecord Step(int step, Stopwatch time, double secondsBefore)
    {
        using var scope = NewDisposeScope();
        var batches = plan.MicroBatches(step).Select(rows => request.Data.Collate(rows, device)).ToArray();
        var (tokens, targets) = (batches.Sum(static batch => batch.TokenCount), batches.Sum(static batch => batch.TargetCount));
        var gradients = optimizer.Parameters.Gradients;
        gradients.zero_();
        var figures = new List<Tensor>(batches.Length + 1);
        for (var micro = 0; micro < batches.Length; micro++)
        {
            generator.manual_seed(DataOrder.SeedOf(options.Seed, step, micro));
            figures.Add(Accumulate(batches[micro], targets));
            batches[micro].Dispose();
        }

        adapter.OnGradients(step);
        figures.Add(gradients.norm());

        // The one time in a step that anything is copied to the host.
        var values = stack(figures).cpu().data<float>().ToArray();
        var losses = values[..^1];
        var norm = values[^1];
        var loss = losses.Sum(static value => (double)value);
        RefuseNotFinite(step, loss, norm);
        var scheduled = schedule.Factor(step);
        request.OnStep?.Invoke(new StepDetails(step, losses, targets, optimizer.Rates(scheduled), optimizer.Parameters));
        if (options.MaxGradientNorm > 0 && options.MaxGradientNorm / (norm + 1e-6) is < 1 and var factor)
        {
            gradients.mul_(factor);
        }

        optimizer.Step(scheduled);
        adapter.OnStepped(step);
        return new StepRecord(
            step + 1, plan.EpochsAfter(step + 1), loss, optimizer.Rates(scheduled)[0], norm, tokens, targets, secondsBefore + time.Elapsed.TotalSeconds);
    }

    /// <summary>Mean loss over rows that are set apart, each batch counted by its rows.</summary>
    /// <param name="data">The data.</param>
    /// <param name="rows">The rows.</param>
    public double Evaluate(ITrainingData data, int[] rows)
    {
        double sum = 0;
        long counted = 0;
        foreach (var chunk in rows.Chunk(options.EvaluationBatchSize))
        {
            context.Cancellation.ThrowIfCancellationRequested();
            using var scope = NewDisposeScope();
            using var batch = data.Collate(chunk, device);
            sum += objective.Loss(model, batch, null, ContextOf(batch)).item<float>() * batch.InputIds.size(0);
            counted += batch.InputIds.size(0);
        }

        return sum / counted;
    }

    /// <summary>The error of a training whose numbers are none any more.</summary>
    /// <param name="what">What was found, as a sentence without its full stop.</param>
    public static PeftException Diverged(string what) => new("TrainingDiverged", $"{what}: the training has diverged.")
    {
        RecommendedAction = "Lower the learning rate, lengthen the warm-up, clip gradients, or compute in float32, and start again from a checkpoint.",
    };

    /// <inheritdoc/>
    public void Dispose() => generator.Dispose();

    /// <summary>Adds the gradients of a micro batch and returns its loss.</summary>
    private Tensor Accumulate(TrainingBatch batch, long items)
    {
        using var scope = NewDisposeScope();
        using var tape = new Tape();
        var pass = ContextOf(batch) with { Tape = tape, IsTraining = true };
        var loss = adapter.Loss(objective.Loss(model, batch, Math.Max(1, items), pass), pass);
        tape.Backward(loss, null, pass.Cancellation);
        return loss.MoveToOuterDisposeScope();
    }

    private ForwardContext ContextOf(TrainingBatch batch) => context with
    {
        Rows = batch.InputIds.size(0),
        Length = batch.InputIds.size(1),
        AttentionMask = batch.AttentionMask,
        Positions = batch.Positions,
        Packing = batch.Packing,
    };

    private static void RefuseNotFinite(int step, double loss, double norm)
    {
        if (!double.IsFinite(loss) || !double.IsFinite(norm))
        {
            throw Diverged(FormattableString.Invariant(
                $"In step {step + 1} the loss is {loss} and the norm of the gradients {norm}; the weights are those of step {step}"));
        }
    }
}
