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
    [Parameter(Mandatory = true, Position = 0)]
    [ArgumentCompleter(typeof(AdapterMethodCompleter))]
    [ValidateNotNullOrEmpty]
    [Alias("peft_type")]
    public string Method { get; set; } = "";

    /// <summary>The method's fields; <c>peft_type</c> is the method itself here.</summary>
    public override object GetDynamicParameters()
    {
        var parameters = (RuntimeDefinedParameterDictionary)base.GetDynamicParameters();
        parameters.Remove("peft_type");
        return parameters;
    }

    private protected override int FirstPosition => 1;

    /// <summary>Of a method that isn't known nobody knows the fields: that is said, and not of each of them.</summary>
    internal override bool TakesArgument(string name, object? value) => !Adapters.Methods.AdapterMethods.Names.Contains(PeftType);

    private protected override string? PeftType => Method.Length > 0 ? Method.ToUpperInvariant() : null;
}
