using System.Globalization;
using System.Text.Json.Nodes;
using Peft.Files;
using Peft.Models.Gguf;
using Peft.Models.Placement;
using Peft.Tensors;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Models;

/// <summary>How a model is loaded.</summary>
public sealed record LoadOptions
{
    /// <summary>Type the weights are converted to; null keeps the file's.</summary>
    public ScalarType? DataType { get; init; }

    /// <summary>Where the weights go; null for the CPU.</summary>
    public Device? Device { get; init; }

    /// <summary>Whether only the structure is made: names, shapes and counts without weights.</summary>
    public bool StructureOnly { get; init; }

    /// <summary>PEFT's task type (<c>SEQ_CLS</c>) to choose the head by; null for what the configuration names.</summary>
    public string? Task { get; init; }

    /// <summary>Names of the classes of a head; null for those of the configuration.</summary>
    public IReadOnlyList<string>? Labels { get; init; }

    /// <summary>How weights of linear layers are packed as soon as they are read; null where they stay as they are.</summary>
    public IWeightPacking? Packing { get; init; }

    /// <summary>Reads what a file holds quantised: takes its <c>quantization_config</c>, the model's type and the file, and gives a store of plain names. Null where such files are refused.</summary>
    public Func<JsonObject, ScalarType, TensorStore, TensorStore>? OpenQuantized { get; init; }

    /// <summary>Whether linear layers and experts of a GGUF file keep its quantised blocks as their weights, which are computed with as they are; otherwise they are unpacked.</summary>
    public bool KeepsBlocks { get; init; }

    /// <summary>Makes weights of a GGUF file's blocks; null where nothing can.</summary>
    internal Func<GgufPacked, UnpackBuffer, bool, Device, PackedWeight>? MakeBlocks { get; init; }

    /// <summary>How modules are spread over devices and the disk; null where all go to <see cref="Device"/>.</summary>
    public DeviceMapRequest? DeviceMap { get; init; }

    /// <summary>Whether the device map is planned and nothing is loaded.</summary>
    internal bool PlansOnly { get; init; }

    /// <summary>Whether weights stay in the files that they are mapped from as far as these allow it: layers that share an input aren't joined, which needs memory of its own.</summary>
    internal bool StaysMapped { get; init; }

    /// <summary>Sees how many parameters have their weights, and how many there are.</summary>
    public Action<long, long>? OnProgress { get; init; }

    /// <summary>Hears what the user should know although it is no error: weights that nothing computes with, sharing that the file decides otherwise.</summary>
    public Action<string>? OnMessage { get; init; }

    /// <summary>Looked at between tensors.</summary>
    public CancellationToken Cancellation { get; init; }
}

/// <summary>Loads and saves models in Hugging Face's folder layout.</summary>
public static class ModelLoader
{
    /// <summary>Maximum size of a file of weights where none is asked for, in bytes: 5 GB.</summary>
    public const long DefaultShardBytes = 5L << 30;

    private const string AdapterConfigName = "adapter_config.json";
    private const string ConfigName = "config.json";
    private const string GenerationConfigName = "generation_config.json";
    private const string PreprocessorName = "preprocessor_config.json";
    private const string TieKey = "tie_word_embeddings";

    private static readonly string[] s_derived = ["rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias", "position_ids", "final_logits_bias"];

