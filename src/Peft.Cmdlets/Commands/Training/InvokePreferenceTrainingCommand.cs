using System.Collections;
using System.Management.Automation;
using System.Text.Json.Nodes;
using Peft.Adapters.Model;
using Peft.Cmdlets.Arguments;
using Peft.Cmdlets.Completion;
using Peft.Training;
using Peft.Training.Data;
using Peft.Training.Sweeps;

namespace Peft.Cmdlets.Commands.Training;

/// <summary>Invoke-PreferenceTraining: trains an adapter to give better answers, from pairs of a better and a worse one, or from answers that are each good or bad.</summary>
[Cmdlet(VerbsLifecycle.Invoke, "PreferenceTraining", SupportsShouldProcess = true, DefaultParameterSetName = ModelSet)]
[OutputType(typeof(PeftAdapter), typeof(TrainingComparison))]
public sealed class InvokePreferenceTrainingCommand : AdapterTrainingCommand
{
    /// <summary>What is learnt: <c>dpo</c> (direct preference optimisation), <c>kto</c> (Kahneman-Tversky optimisation, for single answers), <c>orpo</c>, <c>cpo</c> (and SimPO), or <c>reward</c> (a reward model). Without it the data tells: <c>dpo</c> for pairs, <c>kto</c> for answers with a label.</summary>
    [Parameter]
    [ValidateSet("dpo", "kto", "orpo", "cpo", "reward")]
    public string? Objective { get; set; }

    /// <summary>The loss among those of the objective, by TRL's names, such as <c>sigmoid</c> or <c>ipo</c> for <c>dpo</c>, <c>simpo</c> for <c>cpo</c>; with <c>dpo</c> several are added up.</summary>
    [Parameter]
    [Alias("loss_type")]
    [ArgumentCompleter(typeof(PreferenceLossCompleter))]
    [ValidateNotNullOrEmpty]
    public string[]? LossType { get; set; }

    /// <summary>How closely the model is held to the reference: the smaller, the farther it may go.</summary>
    [Parameter]
    [PSDefaultValue(Value = 0.1, Help = "0.1")]
    public double Beta { get; set; } = 0.1;

    /// <summary>Other options of the objective under TRL's names, such as <c>@{ label_smoothing = 0.1; simpo_gamma = 0.5 }</c>.</summary>
    [Parameter]
    [ValidateNotNull]
    public Hashtable? ObjectiveOption { get; set; }

    /// <inheritdoc/>
    private protected override TrainingOptions ReadOptions()
    {
        var start = base.ReadOptions();
        var name = Objective?.ToLowerInvariant() ?? (Options is { Objective: not "causal_language_modelling" } ? start.Objective : Dataset[0].Offers(ExampleKind.Judged) && !Dataset[0].Offers(ExampleKind.Pair) ? "kto" : "dpo");
        var own = name == start.Objective ? start.ObjectiveOptions?.DeepClone().AsObject() ?? [] : [];
        foreach (DictionaryEntry entry in ObjectiveOption ?? [])
        {
            own[entry.Key.ToString()!] = JsonSerializable(entry.Value);
        }

        if (LossType is not null)
        {
            own["loss_type"] = name == "dpo" ? new JsonArray([.. LossType.Select(static loss => JsonValue.Create(loss))]) : JsonValue.Create(LossType[0]);
        }

        if (Given(nameof(Beta)))
        {
            own["beta"] = Beta;
        }

        return (start with { Objective = name, ObjectiveOptions = own.Count == 0 ? null : own }).Validate();
    }

    private static JsonNode? JsonSerializable(object? value) => System.Text.Json.JsonSerializer.SerializeToNode(DatasetRow.Value(value));
}
