using System.Management.Automation;
using Peft.Cmdlets.Pipeline;
using Peft.Training.Data;

namespace Peft.Cmdlets.Commands.Training;

/// <summary>Select-TrainingDataset: some of a data set's rows, or all in another order, as a data set.</summary>
[Cmdlet(VerbsCommon.Select, "TrainingDataset")]
[OutputType(typeof(TrainingDataset))]
public sealed class SelectTrainingDatasetCommand : PeftCmdlet
{
    /// <summary>The data set, from Import-TrainingDataset.</summary>
    [Parameter(Mandatory = true, ValueFromPipeline = true)]
    public TrainingDataset Dataset { get; set; } = null!;

    /// <summary>Keeps the rows for which this is true; <c>$_</c> is the row, with its values by column.</summary>
    [Parameter(Position = 0)]
    public ScriptBlock? FilterScript { get; set; }

    /// <summary>Puts the rows into another order, before they are counted.</summary>
    [Parameter]
    public SwitchParameter Shuffle { get; set; }

    /// <summary>Another number gives another order; the same number always the same.</summary>
    [Parameter]
    [PSDefaultValue(Value = 0, Help = "0")]
    public int Seed { get; set; }

    /// <summary>Leaves out so many rows at the beginning.</summary>
    [Parameter]
    [ValidateRange(0, int.MaxValue)]
    public int Skip { get; set; }

    /// <summary>Keeps so many rows, counted from the beginning.</summary>
    [Parameter]
    [ValidateRange(1, int.MaxValue)]
    public int First { get; set; } = int.MaxValue;

    /// <summary>Keeps so many rows, counted from the end.</summary>
    [Parameter]
    [ValidateRange(1, int.MaxValue)]
    public int Last { get; set; } = int.MaxValue;

    /// <inheritdoc/>
    protected override void Process()
    {
        int[] rows = [.. Enumerable.Range(0, Dataset.Count).Where(row => FilterScript is null || IsTrue(Dataset.Rows[row]))];
        if (Shuffle)
        {
#pragma warning disable CA5394 // Repeatable, not secret.
            new Random(Seed).Shuffle(rows);
#pragma warning restore CA5394
        }

        WriteObject(Dataset.WithRows(rows.Skip(Skip).Take(First).TakeLast(Last)));
    }

    private bool IsTrue(TrainingRow row)
    {
        var columns = new PSObject();
        foreach (var (name, value) in row.Values)
        {
            columns.Properties.Add(new PSNoteProperty(name, value));
        }

        return LanguagePrimitives.IsTrue(FilterScript!.InvokeWithContext(null, [new PSVariable("_", columns)]));
    }
}
