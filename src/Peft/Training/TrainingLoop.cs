using System.Diagnostics;
using System.Runtime;
using Peft.Adapters;
using Peft.Adapters.Model;
using Peft.Engine;
using Peft.Models;
using Peft.Training.Diffusion;
using Peft.Training.Evaluation;
using Peft.Training.Objectives;
using Peft.Training.Optimizers;
using Peft.Training.Reports;
using Peft.Training.Schedules;
using static TorchSharp.torch;

namespace Peft.Training;

/// <summary>
/// A training from its first step, or the one after a checkpoint's, to its last: clipping, optimiser, schedule, evaluations and checkpoints between. Gradients come from
/// <see cref="StepPasses"/>, by which <see cref="Lockstep"/> leads it, alone or beside others. Knows no method: it trains what the adapter says, through the adapter's hooks.
/// </summary>
internal sealed class TrainingLoop : IDisposable
{

    private readonly TrainingRequest _request;
    private readonly TrainingOptions _options;
    private readonly TrainingPlan _plan;
    private readonly int[] _heldOut;
    private readonly TrainingOutput? _output;
    private readonly TrainedParameter[] _trainedAtFirst;
    private ForwardContext _context;
    private readonly Device _device;
    // While the optimiser moves, the parameters are of no whole step.
    private bool _isMoving;
    private bool _saidShared;
    private TimeSpan? _sharedSince;
    private bool _logsCompute;
    private readonly Generator _generator;
    private readonly Stopwatch _time = new();
    private readonly TrainingRun _run;
    private readonly Milestones _milestones;
    private readonly List<int> _unsaved = [];
    private readonly List<string> _said = [];
    private readonly BestEvaluation _best;
    private readonly Retention? _retention;
    private bool _isFinished;
    private int? _keptStep;
    private List<StepRecord> _records = [];
    private List<EvaluationRecord> _evaluations = [];
    private int _firstStep;
    private double _secondsBefore;
    private RemainingTime? _remaining;
    private long _tokens;

    /// <summary>Prepares everything in memory; the disk is not touched before <see cref="Begin"/>.</summary>
    public TrainingLoop(TrainingRequest request, TrainedPart part, CancellationToken cancellation)
    {
        _request = request;
        _options = request.Options;
        Part = part;
        Objective = request.Objective ?? ObjectiveRegistry.Create(_options);
        SharesPasses = SharedPass.CanTake(request, part, Objective);
        Objective.RefuseOther(request.Data);
        Objective.RefuseOther(request.EvaluationData ?? request.Data);
        (var rows, _heldOut) = request.EvaluationData is null
            ? TrainingPlan.Split(request.Data.Count, _options, _options.EvaluationSplit > 0 ? request.Data.Groups(cancellation) : null)
            : ([.. Enumerable.Range(0, request.Data.Count)], [.. Enumerable.Range(0, request.EvaluationData.Count)]);
        _plan = new TrainingPlan(Objective.Plan(_options), rows, Objective.StepsPerBatch, request.Data.Shapes);
        _milestones = new Milestones(_options, _plan);
        BestEvaluation.RefuseUnevaluated(_options, _heldOut.Length);
        part.Adapter?.OnTraining(_plan.TotalSteps);
        _device = request.Model.Device;
        Scale = new LossScale(request.Model.DataType);
        Schedule = ScheduleRegistry.Create(
            _options.Schedule, _options.LearningRate, _options.WarmupStepsOf(_plan.TotalSteps), _plan.TotalSteps, _options.ScheduleOptions);
        _trainedAtFirst = [.. part.Parameters()];
        _run = TrainingRun.Of(request, part, _trainedAtFirst);
        _output = request.OutputPath is null ? null : new TrainingOutput(request, part, Objective.Name, _run);
        Reference = Objective.NeedsReference ? new ReferenceModel(part.IsBase ? ReferenceKind.Start : request.Reference, part.Parameters()) : null;
        if (_options.WarmupNote(_plan.TotalSteps) is { } note)
        {
            Say(note);
        }

        _best = new BestEvaluation(_options, _output, _trainedAtFirst, Say);
        _retention = request.RetentionData is null ? null : new Retention(request, part, Say);
        Optimizer = OptimizerRegistry.Create(_trainedAtFirst, _options);
        _generator = new Generator((ulong)_options.Seed, _device);
        _context = new ForwardContext
        {
            Selection = part.Selection,
            Generator = _generator,
            Checkpointing = _options.GradientCheckpointing,
            Cancellation = cancellation,
        };
    }

