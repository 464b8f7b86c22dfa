using System.Management.Automation;
using Peft.Adapters;
using Peft.Adapters.Files;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Methods.Lora.DataStarts;
using Peft.Adapters.Model;
using Peft.Cmdlets.Arguments;
using Peft.Cmdlets.Completion;
using Peft.Cmdlets.Pipeline;
using Peft.Training;
using Peft.Training.Data;
using Peft.Models.Heads;
using Peft.Training.Objectives;
using Peft.Training.Reports;
using TorchSharp;

namespace Peft.Cmdlets.Commands.Training;

/// <summary>What the cmdlets that train an adapter share: everything but what is made small.</summary>
public abstract partial class AdapterTrainingCommand : TrainingCommand
{
    private protected const string ModelSet = "Model";
    private protected const string AdapterSet = "Adapter";

    // What New-LoraConfig says where nobody says otherwise.
    private const string UsualTask = "CAUSAL_LM";

    /// <summary>The model to train on; a loaded model's name does as well.</summary>
    [Parameter(Mandatory = true, ParameterSetName = ModelSet, ValueFromPipeline = true)]
    [ModelArgument]
    [ArgumentCompleter(typeof(ModelNameCompleter))]
    public PeftModel Model { get; set; } = null!;

    /// <summary>An adapter to train further.</summary>
    [Parameter(Mandatory = true, ParameterSetName = AdapterSet, ValueFromPipeline = true)]
    [AdapterArgument]
    [ArgumentCompleter(typeof(AdapterCompleter))]
    public PeftAdapter Adapter { get; set; } = null!;

    /// <summary>What the new adapter is made of, from New-LoraConfig; a table with its parameters, or the path of an <c>adapter_config.json</c>, does as well. Without it an adapter that the model has is trained further. Several make a sweep: each is trained, those whose methods select by rows in passes that they share, and a table of what came of them is put out.</summary>
    [Parameter(Position = 0, ParameterSetName = ModelSet)]
    [ConfigArgument]
    [ArgumentCompleter(typeof(ConfigCompleter))]
    [Alias("peft_config")]
    public AdapterConfig[]? Config { get; set; }

    /// <summary>The data set to learn, from Import-TrainingDataset; the path of a file, or rows, do as well. Several make a training each: see <c>-Config</c>.</summary>
    [Parameter(Mandatory = true, Position = 1, ParameterSetName = ModelSet)]
    [Parameter(Mandatory = true, Position = 0, ParameterSetName = AdapterSet)]
    [DatasetArgument]
    [ArgumentCompleter(typeof(DatasetCompleter))]
    [Alias("train_dataset")]
    public TrainingDataset[] Dataset { get; set; } = null!;

    /// <summary>Name of the adapter, and of its folder under <c>-OutputPath</c>.</summary>
    [Parameter(ParameterSetName = ModelSet)]
    [ArgumentCompleter(typeof(AdapterNameCompleter))]
    [PSDefaultValue(Value = "default", Help = "default")]
    [ValidateNotNullOrEmpty]
    [Alias("adapter_name")]
    public string AdapterName { get; set; } = "default";

    /// <summary>A data set to measure the loss on now and then, which is not learnt.</summary>
    [Parameter]
    [DatasetArgument]
    [ArgumentCompleter(typeof(DatasetCompleter))]
    [Alias("eval_dataset")]
    public TrainingDataset? EvaluationDataset { get; set; }

    /// <summary>A data set of general texts. Their loss without the adapter and with it says what the model forgets: it is measured before, at each evaluation and at the end, and shown, logged and kept in the training record.</summary>
    [Parameter]
    [DatasetArgument]
    [ArgumentCompleter(typeof(DatasetCompleter))]
    public TrainingDataset? RetentionDataset { get; set; }

    /// <summary>By how much the loss of <c>-RetentionDataset</c> may rise, in nats a token, before a warning.</summary>
    [Parameter]
    [PSDefaultValue(Value = 0.1, Help = "0.1")]
    public double RetentionLimit { get; set; } = 0.1;

    /// <summary>Folder for the results: <c>NAME/</c> with the adapter and its log, and <c>NAME/checkpoints/step-N</c>. Without it nothing is written.</summary>
    [Parameter]
    [Alias("output_dir")]
    [ValidateNotNullOrEmpty]
    public string? OutputPath { get; set; }

