using System.Management.Automation;
using Peft.Cmdlets.Completion;
using Peft.Cmdlets.Pipeline;
using Peft.Training.Data;

namespace Peft.Cmdlets.Commands.Training;

/// <summary>Split-TrainingDataset: cuts a data set into parts, such as one to learn and one to be judged by.</summary>
[Cmdlet(VerbsCommon.Split, "TrainingDataset", DefaultParameterSetName = ShareSet)]
[OutputType(typeof(TrainingDataset))]
public sealed class SplitTrainingDatasetCommand : PeftCmdlet
{
    private const string ShareSet = "Share";
    private const string ColumnSet = "Column";

    /// <summary>The data set, from Import-TrainingDataset.</summary>
    [Parameter(Mandatory = true, ValueFromPipeline = true)]
    public TrainingDataset Dataset { get; set; } = null!;

    /// <summary>Shares of the parts, such as <c>0.9</c> or <c>0.8, 0.1, 0.1</c>; what is missing to 1 is one more part.</summary>
    [Parameter(Mandatory = true, Position = 0, ParameterSetName = ShareSet)]
    [ValidateNotNullOrEmpty]
    public double[] Share { get; set; } = [];

    /// <summary>Makes a part of each value of this column, such as one that says which rows are for training.</summary>
    [Parameter(Mandatory = true, ParameterSetName = ColumnSet)]
    [ValidateNotNullOrEmpty]
    [ArgumentCompleter(typeof(ColumnCompleter))]
    public string Column { get; set; } = "";

    /// <summary>Keeps rows with the same value in this column in one part, such as all that one person wrote. Without it rows that say nearly the same stay together.</summary>
    [Parameter(ParameterSetName = ShareSet)]
    [ValidateNotNullOrEmpty]
    [ArgumentCompleter(typeof(ColumnCompleter))]
    public string? GroupColumn { get; set; }

    /// <summary>Lets rows that say nearly the same be in different parts.</summary>
    [Parameter(ParameterSetName = ShareSet)]
    public SwitchParameter KeepDuplicate { get; set; }

    /// <summary>Another number gives other parts; the same number always the same.</summary>
    [Parameter(ParameterSetName = ShareSet)]
    [PSDefaultValue(Value = 0, Help = "0")]
    public int Seed { get; set; }

    /// <inheritdoc/>
    protected override void Process() => WriteObject(
        Run(output => ParameterSetName == ColumnSet
            ? DatasetSplit.ByColumn(Dataset, Column)
            : DatasetSplit.ByShare(Dataset, Share, Seed, GroupColumn, KeepDuplicate, output.Cancellation)),
        enumerateCollection: true);
}