    /// <summary>What is made small.</summary>
    public IObjective Objective { get; }

    /// <summary>What is trained.</summary>
    public TrainedPart Part { get; }

    /// <summary>What the objective compares with, or null.</summary>
    public ReferenceModel? Reference { get; }

    /// <summary>The optimiser, which holds what is trained. The loop makes another one when the adapter's layout changes.</summary>
    public Optimizer Optimizer { get; private set; }

    /// <summary>What was trained at first and has been frozen since.</summary>
    public IEnumerable<TrainedParameter> Frozen => _trainedAtFirst.ExceptBy(Optimizer.Parameters.Entries.Select(static entry => entry.Trained.Name), static trained => trained.Name);

    /// <summary>The schedule.</summary>
    public Schedule Schedule { get; }

    /// <summary>What the machine decided.</summary>
    public ComputeChoice Compute { get; private set; } = new(ComputeThreads.Count, "");

    /// <summary>What losses are multiplied by in the backward pass.</summary>
    public LossScale Scale { get; }

    /// <summary>Steps that the adapter has learnt from, those of a checkpoint that was taken up included.</summary>
    public int StepsMade { get; private set; }

    /// <summary>Whether its passes can be shared with those of other trainings on the same base.</summary>
    public bool SharesPasses { get; }

    /// <summary>Whether no step follows.</summary>
    public bool IsOver => StepsMade >= _plan.TotalSteps || _best.IsEnough;

    /// <summary>What is trained, on what.</summary>
    public TrainingRequest Request => _request;

    /// <summary>A pass of what is trained, without a tape.</summary>
    public ForwardContext Context => _context;

    /// <summary>Takes the output's folder, and goes on from a checkpoint where there is one.</summary>
    public void Begin()
    {
        (StepsMade, _records, _evaluations, var before) = _output?.Begin(this) ?? (0, [], [], null);
        _firstStep = StepsMade;
        Objective.Begin(_output?.Folder, StepsMade, Say);
        _best.TakeUp(_evaluations);
        TakeUp(ComputeChoice.Decide(before ?? _request.Compute, _request.Model.Base), before);
    }

    /// <summary>Says that the first step comes, and makes the evaluation that a training was stopped in.</summary>
    public void Start()
    {
        // A log that was damaged may not say it.
        _secondsBefore = _records.Select(static record => record.Seconds).LastOrDefault(double.IsFinite);
        _request.OnStart?.Invoke(new TrainingStart(_firstStep, _plan.TotalSteps, _plan.RowCount, _heldOut.Length, Optimizer.Parameters.Count));
        _retention?.Begin(_context.Cancellation);
        _remaining = new RemainingTime(
            _firstStep, _plan.TotalSteps, _heldOut.Length == 0 ? 0 : Enumerable.Range(_firstStep + 1, Math.Max(0, _plan.TotalSteps - _firstStep)).Count(_milestones.EvaluationIsDue))
        {
            EvaluatedRowsPerStep = (double)_heldOut.Length / (_options.BatchSize * _options.GradientAccumulation),
            Tokens = _request.Data.TokenTotal * _plan.EpochsAfter(_plan.TotalSteps - _firstStep) * Objective.StepsPerBatch * _plan.RowCount / _request.Data.Count,
        };
        using var clock = Measured();
        if (StepsMade > 0 && !_evaluations.Exists(evaluation => evaluation.Step == StepsMade))
        {
            EvaluateWhereDue();
        }
    }

    /// <summary>Counts the time until what is returned is disposed as the training's own.</summary>
    public IDisposable Measured() => new RunningClock(_time);

    /// <summary>
    /// An error ends the training, or another one beside it: the checkpoint of the last whole step is written where that makes sense. Weights that
    /// have diverged are never gone on from.
    /// </summary>
    /// <param name="error">The error.</param>
    /// <param name="isOwn">Whether it is this training's.</param>
    public void Stop(Exception error, bool isOwn)
    {
        if (isOwn && error is PeftException { ErrorId: "TrainingDiverged" })
        {
            _output?.SetAsideDiverged(StepsMade);
        }
        else if (error is OperationCanceledException || ((!isOwn || EngineErrors.IsOutOfMemory(error)) && !_isMoving))
        {
            SaveCheckpoint();
        }
    }

