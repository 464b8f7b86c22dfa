using System.Management.Automation;
using Peft.Adapters.Methods.PTuning;

namespace Peft.Cmdlets.Commands.Adapter;

/// <summary>New-PromptEncoderConfig: describes virtual tokens that a small network computes; nothing is loaded or changed.</summary>
[Cmdlet(VerbsCommon.New, "PromptEncoderConfig")]
[Alias("New-PTuningConfig")]
[OutputType(typeof(PTuningConfig))]
public sealed class NewPromptEncoderConfigCommand : NewAdapterConfigCommand
{
    private protected override string PeftType => "P_TUNING";
}
