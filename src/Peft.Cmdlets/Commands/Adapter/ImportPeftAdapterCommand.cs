using System.Management.Automation;
using Peft.Adapters;
using Peft.Adapters.Files;
using Peft.Adapters.Model;
using Peft.Cmdlets.Arguments;
using Peft.Cmdlets.Commands.Model;
using Peft.Cmdlets.Completion;
using Peft.Cmdlets.Session;
using Peft.Diffusion.Adapters;
using Peft.Hub;
using Peft.Models;
using Peft.Training;

namespace Peft.Cmdlets.Commands.Adapter;

/// <summary>Import-PeftAdapter: loads an adapter that Peft or PEFT saved onto a model.</summary>
[Cmdlet(VerbsData.Import, "PeftAdapter", DefaultParameterSetName = PathSet, SupportsShouldProcess = true)]
[OutputType(typeof(PeftAdapter))]
public sealed class ImportPeftAdapterCommand : ImportCommand
{
    /// <summary>The model, from Import-PeftModel; a loaded model's name does as well. Without it the base that the adapter's configuration names is taken: where it is loaded that one, else it is loaded from its folder or from the hub's cache.</summary>
    [Parameter(ValueFromPipeline = true, ValueFromPipelineByPropertyName = true)]
    [ModelArgument]
    [ArgumentCompleter(typeof(ModelNameCompleter))]
    public PeftModel? Model { get; set; }

    /// <summary>Folders that hold <c>adapter_config.json</c>; for a diffusion model also single files (<c>.safetensors</c>, <c>.pt</c>, <c>.bin</c>) of kohya's scripts, the web UI, LyCORIS or diffusers. Wildcards are allowed.</summary>
    [Parameter(Mandatory = true, Position = 0, ParameterSetName = PathSet)]
    [SupportsWildcards]
    [ValidateNotNullOrEmpty]
    public override string[] Path { get; set; } = [];

    /// <summary>What to call the adapter on this model. Without it the folder's name is taken.</summary>
    [Parameter(Position = 1)]
    [ValidateNotNullOrEmpty]
    [Alias("adapter_name")]
    public string? AdapterName { get; set; }

    /// <summary>The word that stands for a textual inversion in prompts. Without it the one that its file names, or the file's own name.</summary>
    [Parameter(ParameterSetName = PathSet)]
    [ValidateNotNullOrEmpty]
    public string? Token { get; set; }

    /// <summary>Replaces an adapter of that name.</summary>
    [Parameter]
    public SwitchParameter Force { get; set; }

    /// <inheritdoc/>
    private protected override void Import(string path, string name)
    {
        // A dot can't be in an adapter's name, for names become part of keys.
        var isFile = File.Exists(path);
        if (isFile && path.EndsWith(".gguf", StringComparison.OrdinalIgnoreCase))
        {
            throw new NotSupportedByPeftException("AdapterFormatNotSupported", $"'{path}' is a GGUF file. Adapters are written so for llama.cpp, and not read.")
            {
                Target = path,
                RecommendedAction = "Give the adapter's folder, with adapter_config.json; a model in a GGUF file is read by Import-PeftModel.",
            };
        }

        name = AdapterName ?? (isFile ? System.IO.Path.GetFileNameWithoutExtension(name) : name).Replace('.', '_');
        var model = Model ?? (isFile ? throw NoBase(path, $"'{path}' is a single file, which doesn't say which model it is an adapter of.", innerException: null) : BaseOf(path));
        if (!Force && model.Adapters.Any(adapter => adapter.Name == name))
        {
            throw new PeftException("AdapterExists", $"The model '{model.Name}' has an adapter '{name}' already.")
            {
                Target = name,
                RecommendedAction = "Choose another name with -AdapterName, or replace it with -Force.",
            };
        }

        if (ShouldProcess(model.Name, $"Load the adapter '{name}' from '{path}'"))
        {
            WriteObject(Run(output =>
            {
                var adapter = isFile ? DiffusionAdapterFile.Load(model, path, name, Token) : model.LoadAdapter(path, name);
                if (!isFile)
                {
                    TrainingRecord.TakeUp(adapter);
                }

                adapter.Report.Messages.ForEach(output.WriteWarning);
                adapter.Coverage.Matched.ForEach(row => output.WriteVerbose($"{row}: {row.Parameters} trainable parameters"));
                if (model.NonFiniteWarning(output.Cancellation) is { } warning)
                {
                    output.WriteWarning(warning);
                }

                return adapter;
            }));
        }
    }

    /// <summary>The model that an adapter's configuration names as its base.</summary>
    /// <exception cref="PeftException"><c>BaseModelNotFound</c>, or what loading throws.</exception>
    private PeftModel BaseOf(string folder)
    {
        var config = AdapterConfig.FromFolder(folder);
        if (config.BaseModelName is not { Length: > 0 } named)
        {
            throw NoBase(folder, $"'{folder}' doesn't say which model it is an adapter of.", innerException: null);
        }

        string path;
        try
        {
            path = System.IO.Path.Exists(PathResolution.Target(this, named)) ? PathResolution.Target(this, named) : HubCache.Find(named, config.Revision ?? "main");
        }
        catch (PeftException error)
        {
            throw NoBase(folder, $"The adapter in '{folder}' was made for the model '{named}', which is neither a folder here nor in the hub's cache.", error);
        }

        var options = Run(_ => TaskHead.Complete(new LoadOptions { Device = EngineNames.Device("auto") }, config, folder, path));
        return LoadedModels.All.FirstOrDefault(model => model is { IsDisposed: false, IsMerged: false } && model.Path == path && TaskHead.Serves(model.Base, options))
            ?? ImportModel(path, System.IO.Path.GetFileName(System.IO.Path.TrimEndingDirectorySeparator(named)), options);
    }

    private static PeftException NoBase(string folder, string message, Exception? innerException) => new("BaseModelNotFound", message, innerException)
    {
        Target = folder,
        RecommendedAction = "Give the model with -Model, from Import-PeftModel.",
    };
}
