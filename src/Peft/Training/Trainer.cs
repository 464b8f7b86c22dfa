using System.Diagnostics;
using System.Text.Json.Nodes;
using Peft.Adapters.Model;
using Peft.Models;
using Peft.Training.Checkpoints;
using Peft.Training.Objectives;
using Peft.Training.Optimizers;
using Peft.Training.Schedules;
using static TorchSharp.torch;

namespace Peft.Training;

/// <summary>
/// Trains one adapter of a model. Runs on the calling thread from beginning to end: call it on a thread of its own where the caller must stay responsive.
/// Equal requests give equal results, bit for bit, on the same engine, device and number of threads.
/// </summary>
public sealed class Trainer
{
    private readonly TrainingRequest request;
    private long tokens;

    /// <summary>Prepares a training.</summary>
    /// <param name="request">What is trained, on what, and where the result goes.</param>
    /// <exception cref="PeftException"><c>TrainingOptionInvalid</c>: an option, or a training that is to go on without an output path.</exception>
    public Trainer(TrainingRequest request)
    {
        ArgumentNullException.ThrowIfNull(request);
        request.Options.Validate();
        if (request.Resume && request.OutputPath is null)
        {
            throw new PeftException("TrainingOptionInvalid", "Checkpoints to go on from lie under the output path, which wasn't given.")
            {
                Target = nameof(TrainingRequest.OutputPath),
                RecommendedAction = "Give the output path of the training to resume.",
            };
        }

        this.request = request;
    }

    /// <summary>Steps that the adapter has learnt from, those of a checkpoint that was taken up included. After an error it says whether anything was learnt.</summary>
    public int StepsMade { get; private set; }

    /// <summary>Runs the training.</summary>
    /// <param name="cancellation">
    /// Ends it between two layers of a pass. The adapter then is as after the last whole step, and where an output path is given
    /// the checkpoint of that step is on the disk.
    /// </param>
    /// <returns>What happened; also on the adapter's <see cref="PeftAdapter.TrainingRecord"/>.</returns>
    /// <exception cref="PeftException">
    /// <c>ModelIsMerged</c>, <c>PeftModelBusy</c>, <c>AdapterNotFound</c>, <c>WeightsNotLoaded</c>, <c>DatasetEmpty</c>, <c>OutputExists</c>, <c>ResumeModelChanged</c>, <c>ResumeDataChanged</c>,
    /// <c>ResumeOptionsChanged</c>, or <c>TrainingDiverged</c>.
    /// </exception>
    /// <exception cref="OperationCanceledException">It was cancelled.</exception>
    public TrainingRecord Train(CancellationToken cancellation = default)
    {
        using var held = request.Model.Acquire("training");
        var adapter = request.Model[request.AdapterName];
        RefuseUnfit();
        using var noGrad = no_grad();
        var conversion = Convert();
        TrainingRecord record;
        try
        {
            record = Train(adapter, cancellation);
        }
        finally
        {
            conversion?.Restore();
        }

        adapter.TrainingRecord = record;
        if (record.OutputPath is { } folder)
        {
            request.Model.SaveAdapter(adapter.Name, folder);
        }

        return record;
    }

    private TrainingRecord Train(PeftAdapter adapter, CancellationToken cancellation)
    {
        using var scope = NewDisposeScope();
        var options = request.Options;
        var (rows, heldOut) = request.EvaluationData is null
            ? TrainingPlan.Split(request.Data.Count, options)
            : ([.. Enumerable.Range(0, request.Data.Count)], [.. Enumerable.Range(0, request.EvaluationData.Count)]);
        var plan = new TrainingPlan(options, rows);
        var objective = request.Objective ?? ObjectiveRegistry.Create("causal_language_modelling", options);
        using var output = request.OutputPath is null ? null : new TrainingOutput(request, adapter, IdentityOf(adapter, objective));
        var schedule = ScheduleRegistry.Create(
            options.Schedule, options.LearningRate, options.WarmupStepsOf(plan.TotalSteps), plan.TotalSteps, options.ScheduleOptions);
        using var optimizer = OptimizerRegistry.Create(TrainedParameters(adapter), options);
        using var loop = new TrainingLoop(request, adapter, objective, optimizer, schedule, plan, cancellation);
        return Run(new Session(loop, plan, optimizer, schedule, output, heldOut), objective);
    }

    private TrainingIdentity IdentityOf(PeftAdapter adapter, IObjective objective) => new(
        Parsed(request.Options.ToJson()), Parsed(adapter.Config.ToJson().ToJsonString()), request.Data.Fingerprint, request.EvaluationData?.Fingerprint, objective.Name,
        ModelFingerprint.Of(request.Model.Base));

    /// <summary>Puts the frozen weights into float32 where the options ask for it and the model was loaded in another type.</summary>
    private WeightConversion? Convert() => (request.Options.Precision, request.Model.DataType) switch
    {
        ("bfloat16", not ScalarType.BFloat16) => throw new NotSupportedByPeftException(
            "PrecisionNotSupported", $"'{request.Model.Name}' is loaded in {request.Model.DataType}; training it in BFloat16 is not supported.")
        {
            Target = "precision",
            RecommendedAction = "Import the model in bfloat16 to train in bfloat16.",
        },
        ("float32", not ScalarType.Float32) => WeightConversion.Apply(request.Model.Base, ScalarType.Float32),
        _ => null,
    };

