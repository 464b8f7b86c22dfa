using System.Management.Automation;

namespace Peft.Cmdlets.Commands.Model;

/// <summary>Measure-ModelParameter: counts trainable and all parameters as PEFT does.</summary>
[Cmdlet(VerbsDiagnostic.Measure, "ModelParameter")]
[OutputType(typeof(ParameterMeasurement))]
public sealed class MeasureModelParameterCommand : ModelCommand
{
    /// <inheritdoc/>
    protected override void Process()
    {
        var counts = Model.ParameterCounts;
        WriteObject(new ParameterMeasurement(Model.Name, Model.ActiveAdapters, counts.Trainable, counts.All, counts.TrainablePercent, Model.MemoryBytes, counts.ToString()));
    }
}

/// <summary>How many parameters a model has and how many of them its active adapters train.</summary>
/// <param name="Model">The model's name.</param>
/// <param name="ActiveAdapters">Names of the adapters that are counted as trainable.</param>
/// <param name="Trainable">Parameters that training changes.</param>
/// <param name="Total">All parameters, those of every adapter included.</param>
/// <param name="TrainablePercent">The share that training changes, in percent.</param>
/// <param name="MemoryBytes">Memory that the weights take, in bytes.</param>
/// <param name="Summary">The sentence that PEFT prints.</param>
public sealed record ParameterMeasurement(
    string Model, IReadOnlyList<string> ActiveAdapters, long Trainable, long Total, double TrainablePercent, long MemoryBytes, string Summary)
{
    /// <inheritdoc/>
    public override string ToString() => Summary;
}
