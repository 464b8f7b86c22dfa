using System.Text.Json.Nodes;
using Peft.Adapters.Model;
using Peft.Diffusion.Models;
using Peft.Diffusion.Schedulers;
using Peft.Diffusion.SingleFiles;
using Peft.Files;
using Peft.Models;
using Peft.Tensors;
using Peft.Tokenization;
using static TorchSharp.torch;

namespace Peft.Diffusion;

/// <summary>Loads and saves diffusion models: folders in diffusers' layout, and checkpoints in one file.</summary>
public static class DiffusionModelFiles
{
    /// <summary>Names the parts of a pipeline, in its folder.</summary>
    public const string IndexName = "model_index.json";

    private const string ConfigName = "config.json";
    private const string SchedulerFolder = "scheduler";
    private const string DiffusersStem = "diffusion_pytorch_model";
    private static readonly string[] s_parts = ["text_encoder", "text_encoder_2", DiffusionModel.UNetName, DiffusionModel.AutoencoderName];
    private static readonly string[] s_tokenizers = ["tokenizer", "tokenizer_2"];

    /// <summary>Whether a path is that of a diffusion model: a folder with <c>model_index.json</c>, that of its UNet or autoencoder alone, or a single file that is no other kind of model.</summary>
    /// <param name="path">The folder or file.</param>
    public static bool IsDiffusionModel(string path) => Directory.Exists(path) ? File.Exists(Path.Combine(path, IndexName)) || PartIn(path) is not null : IsCheckpoint(path) && File.Exists(path);

    /// <summary>Loads a diffusion model, or its UNet or autoencoder alone.</summary>
    /// <param name="path">A folder in diffusers' layout, or a checkpoint in one file (<c>.safetensors</c>, <c>.ckpt</c>).</param>
    /// <param name="options">How; null for the files' types on the CPU.</param>
    /// <param name="name">What to call the model; null for the last part of the path.</param>
    /// <param name="configPath">For a checkpoint in one file, a folder in diffusers' layout whose configurations and tokenizers are taken; null for what the file's shapes tell.</param>
    /// <returns>The model; the caller owns it.</returns>
    /// <exception cref="PeftException">What is wrong with the files: <c>CheckpointNotRecognised</c>, <c>CheckpointMixed</c>, <c>CheckpointIncomplete</c>, <c>CheckpointKeysUnknown</c>, <c>ModelPartMissing</c>, <c>WeightsMissing</c>, <c>ShapeMismatch</c>.</exception>
    /// <exception cref="NotSupportedByPeftException"><c>PipelineNotSupported</c>, <c>ArchitectureNotSupported</c> or <c>QuantizationNotSupported</c>.</exception>
    public static PeftModel Load(string path, LoadOptions? options = null, string? name = null, string? configPath = null)
    {
        using var noGradients = no_grad();
        options ??= new LoadOptions();
        if (options.Packing is not null)
        {
            throw new NotSupportedByPeftException("QuantizationNotSupported", "Diffusion models can't be quantised here.") { RecommendedAction = "Import it without a quantisation, in bfloat16 where memory is short." };
        }

        name ??= Path.GetFileName(Path.TrimEndingDirectorySeparator(Path.GetFullPath(path)));
        if (Directory.Exists(path) && !File.Exists(Path.Combine(path, IndexName)) && PartIn(path) is { } config)
        {
            return new PeftModel(LoadPart(path, config, options), name, path);
        }

        var model = Directory.Exists(path) ? LoadFolder(path, options) : LoadCheckpoint(path, options, configPath);
        return new PeftModel(model, name, path) { Tokenizer = model.Tokenizers.Values.FirstOrDefault() };
    }

    /// <summary>Whether a path is that of a checkpoint in one file, by its ending.</summary>
    internal static bool IsCheckpoint(string path) => Path.GetExtension(path).ToUpperInvariant() is ".SAFETENSORS" or ".CKPT";

