using Peft.Adapters;
using Peft.Adapters.Files;
using Peft.Adapters.Methods.Lycoris;
using Peft.Adapters.Methods.TextualInversion;
using Peft.Adapters.Model;
using Peft.Models;
using Peft.Tensors;
using static TorchSharp.torch;

namespace Peft.Diffusion.Adapters;

/// <summary>
/// Adapters of diffusion models in the single files that kohya's scripts and the web UI, LyCORIS and diffusers write. What each holds is told by its keys and
/// shapes, module by module, so that ranks, alphas and algorithms may be mixed in one file.
/// </summary>
public static class DiffusionAdapterFile
{
    private const int Shown = 3;

    /// <summary>Loads a file into a model. An adapter of the same name is replaced.</summary>
    /// <param name="model">A diffusion model, or its UNet or text encoder alone.</param>
    /// <param name="path">A safetensors file, or a pickle (.pt, .bin).</param>
    /// <param name="name">The adapter's name; null for the file's.</param>
    /// <param name="token">The word that stands for a textual inversion in prompts; null for the one that its file names, or the file's own name.</param>
    /// <returns>The adapter; its report names what belongs to nothing.</returns>
    /// <exception cref="PeftException"><c>AdapterModelMismatch</c>: it was made for another model; <c>AdapterEmpty</c>: it holds no adapter; or what is wrong with the file. Nothing has changed then.</exception>
    public static PeftAdapter Load(PeftModel model, string path, string? name = null, string? token = null)
    {
        ArgumentNullException.ThrowIfNull(model);
        if (FolderOf(path) is { } folder)
        {
            return model.LoadAdapter(folder, name ?? NameOf(path));
        }

        using var file = TensorStore.OpenFile(path);
        var modules = ModulesOf(model.Base, model.Name, path);
        var called = name ?? NameOf(path);
        if (TextualInversionFile.Of(file, token) is { } inversion)
        {
            return inversion.Load(model, path, called);
        }

        var contents = AdapterContents.Read(file, modules);
        var shapes = Fit(contents, path, model.Name);
        List<string> messages = [];
        var tensors = contents.Renamed(shapes);
        return model.LoadAdapter(called, () => AdapterFactory.Load(model, contents.Config, tensors, called, path, messages));
    }

    /// <summary>Saves an adapter as a single file.</summary>
    /// <param name="model">A diffusion model.</param>
    /// <param name="name">The adapter's name.</param>
    /// <param name="path">The file; replaced where it is there.</param>
    /// <param name="format">The format.</param>
    /// <param name="dataType">Type of the tensors; null for float32.</param>
    /// <returns>What the format can't hold.</returns>
    /// <exception cref="PeftException"><c>AdapterFormatLosesAll</c>: it holds nothing of the adapter; <c>AdapterModelMismatch</c>: the model is no diffusion model; or what writing throws.</exception>
    public static AdapterFormatReport Save(PeftModel model, string name, string path, DiffusionAdapterFormat format, ScalarType? dataType = null)
    {
        ArgumentNullException.ThrowIfNull(model);
        using var held = model.Acquire("saving an adapter");
        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        var adapter = model[name].Adapter;
        var modules = ModulesOf(model.Base, model.Name, path);
        adapter.OnSaving();
        if (adapter is TextualInversionAdapter inversion)
        {
            return TextualInversionFile.Save(model.Base, inversion, path, format, dataType);
        }

        var writer = new DiffusionAdapterWriter(modules, format, dataType);
        foreach (var entry in AdapterEntries.Of(adapter, modules, writer.Lost))
        {
            writer.Add(entry);
        }

        return writer.Write(path, (adapter.Config as LycorisNetworkConfig)?.FileMetadata ?? new Dictionary<string, string>());
    }

    /// <summary>Writes a file's adapter in another format. The model's weights aren't needed.</summary>
    /// <param name="source">The file.</param>
    /// <param name="path">The new file; replaced where it is there.</param>
    /// <param name="format">The format.</param>
    /// <param name="model">The model that the adapter was made for, or its structure; null for the published model that the file is for.</param>
    /// <param name="dataType">Type of the tensors; null for that of the source.</param>
    /// <returns>What the format can't hold.</returns>
    /// <exception cref="PeftException">As <see cref="Load"/> and <see cref="Save"/>.</exception>
    public static AdapterFormatReport Convert(string source, string path, DiffusionAdapterFormat format, PretrainedModel? model = null, ScalarType? dataType = null)
    {
        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        using var file = TensorStore.OpenFile(source);
        if (TextualInversionFile.Of(file, token: null) is { } inversion)
        {
            return inversion.Convert(path, format, dataType);
        }

        using var published = model is null ? PublishedModel.Of(BaseModelKind.Of(file) ?? throw KindUnclear(source)) : null;
        model ??= published!;
        var modules = ModulesOf(model, model.ClassName, source);
        var contents = AdapterContents.Read(file, modules);
        Fit(contents, source, model.ClassName);
        var writer = new DiffusionAdapterWriter(modules, format, dataType);
        foreach (var entry in AdapterEntries.Of(contents))
        {
            writer.Add(entry);
        }

        foreach (var unknown in contents.Unknown)
        {
            writer.AddUnknown(unknown, () => file.Read(unknown));
        }

        return writer.Write(path, contents.Metadata);
    }