    /// <summary>Loads a model.</summary>
    /// <param name="path">A folder with <c>config.json</c> and weights, or a <c>.gguf</c> file, whose weights become float32 unless another type is asked for.</param>
    /// <param name="options">How; null for the file's types on the CPU.</param>
    /// <returns>The model; the caller owns it.</returns>
    /// <exception cref="PeftException"><c>FolderNotFound</c>, <c>ModelConfigMissing</c>, <c>WeightsMissing</c>, or what reading a file throws.</exception>
    /// <exception cref="NotSupportedByPeftException"><c>ArchitectureNotSupported</c> or <c>QuantizationNotSupported</c>.</exception>
    public static PretrainedModel Load(string path, LoadOptions? options = null)
    {
        options ??= new LoadOptions();
        if (path.EndsWith(".gguf", StringComparison.OrdinalIgnoreCase))
        {
            using var file = GgufModel.Open(path);
            if (options.KeepsBlocks)
            {
                RefuseTwoPackings(path, options);
                file.KeepBlocks(new GgufPacking(options.MakeBlocks!, options.DataType ?? ScalarType.Float32));
            }

            return Complete(Create(new ModelConfig(file.CreateConfig()), options), file, options with
            {
                DataType = options.DataType ?? ScalarType.Float32,
            });
        }

        if (!Directory.Exists(path))
        {
            throw File.Exists(path)
                ? new PeftException("NotAModel", $"'{path}' is a file, but no GGUF file: a model is loaded from a folder or from a .gguf file.") { Target = path }
                : new PeftException("FolderNotFound", $"There is no folder '{path}'.") { Target = path };
        }

        FileSet.Complete(path);
        var configPath = Path.Combine(path, ConfigName);
        if (!File.Exists(configPath))
        {
            throw File.Exists(Path.Combine(path, AdapterConfigName))
                ? new PeftException("NotAModel", $"'{path}' holds an adapter, not a model: the model that it belongs to is loaded first, or with it.")
                {
                    Target = path,
                    RecommendedAction = $"Import-PeftAdapter '{path}' loads the adapter, and without -Model its base as well.",
                }
                : new PeftException("ModelConfigMissing", $"The folder '{path}' holds no {ConfigName}, so it is no model.") { Target = path };
        }

        var config = ModelConfig.FromFile(configPath);
        var quantisation = Quantisation(config);
        RefuseQuantised(quantisation, path, options);
        var model = Create(config, options);
        model.GenerationConfig = ReadDocument(path, GenerationConfigName);
        model.PreprocessorConfig = ReadDocument(path, PreprocessorName);
        using var store = options.StructureOnly ? null : OpenWeights(path);
        using var plain = store is null || quantisation is null ? null : options.OpenQuantized!(quantisation, options.DataType ?? StoredType(config), store);
        return Complete(model, plain ?? store, options);
    }

    /// <summary>Where a model's modules would lie, by the device map that is asked for: no weights are read.</summary>
    /// <param name="path">As <see cref="Load"/>.</param>
    /// <param name="options">How it would be loaded, with a device map.</param>
    /// <exception cref="PeftException">As <see cref="Load"/>, or what a device map lacks.</exception>
    public static IReadOnlyList<ModulePlacement> Plan(string path, LoadOptions options)
    {
        ArgumentNullException.ThrowIfNull(options);
        IReadOnlyList<ModulePlacement> rows = [];
        using var model = Load(path, options with { PlansOnly = true, DeviceMap = (options.DeviceMap ?? new DeviceMapRequest()) with { OnPlan = plan => rows = plan } });
        return rows;
    }

    /// <summary>Gives a structure its weights.</summary>
    /// <param name="model">The structure.</param>
    /// <param name="store">Tensors by the names that the family's files use; the backbone's prefix may be missing or too much.</param>
    /// <param name="options">How.</param>
    /// <exception cref="PeftException"><c>WeightsMissing</c>: parameters without a tensor, by name; <c>ShapeMismatch</c>.</exception>
    public static void LoadWeights(PretrainedModel model, TensorStore store, LoadOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(store);
        options ??= new LoadOptions();
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        var reader = new WeightReader(model, store, options);
        RefuseMissing(model, store, reader);
        using var placement = options.DeviceMap is { } request ? WeightPlacement.Plan(model, request, reader.Bytes()) : null;
        if (options.PlansOnly)
        {
            return;
        }

        reader.PlaceBy(placement);
        if (!options.StaysMapped)
        {
            reader.Allocate();
        }

        var total = options.OnProgress is null ? 0 : model.CountParameters();
        var done = 0L;
        foreach (var (path, parameter, module) in model.NamedWeights())
        {
            options.Cancellation.ThrowIfCancellationRequested();

            // A copy that was made on the way to the parameter goes before the next one is read.
            using var own = NewDisposeScope();
            if (!reader.Read(path, parameter, module) && IsInHead(model, module))
            {
                parameter.Assign(FreshHead(model, parameter, options with { Device = reader.DeviceOf(path) }));
            }

            placement?.Settle(path, parameter);

            done += parameter.Count;
            options.OnProgress?.Invoke(done, total);
        }

        TieAsStored(model, store, options);
        reader.PackRest();
        placement?.Finish(model);
        reader.Finish();
        SayCarried(model, options);

        // A copy beside the file's pages would take twice what a weight was planned to.
        if (!options.StaysMapped && placement?.Offloads != true)
        {
            model.FuseWhenUsed(store.IsMapped);
        }

        if (model.Carried.Count > 0 || model.NamedWeights().Any(static named => named.Parameter is { IsLoaded: true, IsOffloaded: true } or { IsLoaded: true, Device.type: DeviceType.CPU }))
        {
            model.Keep(store.TakeMappedFiles());
        }
    }

