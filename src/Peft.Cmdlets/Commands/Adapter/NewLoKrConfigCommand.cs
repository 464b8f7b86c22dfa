using System.Management.Automation;
using Peft.Adapters.Methods.LoKr;

namespace Peft.Cmdlets.Commands.Adapter;

/// <summary>New-LoKrConfig: describes a LoKr adapter; nothing is loaded or changed.</summary>
[Cmdlet(VerbsCommon.New, "LoKrConfig")]
[OutputType(typeof(LoKrConfig))]
public sealed class NewLoKrConfigCommand : NewAdapterConfigCommand
{
    private protected override string PeftType => "LOKR";
}
