using System.Management.Automation;
using Peft.Adapters.Model;
using Peft.Cmdlets.Arguments;
using Peft.Cmdlets.Completion;
using Peft.Cmdlets.Pipeline;
using Peft.Cmdlets.Session;
using Peft.Diffusion;
using Peft.Hub;
using Peft.Models;
using Peft.Quantization;

namespace Peft.Cmdlets.Commands.Model;

/// <summary>What Import-PeftModel and Import-PeftAdapter share: folders by path, literally or from the hub's cache, each imported on its own.</summary>
public abstract class ImportCommand : PeftCmdlet
{
    /// <summary>Name of the parameter set that takes paths with wildcards.</summary>
    protected const string PathSet = "Path";

    /// <summary>Name of the parameter set that takes paths as they are written.</summary>
    protected const string LiteralSet = "LiteralPath";

    private const string HubSet = "Hub";

    /// <summary>What to import; wildcards are allowed.</summary>
    public abstract string[] Path { get; set; }

    /// <summary>Folders or files, taken as they are written.</summary>
    [Parameter(Mandatory = true, ParameterSetName = LiteralSet, ValueFromPipelineByPropertyName = true)]
    [Alias("PSPath", "LP")]
    [ValidateNotNullOrEmpty]
    public string[] LiteralPath { get; set; } = [];

    /// <summary>Name on the hub, such as <c>HuggingFaceTB/SmolLM2-135M</c>. What is in the hub's cache on this machine is taken from there, anything else is fetched first.</summary>
    [Parameter(Mandatory = true, ParameterSetName = HubSet)]
    [ArgumentCompleter(typeof(HubNameCompleter))]
    [ValidateNotNullOrEmpty]
    public string HubName { get; set; } = "";

    /// <summary>Branch, tag or commit on the hub. A folder has none: it is passed over there.</summary>
    [Parameter]
    [PSDefaultValue(Value = "main", Help = "main")]
    public string? Revision { get; set; } = "main";

    /// <inheritdoc/>
    protected override void Process()
    {
        if (ParameterSetName is not HubSet && Revision is not (null or "" or "main"))
        {
            WriteWarning($"-Revision '{Revision}' is of a repository on the hub; a folder is taken as it is.");
        }

        switch (ParameterSetName)
        {
            case HubSet:
                Each([HubName], name => Import(Fetch(new HubRepository(name, string.IsNullOrEmpty(Revision) ? "main" : Revision)), NameOf(name)));
                break;
            case LiteralSet:
                Each(LiteralPath, path => Import(PathResolution.ResolveLiteral(this, path), NameOf(path)));
                break;
            default:
                Each(Path, pattern => Each(Resolve(pattern), path => Import(path, NameOf(path))));
                break;
        }
    }

    /// <summary>Loads a model and puts it on the list of those that are loaded; where the command is stopped meanwhile it is freed again.</summary>
    /// <param name="path">The folder or file.</param>
    /// <param name="name">What to call it.</param>
    /// <param name="options">How to load it.</param>
    /// <param name="quantization">How its linear layers are quantised; null where they stay as they are.</param>
    /// <param name="configPath">For a diffusion model in one file, the folder of its configurations.</param>
    private protected PeftModel ImportModel(string path, string name, LoadOptions options, QuantizationConfig? quantization = null, string? configPath = null)
    {
        PeftModel? model = null;
        try
        {
            Run(output => model = Load(path, name, options, quantization, configPath, output));
        }
        catch (PipelineStoppedException)
        {
            // It may be there already, but nobody waits for it any more.
            model?.Dispose();
            throw;
        }

        LoadedModels.Add(model!);
        return model!;
    }

    private static PeftModel Load(string path, string name, LoadOptions options, QuantizationConfig? quantization, string? configPath, WorkOutput output)
    {
        output.WriteVerbose($"Loading '{path}'.");
        var progress = new ProgressLine(output, $"Importing '{name}'");
        options = options with
        {
            OnProgress = (done, total) => progress.Show(done, total, FormattableString.Invariant($"{done:N0} of {total:N0} parameters")),
            OnMessage = output.WriteWarning,
            DeviceMap = options.DeviceMap is { } map ? map with { OnPlan = rows => output.WriteLine(DeviceMaps.Table(rows)) } : null,
            Packing = quantization is null ? null : new ModelQuantizer(quantization),
            Cancellation = output.Cancellation,
        };
        var isDiffusion = DiffusionModelFiles.IsDiffusionModel(path);
        if (isDiffusion && options.DeviceMap is not null)
        {
            throw new NotSupportedByPeftException("DeviceMapNotSupported", "A device map or a limit of memory is not supported for diffusion models: they lie on one device.")
            {
                Target = path,
                RecommendedAction = "Leave -DeviceMap and -MaxMemory out, or give one device.",
            };
        }

        var model = isDiffusion ? DiffusionModelFiles.Load(path, options, name, configPath) : PeftModel.Load(path, options, name);
        try
        {
            progress.Complete();
            if (model.NonFiniteWarning(output.Cancellation) is { } warning)
            {
                output.WriteWarning(warning);
            }

            if (model.Quantization is { } kind)
            {
                output.WriteVerbose($"Linear layers are quantised ({kind}).");
            }

            output.Cancellation.ThrowIfCancellationRequested();
            return model;
        }
        catch
        {
            model.Dispose();
            throw;
        }
    }

    /// <summary>Imports one folder or file.</summary>
    /// <param name="path">Its full path.</param>
    /// <param name="name">What it is called where it is: the last part of the path or of the hub's name.</param>
    private protected abstract void Import(string path, string name);

    /// <summary>Whether a folder of the hub's cache has all that is wanted of it.</summary>
    private protected virtual bool IsWhole(string folder) => HubCache.IsWhole(folder);

    /// <summary>What is wanted of a repository on the hub.</summary>
    private protected virtual IReadOnlyList<HubFile> Choose(IReadOnlyList<HubFile> files) => HubModelFiles.Choose(files);

    /// <summary>What is in the cache is used without asking the hub; where nothing may be asked, whatever is there has to do.</summary>
    private string Fetch(HubRepository repository) => Run(output =>
    {
        var isOffline = new HubSettings().IsOffline;
        var cached = isOffline ? HubCache.Find(repository) : HubCache.TryFind(repository);
        return HubCache.ModelIn(cached is not null && (isOffline || IsWhole(cached)) ? cached : HubFetch.Run(output, repository, Choose).Path);
    });

    private IReadOnlyList<string> Resolve(string pattern)
    {
        try
        {
            return PathResolution.Resolve(this, pattern);
        }
        catch (PeftException error) when (error.ErrorId == "PathNotFound" && HubRepository.IsOwnedName(pattern))
        {
            var command = $"{MyInvocation.MyCommand.Name} -HubName {pattern}";
            throw new PeftException("PathNotFound", $"There is no folder '{pattern}' here. To take it from the hub, type: {command}", error)
            {
                Target = pattern,
                RecommendedAction = $"For a name on the hub: {command}. For a folder: relative paths start at $PWD.",
            };
        }
    }

    private static string NameOf(string path) => System.IO.Path.GetFileName(System.IO.Path.TrimEndingDirectorySeparator(path));
}