    private TrainingRecord Run(Session session, IObjective objective)
    {
        var (steps, records, evaluations) = session.Output?.Begin(session.Optimizer, session.Schedule) ?? (0, [], []);
        var first = StepsMade = steps;
        var secondsBefore = records.Count > 0 ? records[^1].Seconds : 0;
        var time = Stopwatch.StartNew();
        tokens = 0;
        try
        {
            if (steps > 0 && IsEvaluationDue(session, steps) && !evaluations.Exists(evaluation => evaluation.Step == steps))
            {
                // The training was stopped while it evaluated.
                evaluations.Add(Evaluate(session, steps));
            }

            while (steps < session.Plan.TotalSteps)
            {
                var record = session.Loop.Step(steps, time, secondsBefore);
                StepsMade = ++steps;
                records.Add(record);
                session.Output?.Write(record);
                Report(session.Plan, record, first, time);
                if (IsEvaluationDue(session, steps))
                {
                    evaluations.Add(Evaluate(session, steps));
                }

                if (request.Options.CheckpointInterval > 0 && steps % request.Options.CheckpointInterval == 0)
                {
                    session.SaveCheckpoint(steps);
                }
            }
        }
        catch (Exception error) when (error is OperationCanceledException or PeftException { ErrorId: "TrainingDiverged" })
        {
            session.SaveCheckpoint(steps);
            throw;
        }

        session.SaveCheckpoint(steps);
        return new TrainingRecord
        {
            AdapterName = request.AdapterName,
            Options = request.Options,
            Objective = objective.Name,
            Steps = records,
            Evaluations = evaluations,
            TrainedParameters = session.Optimizer.Parameters.Count,
            ResumedFrom = first,
            OutputPath = session.Output?.Folder,
            Messages = session.Output?.Messages ?? [],
        };
    }

    private IEnumerable<TrainedParameter> TrainedParameters(PeftAdapter adapter) => adapter.TrainableParameters
        .Select(parameter => new TrainedParameter(parameter.FullKey, parameter.Parameter, request.Model.Base.Find(parameter.Path)));

    /// <summary>In a form that compares equal to what was read from a file.</summary>
    private static JsonObject Parsed(string json) => JsonNode.Parse(json)!.AsObject();

    private void RefuseUnfit()
    {
        var model = request.Model;
        if (model.IsMerged)
        {
            throw new PeftException(
                "ModelIsMerged", $"'{model.Name}' has adapters merged into its weights ({string.Join(", ", model.MergedAdapters)}) and can't be trained so.")
            {
                Target = model.Name,
                RecommendedAction = "Undo the merge first.",
            };
        }

        if (model.IsStructureOnly)
        {
            throw new PeftException("WeightsNotLoaded", $"'{model.Name}' was imported without weights and can't be trained.")
            {
                Target = model.Name,
                RecommendedAction = "Import it without -StructureOnly.",
            };
        }
    }

    private bool IsEvaluationDue(Session session, int steps) => session.HeldOut.Length > 0
        && (request.Options.EvaluationInterval > 0
            ? steps % request.Options.EvaluationInterval == 0 || steps == session.Plan.TotalSteps
            : session.Plan.EndsEpoch(steps - 1) || steps == session.Plan.TotalSteps);

    private EvaluationRecord Evaluate(Session session, int steps)
    {
        var loss = session.Loop.Evaluate(request.EvaluationData ?? request.Data, session.HeldOut);
        if (!double.IsFinite(loss))
        {
            throw TrainingLoop.Diverged(FormattableString.Invariant($"After step {steps} the loss on the evaluation data is {loss}"));
        }

        var evaluation = new EvaluationRecord(steps, session.Plan.EpochsAfter(steps), loss);
        session.Schedule.OnEvaluation(loss);
        session.Output?.Write(evaluation);
        return evaluation;
    }

    private void Report(TrainingPlan plan, StepRecord step, int first, Stopwatch time)
    {
        tokens += step.Tokens;
        if (request.Progress is null || (step.Step % request.Options.LoggingInterval != 0 && step.Step != plan.TotalSteps))
        {
            return;
        }

        var seconds = time.Elapsed.TotalSeconds;
        request.Progress.Report(new TrainingProgress(
            step.Step, plan.TotalSteps, step.Epoch, step.Loss, step.LearningRate, tokens / Math.Max(seconds, 1e-9),
            TimeSpan.FromSeconds(seconds / (step.Step - first) * (plan.TotalSteps - step.Step))));
    }

    private sealed record Session(TrainingLoop Loop, TrainingPlan Plan, Optimizer Optimizer, Schedule Schedule, TrainingOutput? Output, int[] HeldOut)
    {
        public void SaveCheckpoint(int steps) => Output?.SaveCheckpoint(steps, Optimizer, Schedule);
    }
}