    /// <summary>Saves a model as a folder in diffusers' layout, or as one file where the path ends in <c>.safetensors</c>.</summary>
    internal static IReadOnlyList<string> Save(DiffusionModel model, string path, ScalarType? dataType, long maxShardBytes, Action<long, long>? onProgress, CancellationToken cancellation)
    {
        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        cancellation.ThrowIfCancellationRequested();
        if (IsCheckpoint(path))
        {
            CheckpointWriter.Write(model, path, dataType, onProgress, cancellation);
            return [path];
        }

        var total = model.NamedParameters().Sum(static named => named.Parameter.Bytes);
        var done = 0L;
        List<string> written = [];
        foreach (var (name, part) in model.Parts)
        {
            using var own = NewDisposeScope();
            var folder = Path.Combine(path, name);
            AtomicFile.MakeFolder(folder);
            var before = done;
            written.AddRange(SafetensorsWriter.WriteFolder(
                folder,
                WeightFiles.Tensors(part, dataType),
                null,
                StemOf(part),
                maxShardBytes,
                (count, _) =>
                {
                    cancellation.ThrowIfCancellationRequested();
                    done = before + count;
                    onProgress?.Invoke(Math.Min(done, total), total);
                },
                [(ConfigName, part.Config.Document)]));
        }

        foreach (var (name, tokenizer) in model.Tokenizers)
        {
            tokenizer.Save(Path.Combine(path, name));
        }

        AtomicFile.MakeFolder(Path.Combine(path, SchedulerFolder));
        WriteJson(Path.Combine(path, SchedulerFolder, SchedulerConfig.FileName), model.SchedulerConfig.Document);
        WriteJson(Path.Combine(path, IndexName), model.Config.Document);
        return [.. written, Path.Combine(path, IndexName)];
    }

    /// <summary>The configuration of a folder that holds a part by itself; null for another folder.</summary>
    private static ModelConfig? PartIn(string folder)
    {
        var path = Path.Combine(folder, ConfigName);
        return File.Exists(path) && ModelConfig.FromFile(path) is var config && config.String("_class_name") is "UNet2DConditionModel" or "AutoencoderKL" ? config : null;
    }

    private static PretrainedModel LoadPart(string path, ModelConfig config, LoadOptions options)
    {
        var part = DiffusionPart.Create(config);
        try
        {
            if (!options.StructureOnly)
            {
                using var store = OpenPart(path, "", part);
                ModelLoader.LoadWeights(part, store, options);
            }

            return part;
        }
        catch
        {
            part.Dispose();
            throw;
        }
    }

    private static DiffusionModel LoadFolder(string path, LoadOptions options)
    {
        var index = ModelConfig.FromFile(Path.Combine(path, IndexName));
        if (index.String("_class_name") is var pipeline && pipeline?.StartsWith("StableDiffusion", StringComparison.Ordinal) != true)
        {
            throw new NotSupportedByPeftException("PipelineNotSupported", $"'{path}' holds a pipeline {pipeline ?? "without a name"}, which is not supported.")
            {
                Target = pipeline,
                RecommendedAction = "Supported are Stable Diffusion 1, 2 and XL.",
            };
        }

        return Assemble(
            path,
            index,
            s_parts.Where(name => index.Document[name] is JsonArray { Count: 2 } entry && entry[1] is not null),
            name => ModelConfig.FromFile(Required(Path.Combine(path, name, ConfigName), name)),
            part => OpenPart(path, part.Name, part.Part),
            SchedulerConfig.FromFile(Required(Path.Combine(path, SchedulerFolder, SchedulerConfig.FileName), SchedulerFolder)),
            TokenizersIn(path),
            options);
    }