    private static bool IsInHead(PretrainedModel model, Module module) =>
        model.FreshModules.Any(head => module.Path == head || module.Path.StartsWith(head + ".", StringComparison.Ordinal));

    /// <summary>Before anything is made: what the file lacks, and a head that is larger than all that the file holds.</summary>
    private static void RefuseMissing(PretrainedModel model, TensorStore store, WeightReader reader)
    {
        List<string> missing = [];
        double found = 0, head = 0;
        foreach (var (path, parameter, module) in model.NamedWeights())
        {
            if (reader.Finds(path))
            {
                found += parameter.Count;
            }
            else if (IsInHead(model, module))
            {
                head += parameter.Count;
            }
            else
            {
                missing.Add(path);
            }
        }

        // Those who share a weight may find it under either name.
        missing.RemoveAll(path => model.PossibleTies.Any(tie =>
            (tie.Follower == path && reader.Finds(tie.Owner)) || (tie.Owner == path && reader.Finds(tie.Follower))));
        if (missing.Count > 0)
        {
            throw new PeftException("WeightsMissing", $"'{store.Path}' lacks {missing.Count} tensors of the model, among them {string.Join(", ", missing.Take(5))}.")
            {
                Target = store.Path,
                RecommendedAction = "Fetch the model's files again, or use the config.json that belongs to them.",
            };
        }

        // A configuration of a few bytes may speak of any size: what it asks for is held against what the files hold.
        var held = store.Names.Sum(name => (double)TensorEntry.Product(store.Entry(name).Shape));
        if (head > held || found > (3 * held) + (1 << 20))
        {
            throw new PeftException("ModelConfigInvalid", FormattableString.Invariant(
                $"The model's configuration asks for {found:N0} parameters and a new head of {head:N0}, but '{store.Path}' holds {held:N0}."))
            {
                Target = head > held ? "num_labels" : store.Path,
                RecommendedAction = "Use the config.json that belongs to these weights.",
            };
        }
    }

    /// <summary>
    /// Saves a model's configuration and weights under the names they were read from: tied weights once, under the name of the owner, and
    /// what the model carries along unchanged.
    /// </summary>
    /// <param name="model">A loaded model.</param>
    /// <param name="folder">Created where it is not there.</param>
    /// <param name="dataType">Type to save in; null for each weight's own.</param>
    /// <param name="maxShardBytes">Maximum size of a file, in bytes.</param>
    /// <param name="onProgress">Sees the bytes of weights that are written, and how many there are.</param>
    /// <param name="cancellation">Looked at after each tensor; what was in the folder stays as it was.</param>
    /// <returns>Paths of the files written.</returns>
    public static IReadOnlyList<string> Save(
        PretrainedModel model,
        string folder,
        ScalarType? dataType = null,
        long maxShardBytes = DefaultShardBytes,
        Action<long, long>? onProgress = null,
        CancellationToken cancellation = default) => Save(model, folder, null, dataType, maxShardBytes, onProgress, cancellation);

