using System.Management.Automation;
using Peft.Adapters.Conversion;
using Peft.Cmdlets.Completion;

namespace Peft.Cmdlets.Commands.Adapter;

/// <summary>Measure-IntruderDimension: looks for directions that an adapter put among a weight's leading ones.</summary>
[Cmdlet(VerbsDiagnostic.Measure, "IntruderDimension", DefaultParameterSetName = AdapterSet)]
[OutputType(typeof(IntruderReport))]
public sealed class MeasureIntruderDimensionCommand : AdapterCommand
{
    /// <summary>Names of the model's adapters to look at; wildcards are allowed.</summary>
    [Parameter(Mandatory = true, Position = 0, ParameterSetName = ModelSet)]
    [SupportsWildcards]
    [ArgumentCompleter(typeof(AdapterNameCompleter))]
    [ValidateNotNullOrEmpty]
    [Alias("adapter_name")]
    public string[] AdapterName { get; set; } = [];

    /// <summary>How many of each weight's leading directions are looked at.</summary>
    [Parameter]
    [Alias("top_k")]
    [ValidateRange(1, int.MaxValue)]
    [PSDefaultValue(Value = 10, Help = "10")]
    public int Leading { get; set; } = 10;

    /// <summary>Cosine below which a direction resembles none of the base's.</summary>
    [Parameter]
    [Alias("threshold_epsilon")]
    [ValidateRange(0.0, 1.0)]
    [PSDefaultValue(Value = 0.5, Help = "0.5")]
    public double Threshold { get; set; } = 0.5;

    /// <inheritdoc/>
    protected override void Process() => Each(Chosen(AdapterName), adapter => WriteObject(
        Run(output => IntruderDimensions.Find(
            adapter.Model, adapter.Name, Leading, Threshold, (done, all) => output.WriteProgress(new ProgressRecord(0, "Decomposing weights", $"{done} of {all}")
            {
                PercentComplete = 100 * done / all,
                RecordType = done == all ? ProgressRecordType.Completed : ProgressRecordType.Processing,
            }),
            output.Cancellation)),
        enumerateCollection: true));
}