    /// <summary>What else is told of each step and evaluation as it comes: a script block, which gets the record as <c>$_</c> and first argument, the adapter's name as the second; or a folder, into which TensorBoard's event files are written, of several adapters each into a folder of its name there.</summary>
    [Parameter]
    [Alias("logging_dir")]
    [ValidateNotNullOrEmpty]
    public object[]? LogTo { get; set; }

    /// <summary>Prompts that the model is tried on at each evaluation; its answers are in the record, the log and the report. A diffusion model draws them into <c>samples/</c> beside the adapter, at <c>-EvaluationInterval</c> or after each epoch.</summary>
    [Parameter]
    [ValidateNotNullOrEmpty]
    [Alias("validation_prompt")]
    public string[]? SamplePrompt { get; set; }

    /// <summary>What an hour of this machine costs, in any currency: the price is said with the estimate and at the end.</summary>
    [Parameter]
    [ValidateRange(0.0, double.MaxValue)]
    public double PricePerHour { get; set; }

    /// <summary>Goes on from the newest checkpoint under <c>-OutputPath</c>. Data or options that changed are refused. Without a checkpoint the training starts anew, unless older results would be lost.</summary>
    [Parameter]
    public SwitchParameter Resume { get; set; }

    /// <summary>Starts anew where the adapter or its output exists already. The adapter stays until the training begins, its output until the new one's first checkpoint is written.</summary>
    [Parameter]
    public SwitchParameter Force { get; set; }

    /// <summary>Folder of an adapter whose training is repeated: its configuration, options and seed are taken from what lies beside it, and base and data have to be the same. The result is the same bit for bit on the same engine and number of threads.</summary>
    [Parameter(ParameterSetName = ModelSet)]
    [ValidateNotNullOrEmpty]
    public string? From { get; set; }

    /// <summary>What <see cref="From"/> says.</summary>
    private Provenance? _source;

    /// <summary>Whether all weights of the base are trained in place of an adapter.</summary>
    private protected virtual bool TrainsBase => false;

    /// <summary>The model that is meant.</summary>
    private protected PeftModel TheModel => ParameterSetName == AdapterSet ? Adapter.Model : Model;

    /// <inheritdoc/>
    protected override bool EndsOnError => true;

    /// <inheritdoc/>
    protected override void Process()
    {
        if (Resume && OutputPath is null)
        {
            throw new PeftException("ParametersContradict", "-Resume goes on from a checkpoint under -OutputPath, which wasn't given.")
            {
                Target = nameof(Resume),
                RecommendedAction = "Give the -OutputPath of the training to resume, or leave -Resume out.",
            };
        }

        TakeSource();
        var model = TheModel;
        if (IsSweep)
        {
            RunSweep(model);
            return;
        }

        var name = TrainsBase ? TrainingRequest.BaseName : AdapterOf(model);
        var options = ReadOptions();
        var folder = OutputPath is null ? null : PathResolution.Target(this, OutputPath);
        if (!ShouldProcess(model.Name, $"Train {(TrainsBase ? "all weights" : $"the adapter '{name}'")} on {Examples(Dataset[0].Count)}{Replacing(folder, name)}"))
        {
            if (Given("WhatIf"))
            {
                var plan = new TrainingReport(name, folder) { PricePerHour = PricePerHour };
                Run(output => Plan(model, options, plan, output));
            }

            return;
        }

        if (model.Device.type == DeviceType.CPU && torch.cuda.is_available())
        {
            WriteWarning("The model is on the CPU while a GPU lies idle; Import-PeftModel -Device cuda puts it there.");
        }

        var report = new TrainingReport(name, folder) { PricePerHour = PricePerHour };
        try
        {
            WriteObject(Run(output => Train(model, options, report, output)));
        }
        catch (PipelineStoppedException)
        {
            WriteLastLine(report.Stopped(model));
            throw;
        }
    }