    private static DiffusionModel LoadCheckpoint(string path, LoadOptions options, string? configPath)
    {
        using var file = TensorStore.OpenFile(path);
        var kind = CheckpointKind.Of(file);
        var made = new CheckpointConfig(file, kind);
        var places = new Dictionary<string, IReadOnlyDictionary<string, CheckpointPlace>>(StringComparer.Ordinal);
        var index = configPath is null ? kind.Index() : ModelConfig.FromFile(Required(Path.Combine(configPath, IndexName), "configuration"));
        var scheduler = configPath is null ? new SchedulerConfig(made.Scheduler()) : SchedulerConfig.FromFile(Required(Path.Combine(configPath, SchedulerFolder, SchedulerConfig.FileName), SchedulerFolder));
        var model = Assemble(
            path,
            index,
            [.. kind.Texts.Select(static text => text.Component), DiffusionModel.UNetName, DiffusionModel.AutoencoderName],
            name => configPath is null ? new ModelConfig(made.Of(name)) : ModelConfig.FromFile(Required(Path.Combine(configPath, name, ConfigName), name)),
            part => new CheckpointPart(file, places[part.Name] = kind.Places(part.Name, part.Part)),
            scheduler,
            TokenizersIn(configPath ?? Path.GetDirectoryName(Path.GetFullPath(path))!),
            options);
        try
        {
            kind.RefuseUnknown(file, places, options.OnMessage);
            model.Keep(file.TakeMappedFiles());
            return model;
        }
        catch
        {
            model.Dispose();
            throw;
        }
    }

    /// <summary>Makes all structures before any weights are read, so that what doesn't belong together ends at once.</summary>
    private static DiffusionModel Assemble(
        string path,
        ModelConfig index,
        IEnumerable<string> names,
        Func<string, ModelConfig> config,
        Func<(string Name, PretrainedModel Part), TensorStore> open,
        SchedulerConfig scheduler,
        IReadOnlyDictionary<string, Tokenizer> tokenizers,
        LoadOptions options)
    {
        List<(string Name, PretrainedModel Part)> parts = [];
        try
        {
            foreach (var name in names)
            {
                parts.Add((name, DiffusionPart.Create(config(name))));
            }

            var total = parts.Sum(static part => part.Part.CountParameters());
            var done = 0L;
            foreach (var part in parts.Where(_ => !options.StructureOnly))
            {
                var before = done;
                using var store = open(part);
                ModelLoader.LoadWeights(part.Part, store, options with
                {
                    OnProgress = (count, _) => options.OnProgress?.Invoke(done = before + count, total),
                });
            }

            return new DiffusionModel(index, parts, scheduler, tokenizers);
        }
        catch (Exception error)
        {
            parts.ForEach(static part => part.Part.Dispose());
            if (error is PeftException { ErrorId: "CheckpointMixed" or "ModelPartMissing" } ours)
            {
                throw new PeftException(ours.ErrorId, $"'{path}': {ours.Message}", ours) { Target = path };
            }

            throw;
        }
    }

    private static string StemOf(PretrainedModel part) => part is UNet2DConditionModel or AutoencoderKL ? DiffusersStem : "model";

    private static TensorStore OpenPart(string path, string name, PretrainedModel part)
    {
        var (folder, stem) = (Path.Combine(path, name), StemOf(part));
        try
        {
            return TensorStore.OpenFolder(folder, stem);
        }
        catch (PeftException error) when (error.ErrorId == "WeightsNotFound" && File.Exists(Path.Combine(folder, stem + ".fp16.safetensors")))
        {
            return TensorStore.OpenFolder(folder, stem + ".fp16");
        }
    }

    private static Dictionary<string, Tokenizer> TokenizersIn(string folder) => s_tokenizers
        .Where(name => Directory.Exists(Path.Combine(folder, name)))
        .ToDictionary(static name => name, name => Tokenizer.FromFolder(Path.Combine(folder, name)), StringComparer.Ordinal);

    private static string Required(string path, string part) => File.Exists(path) ? path
        : throw new PeftException("ModelPartMissing", $"The model's '{part}' is missing: there is no file '{path}'.") { Target = path };

    private static void WriteJson(string path, JsonObject document) => AtomicFile.Write(path, stream => JsonFile.Write(stream, document));
}
