using System.Management.Automation;
using Peft.Adapters;
using Peft.Adapters.Model;
using Peft.Cmdlets.Arguments;
using Peft.Cmdlets.Completion;

namespace Peft.Cmdlets.Commands.Adapter;

/// <summary>Remove-PeftAdapter: takes adapters off their model and frees them; files stay.</summary>
[Cmdlet(VerbsCommon.Remove, "PeftAdapter", SupportsShouldProcess = true, DefaultParameterSetName = AdapterSet)]
public sealed class RemovePeftAdapterCommand : AdapterCommand
{
    /// <summary>Names of the model's adapters to remove; wildcards are allowed.</summary>
    [Parameter(Mandatory = true, Position = 0, ParameterSetName = ModelSet)]
    [SupportsWildcards]
    [ArgumentCompleter(typeof(AdapterNameCompleter))]
    [ValidateNotNullOrEmpty]
    [Alias("adapter_name")]
    public string[] AdapterName { get; set; } = [];

    /// <inheritdoc/>
    protected override void Process()
    {
        if (ParameterSetName == AdapterSet)
        {
            Each(Adapter, Remove);
            return;
        }

        // A wildcard may fit none, as with other Remove cmdlets.
        Each(AdapterName, name => Each(
            WildcardPattern.ContainsWildcardCharacters(name) ? AdapterNames.Find(Model, name) : AdapterNames.Resolve(Model, [name]), Remove));
    }

    private void Remove(PeftAdapter adapter)
    {
        if (ShouldProcess(adapter.Model.Name, $"Remove the adapter '{adapter.Name}'"))
        {
            adapter.Model.RemoveAdapter(adapter.Name).ForEach(WriteWarning);
        }
    }
}
