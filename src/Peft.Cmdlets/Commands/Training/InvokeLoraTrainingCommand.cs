using System.Management.Automation;
using Peft.Adapters.Model;
using Peft.Training;
using Peft.Training.Objectives;

namespace Peft.Cmdlets.Commands.Training;

/// <summary>Invoke-LoraTraining: trains an adapter on a data set.</summary>
[Cmdlet(VerbsLifecycle.Invoke, "LoraTraining", SupportsShouldProcess = true, DefaultParameterSetName = ModelSet)]
[Alias("Invoke-PeftTraining")]
[OutputType(typeof(PeftAdapter))]
public sealed class InvokeLoraTrainingCommand : AdapterTrainingCommand
{
    /// <summary>What is learnt is what the model's head is for, where nobody says otherwise.</summary>
    private protected override TrainingOptions ReadOptions()
    {
        var options = base.ReadOptions();
        return options.Objective == new TrainingOptions().Objective ? (options with { Objective = ObjectiveRegistry.DefaultFor(TheModel.Base) }).Validate() : options;
    }
}