    /// <summary>Writes the last checkpoint, and makes the weights those to go on with.</summary>
    public void Complete()
    {
        SaveCheckpoint();
        _output?.Finish();
        End();
    }

    /// <summary>No step follows: the weights become those to go on with, and what went wrong on the way is said once more.</summary>
    private void End()
    {
        Finish();
        _keptStep = _best.End(StepsMade, _plan.TotalSteps);
        _retention?.End(_plan.Rows, _heldOut, _context.Cancellation);
        if (_unsaved.Count > 0)
        {
            Say(FormattableString.Invariant($"{_unsaved.Count} {(_unsaved.Count == 1 ? "checkpoint" : "checkpoints")} on the way could not be written (step {string.Join(", ", _unsaved)})."));
        }
    }

    private void Finish()
    {
        if (!_isFinished)
        {
            _isFinished = true;
            Optimizer.Finish();
        }
    }

    /// <summary>What happened up to now.</summary>
    public TrainingRecord Record() => new()
    {
        AdapterName = Part.Name,
        Options = _options with { Compute = Compute },
        Objective = Objective.Name,
        Run = _run,
        Steps = _records,
        Evaluations = _evaluations,
        TrainedParameters = Optimizer.Parameters.Count,
        ResumedFrom = _firstStep,
        KeptStep = _keptStep,
        RetentionBefore = _retention?.Before,
        RetentionAfter = _retention?.After,
        CopiedAnswers = _retention?.Copied,
        OutputPath = _output?.Folder,
        Messages = [.. Part.Messages, .. _request.Data.Messages, .. _request.EvaluationData?.Messages ?? [], .. _output?.Messages ?? _said],
    };

    /// <inheritdoc/>
    public void Dispose()
    {
        Finish();
        Optimizer.Dispose();
        _generator.Dispose();
        Reference?.Dispose();
        _best.Dispose();
        _output?.Dispose();
    }

    /// <summary>The rows of the next step. Until the optimiser moves, nothing of the model has changed.</summary>
    public OpenStep Open()
    {
        if (ComputeThreads.Count != Compute.Threads)
        {
            ComputeThreads.ApplyHere();
            TakeUp(Compute with { Threads = ComputeThreads.Count }, Compute);
        }

        _generator.manual_seed(DataOrder.SeedOf(_options.Seed, StepsMade, -1));
        IReadOnlyList<int>[] rows = [.. _plan.MicroBatches(StepsMade)];
        return new OpenStep(this, rows, Objective.MakeBatches([.. rows.Select(own => _request.Data.Collate(own, _device))], Making(StepsMade)));
    }

    /// <summary>The generator, set to draw the masks of a micro batch.</summary>
    public Generator GeneratorOf(int micro)
    {
        _generator.manual_seed(DataOrder.SeedOf(_options.Seed, StepsMade, micro));
        return _generator;
    }

    /// <summary>Makes the step whose gradients are there, with what follows it: its record, evaluation and checkpoint where they are due.</summary>
    public void Close(OpenStep open)
    {
        var record = Step(open) with { Compute = _logsCompute ? Compute : null };
        _logsCompute = false;
        StepsMade++;

        // TorchSharp's numbers (a factor, the 1 of a sum) are freed by the collector, which managed memory gives no cause to run: until then each
        // stands between the tensors of its step, and the heap that they divide grew to twice of what was in use.
        GC.Collect(0);
        record = record with { MemoryBytes = ProcessMemory.ResidentBytes };
        _records.Add(record);
        _output?.Write(record);
        foreach (var observer in _request.Observers)
        {
            observer.OnStep(record);
        }

        Report(record);
        _request.AfterStep?.Invoke(StepsMade);
        SayWhereShared();
        EvaluateWhereDue();
        if (_milestones.CheckpointIsDue(StepsMade) || _best.Step == StepsMade)
        {
            SaveOnTheWay();
            _milestones.Saved();
        }
    }

