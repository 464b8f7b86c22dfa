using System.Management.Automation;
using Peft.Adapters.Methods.LoHa;

namespace Peft.Cmdlets.Commands.Adapter;

/// <summary>New-LoHaConfig: describes a LoHa adapter; nothing is loaded or changed.</summary>
[Cmdlet(VerbsCommon.New, "LoHaConfig")]
[OutputType(typeof(LoHaConfig))]
public sealed class NewLoHaConfigCommand : NewAdapterConfigCommand
{
    private protected override string PeftType => "LOHA";
}
