using System.Management.Automation;
using Peft.Adapters;
using Peft.Cmdlets.Completion;

namespace Peft.Cmdlets.Commands.Adapter;

/// <summary>New-PeftConfig: describes an adapter of any method; nothing is loaded or changed.</summary>
[Cmdlet(VerbsCommon.New, "PeftConfig")]
[OutputType(typeof(AdapterConfig))]
public sealed class NewPeftConfigCommand : NewAdapterConfigCommand
{
    /// <summary>The method, by PEFT's name, such as <c>IA3</c> or <c>LOHA</c>. The other parameters are that method's fields.</summary>
    [Parameter(Mandatory = true)]
    [ArgumentCompleter(typeof(AdapterMethodCompleter))]
    [ValidateNotNullOrEmpty]
    public string Method { get; set; } = "";

    private protected override string? PeftType => Method.Length > 0 ? Method.ToUpperInvariant() : null;
}
