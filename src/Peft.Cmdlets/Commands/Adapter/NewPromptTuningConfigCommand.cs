using System.Management.Automation;
using Peft.Adapters.Methods.PromptTuning;

namespace Peft.Cmdlets.Commands.Adapter;

/// <summary>New-PromptTuningConfig: describes virtual tokens that are trained; nothing is loaded or changed.</summary>
[Cmdlet(VerbsCommon.New, "PromptTuningConfig")]
[OutputType(typeof(PromptTuningConfig))]
public sealed class NewPromptTuningConfigCommand : NewAdapterConfigCommand
{
    private protected override string PeftType => "PROMPT_TUNING";
}