    /// <summary>Takes up what the machine decided. The log has it with the next step; a change of it is said.</summary>
    private void TakeUp(ComputeChoice compute, ComputeChoice? before)
    {
        Compute = compute;
        _context = _context with { ProductType = compute.InFloat32(_request.Model.DataType) ? ScalarType.Float32 : _options.BFloat16Products ? ScalarType.BFloat16 : null };
        _logsCompute = compute != before;
        _output?.Keep(compute);
        if (before is not null && _logsCompute)
        {
            Say(FormattableString.Invariant($"From step {StepsMade + 1} on this computes with {compute} (before: {before}): results are those of one training without a change but for rounding."));
        }
    }

    private void Say(string message)
    {
        if (_output is not null)
        {
            _output.Say(message);
        }
        else
        {
            _said.Add(message);
            _request.OnMessage?.Invoke(message);
        }
    }

    /// <summary>Said once, and not of what is over within half a minute (a shell that starts, a compiler in the background).</summary>
    private void SayWhereShared()
    {
        _sharedSince = SharedCores.AreShared ? _sharedSince ?? _time.Elapsed : null;
        if (!_saidShared && _time.Elapsed - _sharedSince >= TimeSpan.FromSeconds(30))
        {
            _saidShared = true;
            Say("Other work shares this machine's processors: the engine makes room for it, and the training is slower meanwhile.");
        }
    }

    private void SaveCheckpoint() => _output?.SaveCheckpoint(StepsMade, this);

    /// <summary>A checkpoint that can't be written is not worth a training: the last good one stays, and the next may do.</summary>
    private void SaveOnTheWay()
    {
        try
        {
            SaveCheckpoint();
        }
        catch (PeftException error) when (error.ErrorId is "CheckpointWriteFailed" or "FileWriteFailed" or "FileReadOnly" or "FolderNotFound" or "DiskFull")
        {
            _unsaved.Add(StepsMade);
            Say($"{error.Message} The training goes on, and tries again with the next checkpoint.");
        }
    }

    /// <summary>Moves the optimiser.</summary>
    /// <exception cref="PeftException"><c>TrainingDiverged</c>: the loss or a gradient is no number any more; the weights are those of the step before.</exception>
    private StepRecord Step(OpenStep open)
    {
        using var scope = NewDisposeScope();
        var (step, gradients, count) = (StepsMade, Optimizer.Parameters.Gradients, open.Batches.Count);
        List<Tensor> figures = [.. open.Losses];
        open.DisposeBatches();
        Part.Adapter?.OnGradients(step);
        figures.Add(gradients.norm());
        figures.AddRange(open.Metrics.Sums);

        // The one time in a step that anything is copied to the host.
        var values = stack(figures).cpu().data<float>().ToArray();
        var losses = values[..count];
        var norm = values[count];
        var loss = losses.Sum(static value => (double)value);
        if (!double.IsFinite(loss) || !double.IsFinite(norm))
        {
            throw Divergence.Of(step, losses, norm, open.Rows, _request, _records);
        }

        var scheduled = Schedule.Factor(step);
        _request.OnStep?.Invoke(new StepDetails(step, losses, open.Items, Optimizer.Rates(scheduled), Optimizer.Parameters));
        if (_options.MaxGradientNorm > 0 && _options.MaxGradientNorm / (norm + 1e-6) is < 1 and var factor)
        {
            gradients.mul_(factor);
        }

        Part.Adapter?.OnClippedGradients(step);
        _isMoving = true;
        Optimizer.Step(scheduled);
        _isMoving = false;
        var rate = Optimizer.Rates(scheduled)[0];
        if (Part.Adapter?.OnStepped(step) == true)
        {
            RemakeOptimizer();
        }

        return new StepRecord(step + 1, _plan.EpochsAfter(step + 1), loss, rate, norm, open.TokenCount, open.TargetCount, _secondsBefore + _time.Elapsed.TotalSeconds)
        {
            Metrics = open.Metrics.Means(values.AsSpan(count + 1)),
        };
    }

    private BatchMaking Making(int step, bool isEvaluation = false) => new(Objective, _request.Model, _context, Reference, step) { IsEvaluation = isEvaluation };

    /// <summary>The adapter trains other parameters from now on: they get buffers of their own, and what the optimiser remembers of those that stay goes on.</summary>
    public void RemakeOptimizer()
    {
        using var before = Optimizer;
        before.ReleaseParameters();
        Optimizer = OptimizerRegistry.Create(Part.Parameters(), _options);
        Optimizer.TakeOver(before);
    }

