using System.Management.Automation;
using Peft.Generation;
using Peft.Module.Completion;

namespace Peft.Module.Commands;

/// <summary>Compare-ModelOutput: what the base and several adapters make of the same prompts, side by side.</summary>
[Cmdlet(VerbsData.Compare, "ModelOutput", DefaultParameterSetName = ModelSet)]
[OutputType(typeof(OutputComparison))]
public sealed class CompareModelOutputCommand : GenerationCommand
{
    /// <summary>Texts to continue.</summary>
    [Parameter(Mandatory = true, Position = 0, ValueFromPipeline = true, ValueFromPipelineByPropertyName = true)]
    public string[] Prompt { get; set; } = [];

    /// <summary>Adapters to compare, in this order; <c>base</c> for the model without any. Without it the base and every adapter are compared.</summary>
    [Parameter(Position = 1)]
    [ArgumentCompleter(typeof(AdapterOrBaseCompleter))]
    [ValidateNotNullOrEmpty]
    public string[]? AdapterName { get; set; }

    /// <inheritdoc/>
    protected override void Process()
    {
        var options = Options();
        string[] names = AdapterName
            ?? (ParameterSetName == AdapterSet ? [OutputComparison.BaseName, Adapter.Name] : [OutputComparison.BaseName, .. Model.Adapters.Select(static adapter => adapter.Name)]);
        WriteObject(Run(output => OutputComparison.Compare(TheModel, Prompt, names, options, output.Cancellation)), enumerateCollection: true);
    }
}