    /// <summary>Takes up what the training that is repeated had, where nothing else is given.</summary>
    private void TakeSource()
    {
        if (From is null)
        {
            return;
        }

        var folder = PathResolution.Target(this, From);
        _source = Provenance.Load(folder) is { Config: not null } found ? found : throw new PeftException("ProvenanceMissing", $"'{folder}' doesn't say how its adapter was trained from the start ({Provenance.FileName}).")
        {
            Target = folder,
            RecommendedAction = "Give the folder of an adapter that Invoke-LoraTraining saved, or -Config and -Options.",
        };
        Config ??= [AdapterConfig.FromJson(_source.Config!)];
        Options ??= TrainingOptions.FromJson(_source.Options.ToJsonString(), folder);
        AdapterName = Given(nameof(AdapterName)) ? AdapterName : _source.Adapter;
    }

    /// <summary>Refuses to repeat a training with another base or other data.</summary>
    private void RefuseOther(PeftModel model, string name, ITrainingData data)
    {
        if (_source?.Other(model[name], data.Fingerprint, data.Count) is { } other)
        {
            throw new PeftException("ProvenanceDiffers", $"The training of '{_source!.Adapter}' can't be repeated: {other} differs from what it was trained with.")
            {
                Target = From,
                RecommendedAction = "Give the same base and data, or train anew with -Config and -Options.",
            };
        }
    }

    /// <summary>What goes once the new training's first checkpoint is written, for -WhatIf and -Confirm.</summary>
    private string Replacing(string? folder, string name)
    {
        var replaced = folder is null || !Force ? [] : TrainingRequest.Replaced(folder, name);
        return replaced.Count == 0 ? "" : $", in place of an earlier training in '{System.IO.Path.Combine(folder!, name)}': {string.Join(", ", replaced.Select(System.IO.Path.GetFileName))}";
    }

    private object Train(PeftModel model, TrainingOptions options, TrainingReport report, WorkOutput output)
    {
        var name = report.AdapterName;
        using var held = model.Acquire("training");
        ITrainingData? tokens = null;
        using var added = TrainsBase ? null : Prepare(model, name, Config?[0], _source is null ? (ulong)Seed[0] : _source.StartSeed, config => ComputeStart(config, model, tokens = Read(Split(Dataset[0], options, output.Cancellation).Learnt, model, Learner(name), options, output), options, output));
        added?.Adapter.Report.Messages.ForEach(output.WriteWarning);
        Trainer? trainer = null;
        IDisposable? objective = null;
        List<ITrainingObserver> observers = [];
        try
        {
            report.Show(output);
            observers.AddRange(Observers(name, output));
            var (learnt, judged) = Split(Dataset[0], options, output.Cancellation);
            var data = tokens ?? Read(learnt, model, Learner(name), options, output);
            RefuseOther(model, name, data);
            var estimate = EstimateOf(model, TrainsBase ? null : name, data, Undivided(options, judged));
            report.Say(estimate);
            if (estimate.BatchTokens is not null && model.Device.type == DeviceType.CPU)
            {
                estimate.RefuseTooLarge(model, data, options);
            }

            var basis = Request(model, TrainsBase ? null : name, Dataset[0], data, judged, options, output);
            var request = basis with
            {
                OutputPath = report.OutputPath,
                Observers = observers,
                OnStart = start => report.Begin(start, data, basis.EvaluationData, model, TrainsBase ? null : model[name]),
                Progress = report,
            };
            objective = request.Objective as IDisposable;
            trainer = new Trainer(request);
            var record = trainer.Train(output.Cancellation);
            report.End(record);
        }
        catch (Exception error)
        {
            // Not in a filter, which runs before the trainer has told how many steps it made.
            if (trainer is not { StepsMade: > 0 })
            {
                // Nothing was learnt: the model is left as it was found.
                added?.Undo();
            }
            else if (error is not OperationCanceledException)
            {
                output.WriteWarning(TrainsBase
                    ? $"The training ended in an error after step {trainer.StepsMade}. The model keeps what it has learnt; Export-PeftModel saves it."
                    : $"The training ended in an error after step {trainer.StepsMade}. The adapter '{name}' stays in the model with what it has learnt; Export-PeftAdapter saves it.");
            }

            throw;
        }
        finally
        {
            objective?.Dispose();
            observers.ForEach(static observer => observer.Dispose());
        }

        return TrainsBase ? model : model[name];
    }

