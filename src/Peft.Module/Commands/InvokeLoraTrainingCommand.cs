using System.Globalization;
using System.Management.Automation;
using Peft.Adapters;
using Peft.Module.Completion;
using Peft.Training;
using Peft.Training.Data;
using TorchSharp;

namespace Peft.Module.Commands;

/// <summary>Invoke-LoraTraining: trains an adapter on a data set.</summary>
[Cmdlet(VerbsLifecycle.Invoke, "LoraTraining", SupportsShouldProcess = true, DefaultParameterSetName = ModelSet)]
[Alias("Invoke-PeftTraining")]
[OutputType(typeof(PeftAdapter))]
public sealed class InvokeLoraTrainingCommand : TrainingCommand
{
    private const string ModelSet = "Model";
    private const string AdapterSet = "Adapter";

    /// <summary>The model to train on; a loaded model's name does as well.</summary>
    [Parameter(Mandatory = true, ParameterSetName = ModelSet, ValueFromPipeline = true)]
    [ModelArgument]
    [ArgumentCompleter(typeof(ModelNameCompleter))]
    public PeftModel Model { get; set; } = null!;

    /// <summary>An adapter to train further.</summary>
    [Parameter(Mandatory = true, ParameterSetName = AdapterSet, ValueFromPipeline = true)]
    [ModelArgument]
    public PeftAdapter Adapter { get; set; } = null!;

    /// <summary>What the new adapter is made of, from New-LoraConfig. Without it an adapter that the model has is trained further.</summary>
    [Parameter(Position = 0, ParameterSetName = ModelSet)]
    public AdapterConfig? Config { get; set; }

    /// <summary>The data set to learn, from Import-TrainingDataset.</summary>
    [Parameter(Mandatory = true, Position = 1)]
    public TrainingDataset Dataset { get; set; } = null!;

    /// <summary>Name of the adapter, and of its folder under <c>-OutputPath</c>.</summary>
    [Parameter(ParameterSetName = ModelSet)]
    [ArgumentCompleter(typeof(AdapterNameCompleter))]
    [PSDefaultValue(Value = "default", Help = "default")]
    [ValidateNotNullOrEmpty]
    public string AdapterName { get; set; } = "default";

    /// <summary>A data set to measure the loss on now and then, which is not learnt.</summary>
    [Parameter]
    public TrainingDataset? EvaluationDataset { get; set; }

    /// <summary>Folder for the results: <c>NAME/</c> with the adapter and its log, and <c>NAME/checkpoints/step-N</c>. Without it nothing is written.</summary>
    [Parameter]
    [ValidateNotNullOrEmpty]
    public string? OutputPath { get; set; }

    /// <summary>Goes on from the newest checkpoint under <c>-OutputPath</c>. Data or options that changed are refused.</summary>
    [Parameter]
    public SwitchParameter Resume { get; set; }

    /// <summary>Starts anew where the adapter or its output exists already.</summary>
    [Parameter]
    public SwitchParameter Force { get; set; }

    /// <inheritdoc/>
    protected override bool EndsOnError => true;

    /// <inheritdoc/>
    protected override void Process()
    {
        var model = ParameterSetName == AdapterSet ? Adapter.Model : Model;
        var name = ParameterSetName == AdapterSet ? Adapter.Name : AdapterName;
        var options = ReadOptions();
        var folder = OutputPath is null ? null : PathResolution.Target(this, OutputPath);
        if (!ShouldProcess(model.Name, $"Train the adapter '{name}' on {Dataset.Count} examples"))
        {
            return;
        }

        if (model.Device.type == DeviceType.CPU && torch.cuda.is_available())
        {
            WriteWarning("The model is on the CPU while a GPU lies idle; Import-PeftModel -Device cuda puts it there.");
        }

        var adapter = Run(output =>
        {
            using var held = model.Acquire("training");
            var isNew = Prepare(model, name);
            try
            {
                var request = new TrainingRequest
                {
                    Model = model,
                    AdapterName = name,
                    Data = Tokenize(Dataset, model, options, output),
                    EvaluationData = EvaluationDataset is null ? null : Tokenize(EvaluationDataset, model, options, output),
                    Options = options,
                    OutputPath = folder,
                    Resume = Resume,
                    Force = Force,
                    Progress = new Reporter(output, name),
                };
                Announce(request, output);
                return Train(request, output);
            }
            catch (Exception error) when (isNew && error is not OperationCanceledException and not PeftException { ErrorId: "TrainingDiverged" })
            {
                // Nothing was learnt: the model is left as it was found.
                model.RemoveAdapter(name);
                throw;
            }
        });
        WriteObject(adapter);
    }

