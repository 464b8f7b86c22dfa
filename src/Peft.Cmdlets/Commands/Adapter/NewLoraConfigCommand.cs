using System.Management.Automation;
using Peft.Adapters.Methods.Lora;

namespace Peft.Cmdlets.Commands.Adapter;

/// <summary>New-LoraConfig: describes a LoRA adapter; nothing is loaded or changed.</summary>
[Cmdlet(VerbsCommon.New, "LoraConfig")]
[OutputType(typeof(LoraConfig))]
public sealed class NewLoraConfigCommand : NewAdapterConfigCommand
{
    private protected override string PeftType => "LORA";
}
