using System.Management.Automation;
using Peft.Training;

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
        WriteObject(new ParameterMeasurement(Model.Name, Model.ActiveAdapters, counts.Trainable, counts.All, counts.TrainablePercent, Model.MemoryBytes, counts.ToString())
        {
            AdapterBytes = Model.Adapters.Where(static adapter => adapter.IsActive).Sum(static adapter => adapter.Adapter.SavedBytes),
            TrainingBytes = TrainingEstimate.StateBytes(Model, counts.Trainable),
            FullTrainingBytes = TrainingEstimate.FullStateBytes(Model),
        });
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
    /// <summary>Bytes of the tensors that the files of the active adapters hold, without weights of the base that may be saved beside them.</summary>
    public long AdapterBytes { get; init; }

    /// <summary>Memory that a training of the active adapters takes whatever its data: the weights, and value, gradient and the optimiser's two moments of what is trained. What a batch adds is in the plan of a training.</summary>
    public long TrainingBytes { get; init; }

    /// <summary>The same where all parameters of the base were trained, in float32, without adapters.</summary>
    public long FullTrainingBytes { get; init; }

    /// <inheritdoc/>
    public override string ToString() => Summary;
}
