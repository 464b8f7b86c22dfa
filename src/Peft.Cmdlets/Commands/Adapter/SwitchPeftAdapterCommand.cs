using System.Management.Automation;
using Peft.Adapters.Model;
using Peft.Cmdlets.Arguments;
using Peft.Cmdlets.Commands.Model;

namespace Peft.Cmdlets.Commands.Adapter;

/// <summary>What Enable-PeftAdapter and Disable-PeftAdapter share: a model, on its own or through one of its adapters.</summary>
public abstract class SwitchPeftAdapterCommand : ModelCommand
{
    private readonly HashSet<PeftModel> _seen = [];

    /// <summary>Puts the model out again.</summary>
    [Parameter]
    public SwitchParameter PassThru { get; set; }

    internal override string? SurplusAdvice => "This switches all of a model's adapters; Set-ActiveAdapter chooses which of them act.";

    /// <inheritdoc/>
    protected override void Process()
    {
        // Several adapters of a model bring it more than once.
        if (_seen.Add(Model) && ShouldProcess(Model.Name, Action))
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
