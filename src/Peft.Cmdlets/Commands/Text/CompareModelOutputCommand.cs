using System.Management.Automation;
using Peft.Adapters;
using Peft.Cmdlets.Arguments;
using Peft.Cmdlets.Completion;
using Peft.Cmdlets.Pipeline;
using Peft.Generation;

namespace Peft.Cmdlets.Commands.Text;

/// <summary>Compare-ModelOutput: what the base and several adapters make of the same prompts, side by side.</summary>
[Cmdlet(VerbsData.Compare, "ModelOutput", DefaultParameterSetName = ModelSet)]
[OutputType(typeof(OutputComparison))]
public sealed class CompareModelOutputCommand : GenerationCommand
{
    /// <summary>Texts to continue.</summary>
    [Parameter(Mandatory = true, Position = 0, ValueFromPipeline = true, ValueFromPipelineByPropertyName = true)]
    [AllowEmptyString]
    public string[] Prompt { get; set; } = [];

    /// <summary>Adapters to compare, in this order; wildcards are allowed, and <c>base</c> for the model without any. Without it the base and every adapter are compared.</summary>
    [Parameter(Position = 1, ParameterSetName = ModelSet)]
    [SupportsWildcards]
    [ArgumentCompleter(typeof(AdapterOrBaseCompleter))]
    [ValidateNotNullOrEmpty]
    [Alias("adapter_name")]
    public string[]? AdapterName { get; set; }

    /// <inheritdoc/>
    protected override void Process()
    {
        var options = ReadOptions();
        var names = Names();
        WriteObject(
            Run(output =>
            {
                var progress = new ProgressLine(output, "Comparing outputs");
                var total = (long)(options.MaxNewTokens ?? options.MaxLength ?? GenerationOptions.StandardLength) * Prompt.Length * names.Length;
                var added = 0L;
                var compared = OutputComparison.Compare(
                    TheModel, Prompt, names, options, _ => progress.Show(++added, total, FormattableString.Invariant($"{added} tokens")), output.Cancellation);
                progress.Complete();
                return compared;
            }),
            enumerateCollection: true);
    }

    private string[] Names()
    {
        if (ParameterSetName == AdapterSet)
        {
            return [OutputComparison.BaseName, Adapter.Name];
        }

        return AdapterName is null
            ? [OutputComparison.BaseName, .. Model.Adapters.Select(static adapter => adapter.Name)]
            : [.. AdapterName.SelectMany(name => AdapterNames.IsBase(Model, name) ? [OutputComparison.BaseName] : AdapterNames.Resolve(Model, [name]).Select(static adapter => adapter.Name))];
    }
}
