using System.Management.Automation;
using Peft.Adapters.Model;
using Peft.Cmdlets.Arguments;
using Peft.Cmdlets.Completion;
using Peft.Cmdlets.Pipeline;
using Peft.Training;
using Peft.Training.Data;
using Peft.Training.Reports;

namespace Peft.Cmdlets.Commands.Training;

/// <summary>What the cmdlets that report on trainings share: which trainings, and what is added to them.</summary>
public abstract class ReportCommand : PeftCmdlet
{
    private readonly List<(TrainingRecord Record, PeftAdapter? Adapter)> _runs = [];

    /// <summary>What was trained: adapters, records of trainings, or the folders that trainings wrote (<c>OUTPUT/NAME</c>, with wildcards), for which no model is needed. Several are compared on one page.</summary>
    [Parameter(Mandatory = true, ValueFromPipeline = true)]
    [ValidateNotNullOrEmpty]
    [SupportsWildcards]
    public object[] InputObject { get; set; } = [];

    /// <summary>The data set that was learnt: the examples with the highest loss are looked for in it, at most 500 spread over it. It needs adapters that are loaded.</summary>
    [Parameter]
    [DatasetArgument]
    [ArgumentCompleter(typeof(DatasetCompleter))]
    public TrainingDataset? Dataset { get; set; }

    /// <summary>What stands above the page.</summary>
    [Parameter]
    [ValidateNotNullOrEmpty]
    public string? Title { get; set; }

    /// <inheritdoc/>
    protected override void Process() => Each(InputObject, item => _runs.AddRange(item.Unwrap() switch
    {
        TrainingRecord record => [(record, null)],
        PeftAdapter adapter => [(adapter.TrainingRecord as TrainingRecord ?? throw new PeftException("TrainingRecordMissing", $"The adapter '{adapter.Name}' has no record of a training.") { Target = adapter }, adapter)],
        DirectoryInfo folder => [(TrainingRecord.Read(folder.FullName), null)],
        string path => Folders(path).Select(static folder => (TrainingRecord.Read(folder), (PeftAdapter?)null)),
        var other => throw new PeftException("TrainingRecordMissing", $"{other} is no training.") { Target = other },
    }));

    /// <summary>A folder whose name has brackets is that one.</summary>
    private IReadOnlyList<string> Folders(string path) => System.IO.Path.Exists(PathResolution.Target(this, path)) ? [PathResolution.ResolveLiteral(this, path)] : PathResolution.Resolve(this, path);

    /// <summary>Writes the page.</summary>
    private protected FileInfo Write(string path) => Run(output =>
    {
        TrainingReportPage.Write(path, [.. _runs.Select(run => (run.Record, Hardest(run.Record, run.Adapter, output)))], Title);
        return new FileInfo(path);
    });

    private IReadOnlyList<HardExample> Hardest(TrainingRecord record, PeftAdapter? adapter, WorkOutput output)
    {
        if (Dataset is null || adapter is null)
        {
            return [];
        }

        var progress = new ProgressLine(output, $"Looking for examples with a high loss under '{adapter.Name}'");
        var found = HardExample.Find(adapter, Dataset, record.Options, onProgress: (done, all) => progress.Show(done, all, FormattableString.Invariant($"{done:N0} of {all:N0} examples")), cancellation: output.Cancellation);
        progress.Complete();
        return found;
    }
}
