using System.Management.Automation;
using Peft.Adapters.Model;

namespace Peft.Cmdlets.Commands.Training;

/// <summary>Invoke-LoraTraining: trains an adapter on a data set.</summary>
[Cmdlet(VerbsLifecycle.Invoke, "LoraTraining", SupportsShouldProcess = true, DefaultParameterSetName = ModelSet)]
[Alias("Invoke-PeftTraining")]
[OutputType(typeof(PeftAdapter))]
public sealed class InvokeLoraTrainingCommand : AdapterTrainingCommand;