    /// <summary>As the other, with files that belong to the model and are replaced together with its own.</summary>
    internal static IReadOnlyList<string> Save(
        PretrainedModel model, string folder, CompanionFiles? companions, ScalarType? dataType, long maxShardBytes, Action<long, long>? onProgress, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(model);
        AtomicFile.MakeFolder(folder);
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        cancellation.ThrowIfCancellationRequested();
        return SafetensorsWriter.WriteFolder(
            folder,
            WeightFiles.Tensors(model, dataType),
            null,
            "model",
            maxShardBytes,
            (done, total) =>
            {
                cancellation.ThrowIfCancellationRequested();
                onProgress?.Invoke(done, total);
            },
            Documents(model, dataType),
            companions);
    }

    /// <summary>The JSON files that a model's folder has beside the weights.</summary>
    internal static List<(string Name, JsonObject Document)> Documents(PretrainedModel model, ScalarType? dataType)
    {
        var config = (JsonObject)model.Config.Document.DeepClone();
        config.Remove("torch_dtype");
        config["dtype"] = TypeName(dataType ?? model.DataType);
        if (dataType is not null || !model.NamedWeights().Any(static named => named.Parameter.Packed is { IsStorable: true }))
        {
            config.Remove("quantization_config");
            (config["text_config"] as JsonObject)?.Remove("quantization_config");
        }

        List<(string, JsonObject)> documents = [(ConfigName, config)];
        if (model.GenerationConfig is { } generation)
        {
            documents.Add((GenerationConfigName, generation));
        }

        if (model.PreprocessorConfig is { } preprocessor)
        {
            documents.Add((PreprocessorName, preprocessor));
        }

        return documents;
    }

    /// <summary>The structure with the head and the classes that are asked for.</summary>
    private static PretrainedModel Create(ModelConfig config, LoadOptions options)
    {
        if (options.Labels is { } labels)
        {
            config.Document.Remove("num_labels");
            config.Document["id2label"] = new JsonObject(labels.Select(static (name, i) => KeyValuePair.Create(i.ToString(CultureInfo.InvariantCulture), (JsonNode?)name)));
            config.Document["label2id"] = new JsonObject(labels.Select(static (name, i) => KeyValuePair.Create(name, (JsonNode?)i)));
        }

        return ArchitectureRegistry.Create(config, options.Task);
    }

    private static PretrainedModel Complete(PretrainedModel model, TensorStore? store, LoadOptions options)
    {
        model = Filled(model, store, options);
        if (options.Task is not null)
        {
            model.Config.Document["architectures"] = new JsonArray(model.ClassName);
        }

        return model;
    }

    private static PretrainedModel Filled(PretrainedModel model, TensorStore? store, LoadOptions options)
    {
        if (options.StructureOnly || store is null)
        {
            model.Tie();
            return model;
        }

        try
        {
            LoadWeights(model, store, options);
            return model;
        }
        catch
        {
            model.Dispose();
            throw;
        }
    }

    /// <summary>The folder's weights; where it holds none in the usual formats, its only GGUF file.</summary>
    private static TensorStore OpenWeights(string folder)
    {
        try
        {
            return TensorStore.OpenFolder(folder);
        }
        catch (PeftException error) when (error.ErrorId == "WeightsNotFound" && Directory.GetFiles(folder, "*.gguf").Length == 1)
        {
            return GgufModel.Open(Directory.GetFiles(folder, "*.gguf")[0]);
        }
    }

    private static ScalarType StoredType(ModelConfig config) => (config.String("dtype") ?? config.String("torch_dtype")) switch
    {
        "bfloat16" => ScalarType.BFloat16,
        "float16" => ScalarType.Float16,
        _ => ScalarType.Float32,
    };

    private static JsonObject? Quantisation(ModelConfig config) =>
        (config.Node("quantization_config") ?? (config.Node("text_config") as JsonObject)?["quantization_config"]) as JsonObject;

    private static void RefuseTwoPackings(string path, LoadOptions options)
    {
        if (options.MakeBlocks is null)
        {
            throw new NotSupportedByPeftException("QuantizationNotSupported", $"The blocks of '{path}' are kept by a PeftModel alone.") { RecommendedAction = "Load it as a PeftModel." };
        }

        if (options.Packing is not null)
        {
            throw new PeftException("WeightsPacked", $"The weights in '{path}' can't be kept as they are and quantised in another way at once.")
            {
                Target = path,
                RecommendedAction = "Ask for one of the two.",
            };
        }
    }

