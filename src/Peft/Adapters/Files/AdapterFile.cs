using System.Text.Json.Nodes;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Slots;
using Peft.Engine;
using Peft.Files;
using Peft.Models;
using Peft.Models.Layers;
using Peft.Tensors;
using static TorchSharp.torch;

namespace Peft.Adapters.Files;

/// <summary>Reads and writes an adapter's folder as PEFT does, key for key.</summary>
internal static class AdapterFile
{
    /// <summary>What PEFT puts before every key.</summary>
    public const string Prefix = "base_model.model.";

    /// <summary>File name of the weights without extension.</summary>
    public const string Stem = "adapter_model";

    /// <summary>What to do where an adapter knows tokens that the model lacks.</summary>
    internal const string TokensFirst =
        "Give the model the adapter's vocabulary first: Add-ModelToken adds tokens, in the order of their ids. Where the adapter's tokenizer lies in its folder, importing the adapter adds them.";

    private const string VersionKey = "peft_version";
    private const string BaseKey = "base_model_digest";
    private const string LibraryKey = "singular_vectors_by";
    private const char BuildMark = '@';

    private static readonly string[] s_embeddingNames = ["embed_tokens", "lm_head"];

    /// <summary>Opens the tensors in an adapter's folder.</summary>
    /// <exception cref="PeftException"><c>SaveMixed</c>, or what the file's format says.</exception>
    public static TensorStore Open(string folder)
    {
        if (MlxAdapter.IsIn(folder))
        {
            return MlxAdapter.Open(folder);
        }

        var store = TensorStore.OpenFolder(folder, Stem);
        try
        {
            RefuseMixture(store, folder);
            return store;
        }
        catch
        {
            store.Dispose();
            throw;
        }
    }

    /// <summary>Gives a declared adapter the values of a file.</summary>
    /// <param name="adapter">The adapter.</param>
    /// <param name="store">The file's tensors.</param>
    /// <param name="model">The model that it was declared on.</param>
    /// <param name="generator">Gives what the file lacks its start.</param>
    /// <param name="messages">Takes what the user should know.</param>
    /// <exception cref="PeftException"><c>AdapterShapeMismatch</c>, <c>AdapterTensorMissing</c>, or what the file's format says.</exception>
    public static LoadReport Load(Adapter adapter, TensorStore store, PretrainedModel model, Generator generator, List<string> messages)
    {
        RefuseOtherVectors(adapter.Config, store);
        AdapterParameter[] parameters = [.. adapter.Parameters().Where(static parameter => parameter.FileKey is not null)];
        var expected = parameters.Select(static parameter => parameter.FileKey!).ToHashSet(StringComparer.Ordinal);
        var ofBase = BaseTargets(adapter, model).Where(entry => expected.Add(entry.Key)).ToArray();
        var keys = AdapterKeys.Match(store.Names, expected, adapter.Name, model);
        Dictionary<Parameter, string> found = [];
        foreach (var parameter in parameters)
        {
            if (keys.Found.TryGetValue(parameter.FileKey!, out var key))
            {
                RefuseOtherVocabulary(store.Entry(key), parameter.Parameter, parameter.FileKey!, model, store.Path);
                Fit(store.Entry(key), parameter.Parameter, store.Path);
                found.TryAdd(parameter.Parameter, key);
            }
        }

        // What is saved under several keys is found with any of them.
        List<string> missing = [.. parameters.Where(parameter => parameter.Role != ParameterRole.Derived && !found.ContainsKey(parameter.Parameter)).Select(static parameter => parameter.FileKey!)];

        var advice = TaskHead.Advice(adapter.Config, model);
        RefuseStranger(found.Count, parameters.Length, keys.Unexpected, store.Path, advice);
        RefuseMissingModules(adapter, found, store.Path);
        RefuseMoreThanTheModel(adapter, found, store.Path);
        adapter.Initialise(generator, parameter => !found.ContainsKey(parameter));
        foreach (var (parameter, key) in found)
        {
            parameter.Assign(Place(store.Read(key, parameter.DataType), adapter));
        }

        adapter.OnLoaded();
        BringAlong(adapter, model, store, ofBase, keys.Found);
        if (store is SafetensorsFile { Metadata: var metadata } && metadata.GetValueOrDefault(BaseKey) is { } digest && adapter.BaseDigest is { } own && digest != own)
        {
            messages.Add($"'{store.Path}' was made for another base model than this one, though its shapes fit: what it says here may make no sense.");
        }

        string[] unexpected = [.. keys.Unexpected, .. keys.Repeated.Where(entry => !AreEqual(store, entry.Key, entry.Of)).Select(static entry => entry.Key)];
        return Report(missing, unexpected, messages, store.Path, advice);
    }

