using System.Management.Automation;
using Peft.Cmdlets.Arguments;
using Peft.Cmdlets.Pipeline;
using Peft.Training.Data;

namespace Peft.Cmdlets.Commands.Training;

/// <summary>Join-TrainingDataset: mixes data sets into one, each as much as it is told to weigh.</summary>
[Cmdlet(VerbsCommon.Join, "TrainingDataset")]
[OutputType(typeof(TrainingDataset))]
public sealed class JoinTrainingDatasetCommand : PeftCmdlet
{
    private readonly List<TrainingDataset> _parts = [];

    /// <summary>The data sets, from Import-TrainingDataset. They may be of different layouts: each keeps its columns, template, and what of it is learnt.</summary>
    [Parameter(Mandatory = true, Position = 0, ValueFromPipeline = true)]
    [DatasetArgument]
    [ValidateNotNullOrEmpty]
    public TrainingDataset[] Dataset { get; set; } = [];

    /// <summary>How much of the mixture each data set makes up, in any unit: <c>3, 1</c> is three quarters and one. Without it every row is taken.</summary>
    [Parameter(Position = 1)]
    [ValidateNotNullOrEmpty]
    public double[]? Weight { get; set; }

    /// <summary>Repeats rows of the scarce data sets, so that each row of all comes at least once. Without it no row is repeated, and of plentiful data sets only some rows are taken.</summary>
    [Parameter]
    public SwitchParameter Repeat { get; set; }

    /// <summary>Another number takes other rows; the same number always the same.</summary>
    [Parameter]
    [PSDefaultValue(Value = 0, Help = "0")]
    public int Seed { get; set; }

    /// <inheritdoc/>
    protected override void Process() => _parts.AddRange(Dataset);

    /// <inheritdoc/>
    protected override void End() => WriteObject(TrainingDataset.Mix(_parts, Weight, Repeat, Seed));
}