    /// <summary>Writes an adapter in PEFT's layout, a folder, as a single file. The model is as it was before.</summary>
    /// <param name="model">The model that the adapter was made for.</param>
    /// <param name="folder">The folder, with <c>adapter_config.json</c>.</param>
    /// <param name="path">The new file; replaced where it is there.</param>
    /// <param name="format">The format.</param>
    /// <param name="dataType">Type of the tensors; null for float32.</param>
    /// <returns>What the format can't hold.</returns>
    /// <exception cref="PeftException">What loading the adapter throws, or as <see cref="Save"/>.</exception>
    public static AdapterFormatReport ConvertFolder(PeftModel model, string folder, string path, DiffusionAdapterFormat format, ScalarType? dataType = null)
    {
        ArgumentNullException.ThrowIfNull(model);
        var name = $"converted_{Guid.NewGuid():N}";
        model.LoadAdapter(folder, name);
        try
        {
            return Save(model, name, path, format, dataType);
        }
        finally
        {
            model.RemoveAdapter(name);
        }
    }

    /// <summary>The folder of PEFT's layout that a path means: itself, or that of its <c>adapter_model</c> file, whose alphas stand in <c>adapter_config.json</c>; null for a file of another kind.</summary>
    /// <param name="path">A folder or file.</param>
    public static string? FolderOf(string path)
    {
        var folder = Directory.Exists(path) ? path : Path.GetFileNameWithoutExtension(path) == AdapterFile.Stem ? Path.GetDirectoryName(Path.GetFullPath(path))! : null;
        return folder is not null && File.Exists(Path.Combine(folder, AdapterConfig.FileName)) ? folder : null;
    }

    private static PeftException KindUnclear(string path) => new("AdapterModelUnclear", $"'{path}' doesn't tell which model it was made for.")
    {
        Target = path,
        RecommendedAction = "Give the model, from Import-PeftModel -StructureOnly.",
    };

    private static DiffusionModules ModulesOf(PretrainedModel model, string name, string path) => DiffusionModules.Of(model) ?? throw new PeftException("AdapterModelMismatch", $"'{path}' is an adapter of a diffusion model, and '{name}' is none.")
    {
        Target = path,
        RecommendedAction = "Give the diffusion model; adapters of language models are folders with adapter_config.json.",
    };

    /// <summary>The name that a file's adapter has without another: the file's, with underscores for dots.</summary>
    internal static string NameOf(string path) => Path.GetFileNameWithoutExtension(path).Replace('.', '_').Trim();

    /// <summary>Holds a file to a model.</summary>
    /// <returns>The shape that each tensor should have, by its key.</returns>
    /// <exception cref="PeftException"><c>AdapterModelMismatch</c> or <c>AdapterEmpty</c>.</exception>
    private static Dictionary<string, IReadOnlyList<long>> Fit(AdapterContents contents, string path, string model)
    {
        var (made, own) = (BaseModelKind.Of(contents.File), BaseModelKind.Of(contents.Model));
        if (made is not null && own is not null && made != own)
        {
            throw Mismatch(path, model, made, own, $"it was made for {made}, and the model is {own}");
        }

        if (contents.Tensors.Count == 0)
        {
            throw contents.StrangeModules > 0 && !contents.File.Names.Any(IsOfModel) ? Mismatch(path, model, made, own, $"the model has none of its {contents.StrangeModules} modules ({AdapterKeys.Shorten(contents.Unknown)})") : new PeftException("AdapterEmpty", $"'{path}' holds no adapter that is known here: {AdapterKeys.Shorten(contents.Unknown)}.")
            {
                Target = path,
                RecommendedAction = "Give a LoRA or LyCORIS file; a model's own weights are imported with Import-PeftModel.",
            };
        }

        Dictionary<string, IReadOnlyList<long>> shapes = new(StringComparer.Ordinal);
        List<string> unfit = [];
        var layers = contents.Tensors.Select(static entry => entry.Module).Distinct().ToDictionary(static module => module, module => contents.Modules[module.TreePath].CreateLayer(module.Layer));
        try
        {
            foreach (var (module, key, name) in contents.Tensors)
            {
                if (layers[module].Parameters.FirstOrDefault(parameter => parameter.Key == key).Parameter is not { } parameter)
                {
                    continue;
                }

                shapes[AdapterContents.KeyOf(module, key)] = parameter.Shape;
                if (!AdapterContents.IsSame(parameter.Shape, contents.File.Entry(name).Shape))
                {
                    unfit.Add($"{name} has the shape [{string.Join(", ", contents.File.Entry(name).Shape)}] where the model asks for [{string.Join(", ", parameter.Shape)}]");
                }
            }
        }
        finally
        {
            foreach (var layer in layers.Values)
            {
                layer.Dispose();
            }
        }

        if (unfit.Count > 0 || contents.StrangeModules > contents.Modules.Count)
        {
            throw Mismatch(path, model, made, own, unfit.Count > 0
                ? string.Join("; ", unfit.Take(Shown)) + (unfit.Count > Shown ? FormattableString.Invariant($"; and {unfit.Count - Shown} more") : "")
                : FormattableString.Invariant($"the model has {contents.Modules.Count} of its modules and lacks {contents.StrangeModules} ({AdapterKeys.Shorten(contents.Unknown)})"));
        }

        return shapes;
    }

    /// <summary>Whether a tensor is a checkpoint's own, some of which have names as (IA)3's are.</summary>
    private static bool IsOfModel(string name) => name.StartsWith("model.diffusion_model.", StringComparison.Ordinal) || name.StartsWith("first_stage_model.", StringComparison.Ordinal);

    private static PeftException Mismatch(string path, string model, string? made, string? own, string why) => new("AdapterModelMismatch", $"'{path}' doesn't fit '{model}': {why}. Nothing was changed.")
    {
        Target = path,
        RecommendedAction = made is not null && made != own ? $"Use it with a model that is {made}, or an adapter for {own ?? "this one"}." : "Use the adapter with the model that it was made for; its page names it.",
    };
}