    /// <summary>Sees that the model has the adapter.</summary>
    /// <returns>Whether it was added.</returns>
    private bool Prepare(PeftModel model, string name)
    {
        var exists = model.Adapters.Any(adapter => adapter.Name == name);
        if (Config is null)
        {
            return exists ? false : throw new PeftException("AdapterNotFound", $"The model '{model.Name}' has no adapter '{name}' to train, and no configuration for a new one was given.")
            {
                Target = name,
                RecommendedAction = "Give -Config (New-LoraConfig), or the name of an adapter that Get-PeftAdapter lists.",
            };
        }

        if (exists && Resume)
        {
            return false;
        }

        if (exists && !Force)
        {
            throw new PeftException("AdapterExists", $"The model '{model.Name}' has an adapter '{name}' already.")
            {
                Target = name,
                RecommendedAction = "Choose another -AdapterName, replace it with -Force, go on with -Resume, or leave -Config out to train it further.",
            };
        }

        if (exists)
        {
            model.RemoveAdapter(name);
        }

        model.AddAdapter(Config, name, (ulong)Seed);
        return true;
    }

    private static TokenizedDataset Tokenize(TrainingDataset dataset, PeftModel model, TrainingOptions options, WorkOutput output)
    {
        var tokenized = dataset.Tokenize(
            TokenizerOf(model),
            new TokenizationOptions { MaxLength = options.MaxLength, Packing = options.Packing ? PackingStrategy.BestFit : PackingStrategy.None },
            output.Cancellation);
        if (tokenized.Dropped is [var first, ..])
        {
            output.WriteWarning(FormattableString.Invariant(
                $"{tokenized.Dropped.Count} of {dataset.Count} rows are left out, for nothing would be learnt of them; the first is {first.Row.Place}: {first.Reason}."));
        }

        return tokenized;
    }

    /// <summary>Says where the results go, and shows the first example with what of it is learnt.</summary>
    private void Announce(TrainingRequest request, WorkOutput output)
    {
        var data = (TokenizedDataset)request.Data;
        output.WriteLine(string.Create(
            CultureInfo.InvariantCulture,
            $"Training '{request.AdapterName}' on {data.Examples.Count:N0} examples: {data.Examples.Sum(static example => (long)example.InputIds.Length):N0} tokens, of which {data.Examples.Sum(static example => (long)example.LearnedCount):N0} are learnt."));
        var example = data.Examples[0];
        output.WriteLine(TrainingExampleView.Of(0, example, TokenizerOf(request.Model)).ToString());
        if (request.OutputPath is not null)
        {
            var folder = System.IO.Path.Combine(request.OutputPath, request.AdapterName);
            output.WriteLine($"Adapter:     {folder}");
            output.WriteLine($"Checkpoints: {System.IO.Path.Combine(folder, "checkpoints")}");
        }
    }

    private PeftAdapter Train(TrainingRequest request, WorkOutput output)
    {
        var record = new Trainer(request).Train(output.Cancellation);
        ((Reporter)request.Progress!).Complete();
        record.Messages.ForEach(output.WriteWarning);
        if (record.OutputPath is { } folder)
        {
            Dataset.Template?.Save(folder);
        }

        request.Model.SetActive(request.AdapterName);
        return request.Model[request.AdapterName];
    }

    /// <summary>Shows the training's progress.</summary>
    private sealed class Reporter(WorkOutput output, string adapter) : IProgress<TrainingProgress>
    {
        private readonly ProgressLine line = new(output, $"Training '{adapter}'", plainLines: true);

        public void Report(TrainingProgress value) => line.Show(
            value.Step,
            value.TotalSteps,
            string.Create(
                CultureInfo.InvariantCulture,
                $"step {value.Step} of {value.TotalSteps}, epoch {value.Epoch:0.0}, loss {value.Loss:0.0000}, {value.TokensPerSecond:N0} tokens/s, {value.Remaining:h\\:mm\\:ss} left"),
            value.Remaining);

        public void Complete() => line.Complete();
    }
}
