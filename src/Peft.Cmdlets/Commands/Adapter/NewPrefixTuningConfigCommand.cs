using System.Management.Automation;
using Peft.Adapters.Methods.PrefixTuning;

namespace Peft.Cmdlets.Commands.Adapter;

/// <summary>New-PrefixTuningConfig: describes keys and values in front of each layer's own; nothing is loaded or changed.</summary>
[Cmdlet(VerbsCommon.New, "PrefixTuningConfig")]
[OutputType(typeof(PrefixTuningConfig))]
public sealed class NewPrefixTuningConfigCommand : NewAdapterConfigCommand
{
    private protected override string PeftType => "PREFIX_TUNING";
}