    /// <summary>A training, but for what is shown of it.</summary>
    private TrainingRequest Request(PeftModel model, string? name, TrainingDataset dataset, ITrainingData data, TrainingDataset? judged, TrainingOptions options, WorkOutput output) => new()
    {
        Compute = _source is null ? null : options.Compute,
        Model = model,
        AdapterName = name,
        Data = data,
        EvaluationData = judged is null ? null : Read(judged, model, name, options, output),
        RetentionData = RetentionDataset is null ? null : Tokenize(RetentionDataset, model, options with { Objective = "causal_language_modelling", ObjectiveOptions = null }, output),
        RetentionLimit = RetentionLimit,
        Options = options,
        Objective = MakeObjective(options, output),
        Reference = Config is null ? ReferenceKind.Start : ReferenceKind.Base,
        SamplePrompts = SamplePrompt ?? [],
        DataOrigin = dataset.Origin,
        EvaluationOrigin = EvaluationDataset?.Origin,
        Resume = Resume,
        Force = Force,
        OnMessage = output.WriteWarning,
    };

    /// <summary>What -WhatIf says beside the operation: steps, tokens, time and memory. The model is left as it was found.</summary>
    private void Plan(PeftModel model, TrainingOptions options, TrainingReport report, WorkOutput output)
    {
        using var held = model.Acquire("training");
        var name = Learner(report.AdapterName);
        var (learnt, judged) = Split(Dataset[0], options, output.Cancellation);
        ITrainingData? data = null;
        using var added = name is null ? null : Prepare(model, name, Config?[0], (ulong)Seed[0], config => ComputeStart(config, model, data = Read(learnt, model, name, options, output), options, output));
        try
        {
            report.Show(output);
            report.Say(EstimateOf(model, name, data ?? Read(learnt, model, name, options, output), Undivided(options, judged)));
        }
        finally
        {
            added?.Undo();
        }
    }

    /// <summary>The adapter that learns under a training's name; null where the base does.</summary>
    private string? Learner(string name) => TrainsBase ? null : name;

    /// <summary>The options for what is learnt: where what is evaluated on stands by itself, nothing more is set apart.</summary>
    private static TrainingOptions Undivided(TrainingOptions options, TrainingDataset? judged) => judged is null ? options : options with { EvaluationSplit = 0 };

    /// <summary>What a training takes; <paramref name="adapter"/> is null of one of all weights.</summary>
    private static TrainingEstimate EstimateOf(PeftModel model, string? adapter, ITrainingData data, TrainingOptions options) => TrainingEstimate.Of(
        model,
        adapter is null ? model.Base.NamedParameters().Where(static named => named.Parameter.IsOwner).Sum(static named => named.Parameter.Count) : model[adapter].TrainableParameters.Sum(static parameter => parameter.Parameter.Count),
        data,
        options,
        timesProducts: true);

    /// <summary>What is told of a training.</summary>
    private IEnumerable<ITrainingObserver> Observers(string name, WorkOutput output) => (LogTo ?? []).Select<object, ITrainingObserver>(target => target.Unwrap() switch
    {
        ScriptBlock script => new ScriptObserver(script, name, output),
        var folder => new TensorBoardLog(System.IO.Path.Combine(PathResolution.Target(this, folder?.ToString() ?? "."), IsSweep ? name : "")),
    });

    /// <summary>What is learnt and what is evaluated on. Of examples that are packed those for evaluation are set apart before, so that none that says nearly the same shares a row with them.</summary>
    private (TrainingDataset Learnt, TrainingDataset? Judged) Split(TrainingDataset dataset, TrainingOptions options, CancellationToken cancellation)
    {
        if (EvaluationDataset is not null || options.Packing == PackingStrategy.None || options.EvaluationSplit <= 0)
        {
            return (dataset, EvaluationDataset);
        }

        var parts = DatasetSplit.ByShare(dataset, [1 - options.EvaluationSplit], (int)(options.Seed % int.MaxValue), cancellation: cancellation);
        return (parts[0], parts[1]);
    }

    /// <summary>Name of the adapter that is trained, on a model.</summary>
    private protected string AdapterOf(PeftModel model) => ParameterSetName == AdapterSet ? Adapter.Name : NameOn(model);

    /// <summary>The adapter's name as the model spells it, for case doesn't count.</summary>
    private string NameOn(PeftModel model) => AdapterNames.Find(model, AdapterName) is [var known] ? known.Name : AdapterName;