    private static bool AreEqual(TensorStore store, string one, string other)
    {
        if (!store.Entry(one).Shape.SequenceEqual(store.Entry(other).Shape))
        {
            return false;
        }

        using var scope = NewDisposeScope();
        return store.Read(one, ScalarType.Float32).eq(store.Read(other, ScalarType.Float32)).all().item<bool>();
    }

    /// <summary>Writes an adapter into a folder, which is made when it isn't there.</summary>
    /// <param name="adapter">The adapter.</param>
    /// <param name="folder">The folder.</param>
    /// <param name="embeddings">Whether the weights of adapted embeddings and output layers go into the file; null for when the configuration names them.</param>
    /// <param name="expertsOf">The model, where LoRA on experts is written with factors for each (<see cref="PerExpertLayout"/>).</param>
    /// <exception cref="PeftException">What writing throws; a file of this name, for one.</exception>
    public static void Save(Adapter adapter, string folder, bool? embeddings, PretrainedModel? expertsOf = null)
    {
        if (File.Exists(folder))
        {
            throw new PeftException("NotAFolder", $"'{folder}' is a file; an adapter is saved into a folder.") { Target = folder };
        }

        using var scope = NewDisposeScope();
        adapter.OnSaving();
        List<(string, Tensor)> tensors = [.. adapter.Parameters().Where(static parameter => parameter.IsSaved).Select(parameter => (parameter.FileKey!, adapter.Saved(parameter.Parameter)))];
        tensors.AddRange(BaseWeightsToSave(adapter, embeddings ?? NamesEmbeddings(adapter)));
        tensors.AddRange(ExtendedTables(adapter, tensors.Select(static entry => entry.Item1)));
        var written = adapter.Config;
        if (expertsOf is not null)
        {
            (written, tensors) = PerExpertLayout.Of(adapter, expertsOf, tensors);
        }

        AtomicFile.MakeFolder(folder);
        var config = written.ToJson();
        var id = SaveId.Of(tensors, null, config.ToJsonString());
        config[VersionKey] = $"{AdapterConfig.LayoutVersion}{BuildMark}{id}";
        var metadata = new Dictionary<string, string>(SafetensorsWriter.PyTorchMetadata) { [SaveId.Key] = id };
        if (adapter.BaseDigest is { } digest)
        {
            metadata[BaseKey] = digest;
        }

        if (adapter.Config.ComputesSingularVectors && EngineDescription.MatrixLibrary is { } library)
        {
            metadata[LibraryKey] = library;
        }

        SafetensorsWriter.WriteFolder(
            folder, tensors, metadata, Stem, long.MaxValue, documents: [(AdapterConfig.FileName, config)]);
        adapter.SaveBeside(folder);
        adapter.Vocabulary?.SaveBeside(folder);
    }

    /// <summary>
    /// Refuses a configuration of another save than the weights'. PEFT allows a version to name the build behind an @, as its development
    /// versions do: the save's id stands there. Files that other programs wrote have none.
    /// </summary>
    private static void RefuseMixture(TensorStore store, string folder)
    {
        var path = Path.Combine(folder, AdapterConfig.FileName);
        if (store is SafetensorsFile file && file.Metadata.GetValueOrDefault(SaveId.Key) is { } ofWeights && File.Exists(path)
            && JsonFile.ReadNode(path)[VersionKey] is JsonValue value && value.TryGetValue<string>(out var version)
            && version.Split(BuildMark) is [_, var ofConfig] && ofConfig.Length == ofWeights.Length && ofConfig != ofWeights)
        {
            throw SaveId.Mixture(folder, $"{AdapterConfig.FileName} is of another save than '{Path.GetFileName(file.Path)}'");
        }
    }

    /// <summary>
    /// Refuses a file whose numbers stand between singular vectors that aren't in it and that another library computed: their signs are the library's
    /// choice, and with others the adapter would compute something else in silence. PEFT doesn't say which it was; its builds have MKL.
    /// </summary>
    private static void RefuseOtherVectors(AdapterConfig config, TensorStore store)
    {
        if (config.ComputesSingularVectors && EngineDescription.MatrixLibrary is { } own
            && ((store as SafetensorsFile)?.Metadata.GetValueOrDefault(LibraryKey) ?? EngineDescription.Mkl) is var other && other != own)
        {
            throw new NotSupportedByPeftException("SingularVectorsNotSupported", $"'{store.Path}' is an adapter of {config.PeftType}, whose numbers stand between singular vectors of the base that aren't in the file. They were computed by {other}, and this engine's {own} gives others.")
            {
                Target = store.Path,
                RecommendedAction = other == EngineDescription.Mkl ? "Load it with NuGet's engine, or with a libtorch that has MKL." : "Load it with the engine that trained it, or train it again here.",
            };
        }
    }

