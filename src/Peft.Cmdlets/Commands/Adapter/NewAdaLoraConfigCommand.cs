using System.Management.Automation;
using Peft.Adapters.Methods.AdaLora;

namespace Peft.Cmdlets.Commands.Adapter;

/// <summary>New-AdaLoraConfig: describes an AdaLoRA adapter; nothing is loaded or changed.</summary>
[Cmdlet(VerbsCommon.New, "AdaLoraConfig")]
[OutputType(typeof(AdaLoraConfig))]
public sealed class NewAdaLoraConfigCommand : NewAdapterConfigCommand
{
    private protected override string PeftType => "ADALORA";
}