    /// <summary>The loss of a batch with the adapter's own term, in training and in evaluation alike.</summary>
    public Tensor Loss(TrainingBatch batch, double? divisor, ForwardContext context, MetricSums metrics)
    {
        var pass = new ObjectivePass(Objective, _request.Model, batch, divisor, context, Reference, metrics);
        return Part.Loss(Objective.Loss(pass), pass.Context);
    }

    private void EvaluateWhereDue()
    {
        if (!_milestones.EvaluationIsDue(StepsMade))
        {
            return;
        }

        if (_heldOut.Length == 0)
        {
            // Pictures are worth a look where there is no loss to measure.
            _ = SamplePictures.AreOf(_request.Model) ? TrainingSample.Of(_request, Part.Selection, _output?.Folder, StepsMade, _context.Cancellation) : null;
            _milestones.Evaluated();
            return;
        }

        var before = _time.Elapsed.TotalSeconds;
        var evaluation = Evaluate(_request.EvaluationData ?? _request.Data);
        if (!double.IsFinite(evaluation.Loss))
        {
            throw Divergence.Error(FormattableString.Invariant($"After step {StepsMade} the loss on the evaluation data is {evaluation.Loss}: the training has diverged."));
        }

        evaluation = (_retention?.Add(evaluation, _context.Cancellation) ?? evaluation) with { Samples = TrainingSample.Of(_request, Part.Selection, _output?.Folder, StepsMade, _context.Cancellation) };
        _evaluations.Add(evaluation);
        Schedule.OnEvaluation(evaluation.Loss);
        _output?.Write(evaluation);
        foreach (var observer in _request.Observers)
        {
            observer.OnEvaluation(evaluation);
        }

        _remaining?.AfterEvaluation(_time.Elapsed.TotalSeconds - before);
        _milestones.Evaluated();
        _best.See(_evaluations);
    }

    /// <summary>Mean loss over the rows that are set apart, each batch counted by its rows.</summary>
    private EvaluationRecord Evaluate(ITrainingData data)
    {
        using var metrics = new MetricSums();

        // What is drawn (noise, timesteps) is the same in every evaluation.
        _generator.manual_seed(DataOrder.SeedOf(_options.Seed, -1, -1));
        double sum = 0;
        long counted = 0;
        foreach (var chunk in TrainingPlan.OfOneShape(_heldOut, data.Shapes, Objective.Plan(_options).EvaluationBatchSize))
        {
            _context.Cancellation.ThrowIfCancellationRequested();
            using var scope = NewDisposeScope();
            foreach (var batch in Objective.MakeBatches([data.Collate(chunk, _device)], Making(StepsMade, isEvaluation: true)))
            {
                using var own = batch;
                sum += Loss(batch, null, _context, metrics).item<float>() * batch.InputIds.size(0);
                counted += batch.InputIds.size(0);
            }
        }

        return new EvaluationRecord(StepsMade, _plan.EpochsAfter(StepsMade), sum / counted)
        {
            Metrics = metrics.Means([.. metrics.Sums.Select(static figure => figure.item<float>())]),
        };
    }

    private void Report(StepRecord step)
    {
        _tokens += step.Tokens;
        _remaining!.AfterStep(step.Step, _time.Elapsed.TotalSeconds, step.Tokens, JitInfo.GetCompilationTime().TotalSeconds);
        if (_request.Progress is null || (step.Step % _options.LoggingInterval != 0 && step.Step != _plan.TotalSteps))
        {
            return;
        }

        var seconds = _time.Elapsed.TotalSeconds;
        _request.Progress.Report(new TrainingProgress(
            step.Step, _plan.TotalSteps, step.Epoch, step.Loss, step.LearningRate, _tokens / Math.Max(seconds, 1e-9),
            TimeSpan.FromSeconds(_remaining.Seconds))
        {
            Reward = step.Metrics?.TryGetValue("reward", out var reward) == true ? reward : null,
            RetentionLoss = _retention?.After ?? _retention?.Before,
            EvaluationLoss = _evaluations.Count > 0 ? _evaluations[^1].Loss : null,
        });
    }
}