    private static void Fit(TensorEntry entry, Parameter parameter, string path)
    {
        if (!entry.Shape.SequenceEqual(parameter.Shape))
        {
            throw new PeftException(
                "AdapterShapeMismatch",
                $"'{path}': {entry.Name} has the shape [{string.Join(", ", entry.Shape)}], but the model and {AdapterConfig.FileName} ask for [{string.Join(", ", parameter.Shape)}].")
            {
                Target = entry.Name,
                RecommendedAction = "Check that the adapter was made for this model and that rank and targets in its configuration are those of its weights.",
            };
        }
    }

    private static void RefuseMissingModules(Adapter adapter, Dictionary<Parameter, string> found, string path)
    {
        if (adapter.Overlays.FirstOrDefault(overlay => overlay.Kind == OverlayKind.SavedModule && !found.ContainsKey(overlay.Copy)) is { } overlay)
        {
            var target = overlay.Targets[0];
            throw new PeftException(
                "AdapterTensorMissing",
                $"'{path}' lacks {Prefix}{target.Path}.{target.Key}, although {AdapterConfig.FileName} names its module in modules_to_save.")
            {
                Target = target.Path,
            };
        }
    }

    /// <summary>
    /// What a file lacks gets its starting values, and nothing but the configuration says how many those are: a rank of millions asks for
    /// more memory than there is. What stands in for a layer's weights is never more than they are.
    /// </summary>
    private static void RefuseMoreThanTheModel(Adapter adapter, Dictionary<Parameter, string> found, string path)
    {
        var made = adapter.Parameters().Where(static parameter => parameter.FileKey is not null).Where(parameter => !found.ContainsKey(parameter.Parameter)).Select(static parameter => parameter.Parameter).Distinct()
            .Sum(static parameter => (double)parameter.Count);
        var own = adapter.Layers.Sum(static layer => (double)layer.Layer.Weight.Count);
        if (made > Math.Max(own, 1 << 20))
        {
            throw new PeftException("AdapterTensorMissing", FormattableString.Invariant(
                $"'{path}' lacks {made:N0} parameters that {AdapterConfig.FileName} speaks of; the layers that they adapt have {own:N0}."))
            {
                Target = path,
                RecommendedAction = "Check the rank in the adapter's configuration, or fetch its files again.",
            };
        }
    }

    private static Tensor Place(Tensor tensor, Adapter adapter)
    {
        if (adapter.Device.type == tensor.device.type)
        {
            return tensor;
        }

        using (tensor)
        {
            return tensor.to(adapter.Device);
        }
    }

    /// <summary>The parameters of the base, by the key that PEFT gives each in an adapter file.</summary>
    private static IEnumerable<KeyValuePair<string, OverlayTarget>> BaseTargets(Adapter adapter, PretrainedModel model)
    {
        var adapted = adapter.Layers.ToDictionary(static layer => layer.Layer.Weight);
        foreach (var (_, parameter, module) in model.NamedParameters().Where(static named => named.Parameter.Packed is null))
        {
            var target = adapted.TryGetValue(parameter, out var layer)
                ? new OverlayTarget(layer.Path, $"base_layer.{parameter.Name}", module, parameter)
                : new OverlayTarget(module.Path, adapter.BaseKey(module.Path, parameter.Name), module, parameter);
            yield return new($"{Prefix}{target.Path}.{target.Key}", target);
        }
    }

    /// <summary>
    /// Weights of the base that came along (embeddings of a vocabulary that training changed) act with the adapter where they differ from the model's own, on
    /// every layer that shares them.
    /// </summary>
    private static void BringAlong(
        Adapter adapter, PretrainedModel model, TensorStore store, IEnumerable<KeyValuePair<string, OverlayTarget>> ofBase, IReadOnlyDictionary<string, string> found)
    {
        foreach (var (name, target) in ofBase)
        {
            var parameter = target.Parameter;
            if (!found.TryGetValue(name, out var key) || !parameter.IsLoaded || adapter.Overlays.Any(overlay => overlay.Targets.Any(other => other.Parameter == parameter)))
            {
                continue;
            }

            RefuseOtherVocabulary(store.Entry(key), parameter, name, model, store.Path);
            Fit(store.Entry(key), parameter, store.Path);
            var own = parameter.Data;
            var brought = Place(store.Read(key, own.dtype), adapter);
            using var same = brought.eq(own).all();
            if (same.item<bool>())
            {
                brought.Dispose();
            }
            else
            {
                adapter.BringAlong(target, brought, model);
            }
        }
    }