    /// <summary>Sees that the model has the adapter.</summary>
    /// <returns>What was added, or null where an adapter that the model has is trained further.</returns>
    private AdapterReplacement? Prepare(PeftModel model, string name, AdapterConfig? given, ulong? seed, Func<LoraConfig, DataStart> start)
    {
        var exists = model.Adapters.Any(adapter => adapter.Name == name);
        if (given is null)
        {
            return exists ? null : throw new PeftException("AdapterNotFound", $"The model '{model.Name}' has no adapter '{name}' to train, and no configuration for a new one was given.")
            {
                Target = name,
                RecommendedAction = "Give -Config (New-LoraConfig), or the name of an adapter that Get-PeftAdapter lists.",
            };
        }

        if (exists && Resume)
        {
            return null;
        }

        if (!exists || Force)
        {
            var config = ConfigFor(model, given);
            using var decided = DataStart.IsNeededBy(config) ? start((LoraConfig)config) : null;
            return model.ReplaceAdapter(decided?.Config ?? config, name, seed);
        }

        throw new PeftException("AdapterExists", $"The model '{model.Name}' has an adapter '{name}' already.")
        {
            Target = name,
            RecommendedAction = "Choose another -AdapterName, replace it with -Force, go on with -Resume, or leave -Config out to train it further.",
        };
    }

    /// <summary>The configuration with the task of the model's head, so that a new head is trained and saved with the adapter.</summary>
    private static AdapterConfig ConfigFor(PeftModel model, AdapterConfig given)
    {
        if (model.Base is ImageClassificationModel { ClassificationHead: { } head })
        {
            // PEFT has no task for images: the head is one of the modules that are saved.
            return given with { TaskType = null, ModulesToSave = [.. (given.ModulesToSave ?? []).Except([head], StringComparer.Ordinal), head] };
        }

        var task = ObjectiveRegistry.TaskOf(model.Base);
        if (given.TaskType is not { } asked || asked == UsualTask)
        {
            return task is null or UsualTask ? given : given with { TaskType = task };
        }

        return task is null || asked == task || asked == "FEATURE_EXTRACTION" ? given : throw new PeftException(
            "TaskTypeUnfit", $"The configuration is for the task {asked}, but '{model.Name}' is a {model.Base.ClassName}, whose task is {task}.")
        {
            Target = asked,
            RecommendedAction = $"Import the model with -TaskType {asked}, or leave the task out of the configuration.",
        };
    }

    /// <summary>What is made small, where the options alone don't say it.</summary>
    private protected virtual IObjective? MakeObjective(TrainingOptions options, WorkOutput output) => null;

    /// <summary>Lets the first rows of a data set decide how an adapter starts, and shows how far that is.</summary>
    internal static DataStart ComputeStart(LoraConfig config, PeftModel model, ITrainingData data, TrainingOptions options, WorkOutput output)
    {
        var progress = new ProgressLine(output, "Computing the start from data");
        var start = DataStart.Compute(model, config, new StartRows(model, data, options, output.Cancellation), (done, all, what) => progress.Show(done, all, what), output.Cancellation);
        progress.Complete();
        return start;
    }

    /// <summary>Makes what is learnt of a data set by an adapter that the model has, but for one whose start is computed from this; null for the base.</summary>
    private protected virtual ITrainingData Read(TrainingDataset dataset, PeftModel model, string? adapterName, TrainingOptions options, WorkOutput output) => Tokenize(dataset, model, options, output);

    /// <summary>Cuts a data set into tokens, and shows how far that is.</summary>
    internal static TokenizedDataset Tokenize(TrainingDataset dataset, PeftModel model, TrainingOptions options, WorkOutput output)
    {
        var progress = new ProgressLine(output, "Cutting the data set into tokens");
        var tokenized = dataset.Tokenize(
            model.RequiredTokenizer,
            TokenizationOptions.Of(options, model),
            done => progress.Show(done, dataset.Count, FormattableString.Invariant($"{done:N0} of {dataset.Count:N0} rows")),
            output.Cancellation);
        progress.Complete();
        tokenized.Messages.ForEach(output.WriteWarning);
        return tokenized;
    }

    /// <summary>So many examples, in words.</summary>
    internal static string Examples(int count) => count == 1 ? "1 example" : FormattableString.Invariant($"{count:N0} examples");
}
