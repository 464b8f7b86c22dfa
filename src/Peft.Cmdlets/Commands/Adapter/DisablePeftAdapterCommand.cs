using System.Management.Automation;
using Peft.Adapters.Model;

namespace Peft.Cmdlets.Commands.Adapter;

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