    /// <summary>Something with a row, or a column, for each token, of another number of tokens than the model has.</summary>
    private static void RefuseOtherVocabulary(TensorEntry entry, Parameter parameter, string key, PretrainedModel model, string path)
    {
        var (own, count) = (parameter.Shape, model.VocabularySize);
        var differing = own.Count == entry.Shape.Count ? Enumerable.Range(0, own.Count).Where(axis => own[axis] != entry.Shape[axis]).ToArray() : [];
        if (differing is not [var tokens] || own[tokens] != count || !IsOfTokens(key, model))
        {
            return;
        }

        throw new PeftException("AdapterShapeMismatch", FormattableString.Invariant(
            $"'{path}': {entry.Name} has the shape [{string.Join(", ", entry.Shape)}], but '{key}' has [{string.Join(", ", own)}] here: the adapter was made with {entry.Shape[tokens]} tokens, the model has {count}."))
        {
            Target = entry.Name,
            RecommendedAction = entry.Shape[tokens] > count ? TokensFirst : "Load the adapter on the base that it was trained on, whose vocabulary was cut to fewer tokens.",
        };
    }

    private static bool IsOfTokens(string key, PretrainedModel model)
    {
        IEnumerable<string?> tables = [model.OutputEmbeddings, .. model.Descendants().OfType<Embedding>().Where(table => table.Count == model.VocabularySize).Select(static table => table.Path)];
        return tables.Any(table => table is not null && key.StartsWith($"{Prefix}{table}.", StringComparison.Ordinal));
    }

    /// <summary>Tables with rows of added tokens that the adapter doesn't hold itself, whole, as PEFT saves them where a vocabulary was changed.</summary>
    private static IEnumerable<(string, Tensor)> ExtendedTables(Adapter adapter, IEnumerable<string> there)
    {
        var saved = there.ToHashSet(StringComparer.Ordinal);
        var adapted = adapter.Layers.ToDictionary(static layer => layer.Layer.Weight);
        return [.. (adapter.Vocabulary?.NotHeldBy(adapter) ?? [])
            .Select(table => (Key: adapted.TryGetValue(table.Parameter, out var layer) ? BaseWeightKey(layer) : Prefix + table.Path, table.Parameter.Data))
            .Where(entry => !saved.Contains(entry.Key))];
    }

    private static string BaseWeightKey(AdaptedLayer adapted) => $"{Prefix}{adapted.Path}.base_layer.{adapted.Layer.Weight.Name}";

    /// <summary>A file that shares no key with the adapter was made for another model or by another method.</summary>
    private static void RefuseStranger(int found, int asked, IReadOnlyList<string> unexpected, string path, string advice)
    {
        if (found == 0 && asked > 0)
        {
            throw new PeftException("AdapterTensorMissing", $"'{path}' has none of the {asked} tensors that {AdapterConfig.FileName} and the model ask for; it holds {AdapterKeys.Shorten(unexpected)}.{advice}")
            {
                Target = path,
                RecommendedAction = "Check that the adapter was made for this model and that its configuration belongs to its weights.",
            };
        }
    }

    /// <param name="missing">What the file lacks.</param>
    /// <param name="unexpected">What the model lacks.</param>
    /// <param name="messages">Takes what the user should know.</param>
    /// <param name="path">The file.</param>
    /// <param name="advice">What to do where the model has another head than the adapter.</param>
    private static LoadReport Report(List<string> missing, IReadOnlyList<string> unexpected, List<string> messages, string path, string advice)
    {
        if (missing.Count > 0)
        {
            messages.Add($"'{path}' lacks {missing.Count} tensors, which keep their starting values: {AdapterKeys.Shorten(missing)}.");
        }

        if (unexpected.Count > 0)
        {
            messages.Add($"'{path}' holds {unexpected.Count} tensors that belong to nothing in this model: {AdapterKeys.Shorten(unexpected)}.{advice}");
        }

        return new LoadReport(missing, unexpected, messages);
    }

    private static bool NamesEmbeddings(Adapter adapter) => adapter.Config.SavesEmbeddings && (adapter.Config as LayerwiseConfig)?.TargetModules is { } targets
        && (targets.Names is { } names
            ? s_embeddingNames.Any(names.Contains)
            : adapter.Layers.Any(static layer => s_embeddingNames.Contains(layer.Layer.Module.Name)));

    private static IEnumerable<(string Key, Tensor Value)> BaseWeightsToSave(Adapter adapter, bool embeddings)
    {
        var brought = adapter.Overlays.Where(static overlay => overlay.Kind == OverlayKind.BroughtAlong).ToArray();
        foreach (var overlay in brought)
        {
            yield return ($"{Prefix}{overlay.Targets[0].Path}.{overlay.Targets[0].Key}", overlay.Copy.Data);
        }

        foreach (var adapted in embeddings ? adapter.Layers : [])
        {
            var layer = adapted.Layer;
            if ((layer is Embedding || layer.Module.Name == "lm_head") && !Array.Exists(brought, overlay => overlay.Targets.Any(target => target.Parameter == layer.Weight)))
            {
                yield return (BaseWeightKey(adapted), layer.Weight.Data);
            }
        }
    }
}