    /// <summary>Read as plain ones, weights of another packing would give wrong numbers or a misleading error.</summary>
    private static void RefuseQuantised(JsonObject? settings, string path, LoadOptions options)
    {
        if (settings is null || options.StructureOnly)
        {
            return;
        }

        var method = (settings["quant_method"] as JsonValue)?.ToString() ?? (settings.ContainsKey("load_in_4bit") ? "bitsandbytes" : "an unnamed method");
        if (options.OpenQuantized is null)
        {
            throw new NotSupportedByPeftException("QuantizationNotSupported", $"The weights in '{path}' are quantised by {method} (quantization_config of {ConfigName}), which is not supported here.")
            {
                Target = method,
                RecommendedAction = "Load it as a PeftModel, or import the model's unquantised weights or a GGUF file of it.",
            };
        }

        if (options.Packing is not null)
        {
            throw new PeftException("WeightsPacked", $"The weights in '{path}' are quantised by {method} already, so they can't be quantised in another way.")
            {
                Target = method,
                RecommendedAction = "Import the model without a quantisation of your own, or its unquantised weights.",
            };
        }
    }

    /// <summary>What shares weights is decided by what the file holds: a follower with values of its own keeps them, one that stands alone lends them to its owner.</summary>
    private static void TieAsStored(PretrainedModel model, TensorStore store, LoadOptions options)
    {
        var ties = model.TiedParameters.ToHashSet();
        foreach (var (ownerPath, followerPath) in model.PossibleTies.ToArray())
        {
            var (owner, follower) = (model.FindParameter(ownerPath)!, model.FindParameter(followerPath)!);
            if (owner.Value is null && follower.Value is { } only)
            {
                owner.Assign(only.alias());
            }

            if (owner.Value is { } shared && follower is { IsOwner: true, Value: { } own } && !TensorMemory.AreEqual(shared, own))
            {
                if (!ties.Contains((ownerPath, followerPath)))
                {
                    continue;
                }

                model.Config.Set(TieKey, false);
                options.OnMessage?.Invoke($"'{followerPath}' has weights of its own in the file, though the configuration says that it shares those of '{ownerPath}'; both are kept.");
            }
            else
            {
                store.DropPages(follower.Value);
                follower.TieTo(owner);
            }
        }
    }

    private static void SayCarried(PretrainedModel model, LoadOptions options)
    {
        // Tables that older releases saved although they follow from the configuration.
        string[] names = [.. model.Carried.Select(static entry => entry.Name).Where(static name => !s_derived.Any(name.EndsWith))];
        if (names.Length > 0)
        {
            options.OnMessage?.Invoke($"{(names.Length == 1 ? "One tensor" : $"{names.Length:N0} tensors")} of the file, {string.Join(", ", names.Take(3))}{(names.Length > 3 ? ", …" : "")}, belong to no module that is computed: kept, and saved again unchanged.");
        }
    }

    private static JsonObject? ReadDocument(string folder, string name)
    {
        var path = Path.Combine(folder, name);
        return File.Exists(path) ? JsonFile.ReadNode(path) : null;
    }

    internal static Tensor Placed(Tensor tensor, Device? device) => device is null || device.type == DeviceType.CPU ? tensor : tensor.to(device);

    private static Tensor FreshHead(PretrainedModel model, Parameter parameter, LoadOptions options)
    {
        var type = options.DataType ?? ScalarType.Float32;
        var deviation = model.Config.Number("initializer_range") ?? 0.02;
        var weights = parameter.Shape.Count == 1 ? zeros([.. parameter.Shape]) : randn([.. parameter.Shape]).mul_(deviation);
        return Placed(weights.to(type), options.Device);
    }

    private static string TypeName(ScalarType type) => type switch
    {
        ScalarType.BFloat16 => "bfloat16",
        ScalarType.Float16 => "float16",
        ScalarType.Float64 => "float64",
        _ => "float32",
    };
}
