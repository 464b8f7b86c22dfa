using System.Management.Automation;
using Peft.Adapters.Model;

namespace Peft.Cmdlets.Commands.Adapter;

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
