using System.Management.Automation;
using Peft.Adapters.Merging;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Cmdlets.Arguments;
using Peft.Cmdlets.Completion;
using Peft.Cmdlets.Pipeline;
using Peft.Cmdlets.Session;
using Peft.Models;
using Peft.Training.Data;
using Peft.Training.Evaluation;

namespace Peft.Cmdlets.Commands.Adapter;

/// <summary>Merge-LoraAdapter: adds adapters into the weights of their model, at the strengths that Set-ActiveAdapter gave them.</summary>
[Cmdlet(VerbsData.Merge, "LoraAdapter", SupportsShouldProcess = true, DefaultParameterSetName = AdapterSet)]
[Alias("Merge-PeftAdapter")]
[OutputType(typeof(PeftModel), ParameterSetName = [AdapterSet, ModelSet])]
[OutputType(typeof(DirectoryInfo), ParameterSetName = [FolderSet])]
public sealed class MergeLoraAdapterCommand : AdapterCommand
{
    /// <summary>Name of the parameter set that merges from folder to folder.</summary>
    private const string FolderSet = "Folder";

    private readonly List<PeftAdapter> _adapters = [];
    private readonly List<PeftModel> _models = [];

    /// <summary>Names of the model's adapters to merge, in order. Without it the active ones are merged.</summary>
    [Parameter(Position = 0, ParameterSetName = ModelSet)]
    [SupportsWildcards]
    [ArgumentCompleter(typeof(AdapterNameCompleter))]
    [ValidateNotNullOrEmpty]
    [Alias("adapter_names")]
    public string[]? AdapterName { get; set; }

    /// <summary>Folder of a base model to merge into without loading it: the result is written a file at a time, so that base and adapter need not fit into memory.</summary>
    [Parameter(Mandatory = true, ParameterSetName = FolderSet)]
    [ValidateNotNullOrEmpty]
    public string Path { get; set; } = "";

    /// <summary>Folders of the adapters to merge into the base, in order.</summary>
    [Parameter(Mandatory = true, ParameterSetName = FolderSet)]
    [ValidateNotNullOrEmpty]
    public string[] AdapterPath { get; set; } = [];

    /// <summary>Folder for the merged model.</summary>
    [Parameter(Mandatory = true, ParameterSetName = FolderSet)]
    [ValidateNotNullOrEmpty]
    public string OutputPath { get; set; } = "";

    /// <summary>Maximum size of a file of the result, which is what memory has to hold, such as <c>1GB</c>.</summary>
    [Parameter(ParameterSetName = FolderSet)]
    [ValidateRange(1L, long.MaxValue)]
    [PSDefaultValue(Value = FolderMerge.ShardBytes, Help = "1GB")]
    [ArgumentCompleter(typeof(ShardSizeCompleter))]
    public long MaxShardSize { get; set; } = FolderMerge.ShardBytes;

    /// <summary>Writes over a model that is in the folder already.</summary>
    [Parameter(ParameterSetName = FolderSet)]
    public SwitchParameter Force { get; set; }

    /// <summary>Makes the merge final: the model is a plain model from then on and all its adapters are dropped.</summary>
    [Parameter(ParameterSetName = AdapterSet)]
    [Parameter(ParameterSetName = ModelSet)]
    public SwitchParameter Unload { get; set; }

    /// <summary>Checks every merged weight first and changes nothing when one is not a finite number.</summary>
    [Parameter]
    [Alias("safe_merge")]
    public SwitchParameter Safe { get; set; }

    /// <summary>Type that the weights take before the changes are added; <c>auto</c> keeps theirs. The sum is formed in float32 at least.</summary>
    [Parameter(ParameterSetName = AdapterSet)]
    [Parameter(ParameterSetName = ModelSet)]
    [ValidateSet("auto", "float32", "bfloat16", "float16")]
    [PSDefaultValue(Value = "auto", Help = "auto")]
    public string DataType { get; set; } = "auto";

    /// <summary>What the changes are added to where weights are quantised, in memory or from folder to folder: the <c>Quantized</c> weights, which are quantised again; the <c>Unpacked</c> values that they stand for, which makes the model a plain one; or the <c>Original</c> weights, read from the model's files.</summary>
    [Parameter(ParameterSetName = AdapterSet)]
    [Parameter(ParameterSetName = ModelSet)]
    [Parameter(ParameterSetName = FolderSet)]
    [PSDefaultValue(Value = MergeGround.Quantized, Help = "Quantized")]
    public MergeGround Onto { get; set; }

    /// <summary>The folder of the unquantised model for <c>-Onto Original</c>. Without it the one that the model was imported from; from folder to folder it has to be named.</summary>
    [Parameter(ParameterSetName = AdapterSet)]
    [Parameter(ParameterSetName = ModelSet)]
    [Parameter(ParameterSetName = FolderSet)]
    [ValidateNotNullOrEmpty]
    public string? OriginalPath { get; set; }

