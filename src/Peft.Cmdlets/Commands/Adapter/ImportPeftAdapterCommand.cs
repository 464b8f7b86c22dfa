using System.Management.Automation;
using Peft.Adapters.Model;
using Peft.Cmdlets.Arguments;
using Peft.Cmdlets.Commands.Model;
using Peft.Cmdlets.Completion;

namespace Peft.Cmdlets.Commands.Adapter;

/// <summary>Import-PeftAdapter: loads an adapter that Peft or PEFT saved onto a model.</summary>
[Cmdlet(VerbsData.Import, "PeftAdapter", DefaultParameterSetName = PathSet, SupportsShouldProcess = true)]
[OutputType(typeof(PeftAdapter))]
public sealed class ImportPeftAdapterCommand : ImportCommand
{
    /// <summary>The model, from Import-PeftModel; a loaded model's name does as well.</summary>
    [Parameter(Mandatory = true, ValueFromPipeline = true, ValueFromPipelineByPropertyName = true)]
    [ModelArgument]
    [ArgumentCompleter(typeof(ModelNameCompleter))]
    public PeftModel Model { get; set; } = null!;

    /// <summary>Folders that hold <c>adapter_config.json</c>; wildcards are allowed.</summary>
    [Parameter(Mandatory = true, Position = 0, ParameterSetName = PathSet)]
    [SupportsWildcards]
    [ValidateNotNullOrEmpty]
    public override string[] Path { get; set; } = [];

    /// <summary>What to call the adapter on this model. Without it the folder's name is taken.</summary>
    [Parameter(Position = 1)]
    [ValidateNotNullOrEmpty]
    public string? AdapterName { get; set; }

    /// <summary>Replaces an adapter of that name.</summary>
    [Parameter]
    public SwitchParameter Force { get; set; }

    /// <inheritdoc/>
    private protected override void Import(string path, string name)
    {
        // A dot can't be in an adapter's name, for names become part of keys.
        name = AdapterName ?? name.Replace('.', '_');
        if (!Force && Model.Adapters.Any(adapter => adapter.Name == name))
        {
            throw new PeftException("AdapterExists", $"The model '{Model.Name}' has an adapter '{name}' already.")
            {
                Target = name,
                RecommendedAction = "Choose another name with -AdapterName, or replace it with -Force.",
            };
        }

        if (ShouldProcess(Model.Name, $"Load the adapter '{name}' from '{path}'"))
        {
            WriteObject(Run(output =>
            {
                var adapter = Model.LoadAdapter(path, name);
                adapter.Report.Messages.ForEach(output.WriteWarning);
                adapter.Coverage.Matched.ForEach(row => output.WriteVerbose($"{row}: {row.Parameters} trainable parameters"));
                if (Model.NonFiniteWarning(output.Cancellation) is { } warning)
                {
                    output.WriteWarning(warning);
                }

                return adapter;
            }));
        }
    }
}
