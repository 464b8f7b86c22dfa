using System.Management.Automation;
using Peft.Adapters.Methods.MultitaskPromptTuning;

namespace Peft.Cmdlets.Commands.Adapter;

/// <summary>New-MultitaskPromptTuningConfig: describes virtual tokens that several tasks share; nothing is loaded or changed.</summary>
[Cmdlet(VerbsCommon.New, "MultitaskPromptTuningConfig")]
[OutputType(typeof(MultitaskPromptTuningConfig))]
public sealed class NewMultitaskPromptTuningConfigCommand : NewAdapterConfigCommand
{
    private protected override string PeftType => "MULTITASK_PROMPT_TUNING";
}