    /// <summary>Rows on which the loss is measured with the adapters active and once more after the merge; a line says both.</summary>
    [Parameter(ParameterSetName = AdapterSet)]
    [Parameter(ParameterSetName = ModelSet)]
    [DatasetArgument]
    [ArgumentCompleter(typeof(DatasetCompleter))]
    public TrainingDataset? Dataset { get; set; }

    /// <inheritdoc/>
    protected override void Begin()
    {
        if (OriginalPath is not null && Onto != MergeGround.Original)
        {
            throw new PeftException("ParametersContradict", $"-OriginalPath is read for -Onto Original alone, and -Onto is {Onto}.") { Target = OriginalPath, RecommendedAction = "Add -Onto Original, or leave -OriginalPath out." };
        }
    }

    /// <inheritdoc/>
    protected override void Process()
    {
        if (ParameterSetName == FolderSet)
        {
            MergeFolders();
            return;
        }

        var chosen = ParameterSetName == ModelSet && AdapterName is null
            ? [.. Model.ActiveAdapters.Select(name => Model[name])]
            : Chosen(AdapterName ?? []);
        if (chosen.Count == 0)
        {
            throw new PeftException("NothingToMerge", $"The model '{Model.Name}' has no active adapter to merge.")
            {
                Target = Model,
                RecommendedAction = "Name the adapters to merge with -AdapterName, or activate them with Set-ActiveAdapter.",
            };
        }

        _adapters.AddRange(chosen);
        _models.AddRange((ParameterSetName == ModelSet ? [Model] : chosen.Select(static adapter => adapter.Model)).Except(_models));
    }

    private void MergeFolders()
    {
        var (folder, output) = (PathResolution.Target(this, Path), PathResolution.Target(this, OutputPath));
        OutputFolder.RequireFree(output, Force);
        string[] adapters = [.. AdapterPath.Select(path => PathResolution.Target(this, path))];
        var original = OriginalPath is null ? null : PathResolution.ResolveLiteral(this, OriginalPath);
        if (ShouldProcess(output, $"Write '{folder}' with {string.Join(", ", adapters)} merged"))
        {
            WriteObject(Run(work =>
            {
                var progress = new ProgressLine(work, "Merging from folder to folder");
                var options = new MergeOptions { Safe = Safe, Ground = Onto, OriginalPath = original, Cancellation = work.Cancellation };
                var report = FolderMerge.Run(folder, adapters, output, MaxShardSize, options, (done, all) => progress.Show(done, all, $"{done} of {all} tensors"));
                progress.Complete();
                report.Messages.ForEach(work.WriteWarning);
                work.WriteLine(FormattableString.Invariant($"Merged into '{output}', of whose weights {report.LargestShard / 1e6:N0} MB were in memory at once."));
                return new DirectoryInfo(output);
            }));
        }
    }

    /// <inheritdoc/>
    protected override void End()
    {
        var options = new MergeOptions { Unload = Unload, Safe = Safe, DataType = EngineNames.DataType(DataType), Cancellation = Cancellation };
        options = options with { Ground = Onto, OriginalPath = OriginalPath is null ? null : PathResolution.ResolveLiteral(this, OriginalPath) };
        Each(_models, model =>
        {
            string[] names = [.. _adapters.Where(adapter => ReferenceEquals(adapter.Model, model)).Select(static adapter => adapter.Name).Distinct(StringComparer.Ordinal)];
            if (ShouldProcess(model.Name, $"Merge {string.Join(", ", names)} into the weights{(Unload ? " for good" : "")}"))
            {
                Run(output => Merge(model, names, options, output));
                WriteObject(model);
            }
        });
    }

    private void Merge(PeftModel model, string[] names, MergeOptions options, WorkOutput output)
    {
        if (Dataset is null)
        {
            model.Merge(names, options).Messages.ForEach(output.WriteWarning);
            return;
        }

        var rows = Dataset.Tokenize(model.RequiredTokenizer, new TokenizationOptions(), cancellation: output.Cancellation);
        var before = DatasetPerplexity.Measure(model, rows, new AdapterSelection([.. names.Select(name => model.ActiveSet.Where(entry => entry.Name == name).DefaultIfEmpty(new ActiveAdapter(name)).First())]), cancellation: output.Cancellation).Loss;
        var report = model.Merge(names, options);
        report.Messages.ForEach(output.WriteWarning);
        var after = DatasetPerplexity.Measure(model, rows, cancellation: output.Cancellation).Loss;
        output.WriteLine(FormattableString.Invariant($"Loss on {rows.Count:N0} rows: {before:G4} with {string.Join(", ", names)} active, {after:G4} merged{(report.QuantizedAgain > 0 ? $" and quantised again ({model.Quantization})" : "")}."));
    }
}
