using System.Management.Automation;
using Peft.Adapters.Model;
using Peft.Training;
using Peft.Training.Objectives;

namespace Peft.Cmdlets.Commands.Training;

/// <summary>Invoke-LoraTraining: trains an adapter on a data set.</summary>
[Cmdlet(VerbsLifecycle.Invoke, "LoraTraining", SupportsShouldProcess = true, DefaultParameterSetName = ModelSet)]
[Alias("Invoke-PeftTraining")]
[OutputType(typeof(PeftAdapter), typeof(PeftModel))]
public sealed class InvokeLoraTrainingCommand : AdapterTrainingCommand
{
    /// <summary>Trains all weights of the model in place of an adapter, to compare an adapter with: sixteen bytes of memory a weight with AdamW. The model itself is put out, changed, and saved under <c>-OutputPath</c> in <c>model/</c>.</summary>
    [Parameter(ParameterSetName = ModelSet)]
    public SwitchParameter Full { get; set; }

    private protected override bool TrainsBase => Full;

    /// <inheritdoc/>
    protected override void Begin()
    {
        if (Full && (Config is not null || Given(nameof(AdapterName))))
        {
            throw new PeftException("ParametersContradict", "-Full trains the model's own weights, and -Config and -AdapterName describe an adapter.")
            {
                Target = nameof(Full),
                RecommendedAction = "Leave -Full out to train an adapter, or the others to train all weights.",
            };
        }

        base.Begin();
    }

    /// <summary>What is learnt is what the model's head is for, where nobody says otherwise.</summary>
    private protected override TrainingOptions ReadOptions()
    {
        var options = base.ReadOptions();
        return options.Objective == new TrainingOptions().Objective ? (options with { Objective = ObjectiveRegistry.DefaultFor(TheModel.Base) }).Validate() : options;
    }
}
