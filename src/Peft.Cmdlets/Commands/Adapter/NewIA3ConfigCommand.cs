using System.Management.Automation;
using Peft.Adapters.Methods.IA3;

namespace Peft.Cmdlets.Commands.Adapter;

/// <summary>New-IA3Config: describes an IA3 adapter; nothing is loaded or changed.</summary>
[Cmdlet(VerbsCommon.New, "IA3Config")]
[OutputType(typeof(IA3Config))]
public sealed class NewIA3ConfigCommand : NewAdapterConfigCommand
{
    private protected override string PeftType => "IA3";
}
