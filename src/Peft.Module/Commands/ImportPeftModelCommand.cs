using System.Management.Automation;
using Peft.Adapters;
using Peft.Hub;
using Peft.Models;
using Peft.Module.Completion;

namespace Peft.Module.Commands;

/// <summary>Import-PeftModel: loads a model from a folder in Hugging Face's layout, from a GGUF file or from the hub's cache.</summary>
[Cmdlet(VerbsData.Import, "PeftModel", DefaultParameterSetName = PathSet)]
[OutputType(typeof(PeftModel))]
public sealed class ImportPeftModelCommand : PeftCmdlet
{
    private const string PathSet = "Path";
    private const string LiteralSet = "LiteralPath";
    private const string HubSet = "Hub";

    /// <summary>Folders that hold <c>config.json</c> and weights, or <c>.gguf</c> files; wildcards are allowed.</summary>
    [Parameter(Mandatory = true, Position = 0, ParameterSetName = PathSet, ValueFromPipeline = true, ValueFromPipelineByPropertyName = true)]
    [SupportsWildcards]
    [ValidateNotNullOrEmpty]
    public string[] Path { get; set; } = [];

    /// <summary>Folders or files, taken as they are written.</summary>
    [Parameter(Mandatory = true, ParameterSetName = LiteralSet, ValueFromPipelineByPropertyName = true)]
    [Alias("PSPath", "LP")]
    [ValidateNotNullOrEmpty]
    public string[] LiteralPath { get; set; } = [];

    /// <summary>Name of a model in the hub's cache on this machine, such as <c>HuggingFaceTB/SmolLM2-135M</c>.</summary>
    [Parameter(Mandatory = true, ParameterSetName = HubSet)]
    [ArgumentCompleter(typeof(HubNameCompleter))]
    [ValidateNotNullOrEmpty]
    public string HubName { get; set; } = "";

    /// <summary>Branch, tag or commit on the hub.</summary>
    [Parameter(ParameterSetName = HubSet)]
    [PSDefaultValue(Value = "main", Help = "main")]
    [ValidateNotNullOrEmpty]
    public string Revision { get; set; } = "main";

    /// <summary>What to call the model in this session. Without it the folder's name is taken.</summary>
    [Parameter]
    [ValidateNotNullOrEmpty]
    public string? Name { get; set; }

    /// <summary>Type to hold the weights in; <c>auto</c> keeps the file's.</summary>
    [Parameter]
    [ValidateSet("auto", "float32", "bfloat16", "float16")]
    [Alias("torch_dtype", "dtype")]
    [PSDefaultValue(Value = "auto", Help = "auto")]
    public string DataType { get; set; } = "auto";

    /// <summary>Where the model runs: <c>auto</c>, <c>cpu</c>, <c>cuda</c>, <c>cuda:1</c>. <c>auto</c> takes a GPU where there is one.</summary>
    [Parameter]
    [ArgumentCompleter(typeof(DeviceCompleter))]
    [PSDefaultValue(Value = "auto", Help = "auto")]
    [ValidateNotNullOrEmpty]
    public string Device { get; set; } = "auto";

    /// <summary>Reads the configuration alone: modules and counts are there at once, weights are not loaded.</summary>
    [Parameter]
    public SwitchParameter StructureOnly { get; set; }

    /// <inheritdoc/>
    protected override void Process()
    {
        switch (ParameterSetName)
        {
            case HubSet:
                Import(HubName, () => [HubCache.Find(HubName, Revision)], Name ?? HubName.Split('/')[^1]);
                break;
            case LiteralSet:
                foreach (var path in LiteralPath)
                {
                    Import(path, () => [PathResolution.ResolveLiteral(this, path)], Name);
                }

                break;
            default:
                foreach (var path in Path)
                {
                    Import(path, () => PathResolution.Resolve(this, path), Name);
                }

                break;
        }
    }

    private void Import(string given, Func<IReadOnlyList<string>> resolve, string? name)
    {
        try
        {
            foreach (var path in resolve())
            {
                var options = new LoadOptions { DataType = EngineNames.DataType(DataType), Device = EngineNames.Device(Device), StructureOnly = StructureOnly };
                var model = Run(output =>
                {
                    output.WriteVerbose($"Loading '{path}'.");
                    return PeftModel.Load(path, options, name);
                });
                LoadedModels.Add(model);
                WriteObject(model);
            }
        }
        catch (Exception error) when (ErrorMapping.IsOurs(error))
        {
            WriteError(error, given);
        }
    }
}
