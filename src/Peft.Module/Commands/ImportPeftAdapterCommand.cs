using System.Management.Automation;
using Peft.Adapters;
using Peft.Hub;
using Peft.Module.Completion;

namespace Peft.Module.Commands;

/// <summary>Import-PeftAdapter: loads an adapter that Peft or PEFT saved onto a model.</summary>
[Cmdlet(VerbsData.Import, "PeftAdapter", DefaultParameterSetName = PathSet, SupportsShouldProcess = true)]
[OutputType(typeof(PeftAdapter))]
public sealed class ImportPeftAdapterCommand : ModelCommand
{
    private const string PathSet = "Path";
    private const string LiteralSet = "LiteralPath";
    private const string HubSet = "Hub";

    /// <summary>Folders that hold <c>adapter_config.json</c>; wildcards are allowed.</summary>
    [Parameter(Mandatory = true, Position = 0, ParameterSetName = PathSet)]
    [SupportsWildcards]
    [ValidateNotNullOrEmpty]
    public string[] Path { get; set; } = [];

    /// <summary>Folders, taken as they are written.</summary>
    [Parameter(Mandatory = true, ParameterSetName = LiteralSet)]
    [Alias("PSPath", "LP")]
    [ValidateNotNullOrEmpty]
    public string[] LiteralPath { get; set; } = [];

    /// <summary>Name of an adapter in the hub's cache on this machine, such as <c>owner/adapter</c>.</summary>
    [Parameter(Mandatory = true, ParameterSetName = HubSet)]
    [ArgumentCompleter(typeof(HubNameCompleter))]
    [ValidateNotNullOrEmpty]
    public string HubName { get; set; } = "";

    /// <summary>Branch, tag or commit on the hub.</summary>
    [Parameter(ParameterSetName = HubSet)]
    [PSDefaultValue(Value = "main", Help = "main")]
    [ValidateNotNullOrEmpty]
    public string Revision { get; set; } = "main";

    /// <summary>What to call the adapter on this model. Without it the folder's name is taken.</summary>
    [Parameter(Position = 1)]
    [ValidateNotNullOrEmpty]
    public string? AdapterName { get; set; }

    /// <summary>Replaces an adapter of that name.</summary>
    [Parameter]
    public SwitchParameter Force { get; set; }

    /// <inheritdoc/>
    protected override void Process()
    {
        IEnumerable<string> folders = ParameterSetName switch
        {
            HubSet => [HubCache.Find(HubName, Revision)],
            LiteralSet => LiteralPath.Select(path => PathResolution.ResolveLiteral(this, path)),
            _ => Path.SelectMany(path => PathResolution.Resolve(this, path)),
        };
        foreach (var folder in folders)
        {
            try
            {
                Import(folder, AdapterName ?? NameOf(ParameterSetName == HubSet ? HubName : folder));
            }
            catch (Exception error) when (ErrorMapping.IsOurs(error))
            {
                WriteError(error, folder);
            }
        }
    }

    private void Import(string folder, string name)
    {
        if (!Force && Model.Adapters.Any(adapter => adapter.Name == name))
        {
            throw new PeftException("AdapterExists", $"The model '{Model.Name}' has an adapter '{name}' already.")
            {
                Target = name,
                RecommendedAction = "Choose another name with -AdapterName, or replace it with -Force.",
            };
        }

        if (ShouldProcess(Model.Name, $"Load the adapter '{name}' from '{folder}'"))
        {
            WriteObject(Run(output =>
            {
                var adapter = Model.LoadAdapter(folder, name);
                adapter.Report.Messages.ForEach(output.WriteWarning);
                return adapter;
            }));
        }
    }

    /// <summary>A folder's name without what an adapter's name may not hold.</summary>
    private static string NameOf(string path) =>
        System.IO.Path.GetFileName(System.IO.Path.TrimEndingDirectorySeparator(path)).Replace('.', '_');
}
