using System.Management.Automation;
using Peft.Adapters;
using Peft.Module.Completion;

namespace Peft.Module.Commands;

/// <summary>What Enable-PeftAdapter and Disable-PeftAdapter share: a model, on its own or through one of its adapters.</summary>
public abstract class SwitchPeftAdapterCommand : ModelCommand
{
    /// <summary>Puts the model out again.</summary>
    [Parameter]
    public SwitchParameter PassThru { get; set; }

    /// <inheritdoc/>
    protected override void Process()
    {
        if (ShouldProcess(Model.Name, Action))
        {
            Switch(Model).ForEach(WriteWarning);
            if (PassThru)
            {
                WriteObject(Model);
            }
        }
    }

    /// <summary>What happens to the model, for <c>-WhatIf</c>.</summary>
    private protected abstract string Action { get; }

    /// <summary>Does it and returns what the user should know.</summary>
    private protected abstract IReadOnlyList<string> Switch(PeftModel model);
}

/// <summary>Enable-PeftAdapter: lets the active adapters of a model act again.</summary>
[Cmdlet(VerbsLifecycle.Enable, "PeftAdapter", SupportsShouldProcess = true)]
[OutputType(typeof(PeftModel))]
public sealed class EnablePeftAdapterCommand : SwitchPeftAdapterCommand
{
    /// <inheritdoc/>
    private protected override string Action => "Let the active adapters act";

    /// <inheritdoc/>
    private protected override IReadOnlyList<string> Switch(PeftModel model) => model.Enable();
}

/// <summary>Disable-PeftAdapter: lets the base model speak alone and keeps the active set.</summary>
[Cmdlet(VerbsLifecycle.Disable, "PeftAdapter", SupportsShouldProcess = true)]
[OutputType(typeof(PeftModel))]
public sealed class DisablePeftAdapterCommand : SwitchPeftAdapterCommand
{
    /// <inheritdoc/>
    private protected override string Action => "Switch all adapters off";

    /// <inheritdoc/>
    private protected override IReadOnlyList<string> Switch(PeftModel model) => model.Disable();
}

/// <summary>Set-ActiveAdapter: chooses the adapters that act, in order and strength.</summary>
[Cmdlet(VerbsCommon.Set, "ActiveAdapter", SupportsShouldProcess = true, DefaultParameterSetName = AdapterSet)]
[OutputType(typeof(PeftAdapter))]
public sealed class SetActiveAdapterCommand : AdapterCommand
{
    private readonly List<PeftAdapter> adapters = [];
    private readonly HashSet<PeftModel> models = [];

    /// <summary>Names of the model's adapters in the order in which they act; an empty list leaves the base alone.</summary>
    [Parameter(Mandatory = true, Position = 0, ParameterSetName = ModelSet)]
    [ArgumentCompleter(typeof(AdapterNameCompleter))]
    [AllowEmptyCollection]
    public string[] AdapterName { get; set; } = [];

    /// <summary>Strength of each adapter, in the same order; 1 is as trained.</summary>
    [Parameter]
    [ValidateNotNullOrEmpty]
    public float[]? Weight { get; set; }

    /// <summary>Puts the active adapters out again.</summary>
    [Parameter]
    public SwitchParameter PassThru { get; set; }

    /// <inheritdoc/>
    protected override void Process()
    {
        var chosen = Chosen(AdapterName);
        adapters.AddRange(chosen);
        models.UnionWith(ParameterSetName == ModelSet ? [Model] : chosen.Select(static adapter => adapter.Model));
    }

    /// <inheritdoc/>
    protected override void End()
    {
        if (Weight is not null && Weight.Length != adapters.Count)
        {
            throw new PeftException("WeightCountMismatch", $"-Weight gives {Weight.Length} strengths for {adapters.Count} adapters.")
            {
                RecommendedAction = "Give one strength for each adapter, in the same order.",
            };
        }

        foreach (var model in models)
        {
            var set = adapters.Select((adapter, index) => (adapter, active: new Models.Active(adapter.Name, Weight?[index] ?? 1f)))
                .Where(entry => ReferenceEquals(entry.adapter.Model, model)).ToList();
            var names = set.Count == 0 ? "none" : string.Join(", ", set.Select(static entry => entry.adapter.Name));
            if (ShouldProcess(model.Name, $"Activate {names}"))
            {
                model.SetActive(set.Select(static entry => entry.active)).ForEach(WriteWarning);
                if (!model.AdaptersEnabled)
                {
                    WriteWarning($"The adapters of '{model.Name}' are switched off; Enable-PeftAdapter lets them act.");
                }

                if (PassThru)
                {
                    WriteObject(set.Select(static entry => entry.adapter), enumerateCollection: true);
                }
            }
        }
    }
}
