using Peft.Models;
using Peft.Tensors;

namespace Peft.Diffusion.Models;

/// <summary>The models that a diffusion pipeline is made of, each a folder with a configuration and weights of its own.</summary>
public static class DiffusionPart
{
    private const string DiffusersStem = "diffusion_pytorch_model";

    private static readonly Dictionary<string, Func<ModelConfig, PretrainedModel>> s_classes = new(StringComparer.Ordinal)
    {
        ["UNet2DConditionModel"] = static config => new UNet2DConditionModel(config),
        ["AutoencoderKL"] = static config => new AutoencoderKL(config),
    };

    /// <summary>Makes a structure, without weights: diffusers' by <c>_class_name</c>, transformers' as language models are made.</summary>
    /// <param name="config">The part's <c>config.json</c>.</param>
    /// <exception cref="NotSupportedByPeftException"><c>ArchitectureNotSupported</c>.</exception>
    public static PretrainedModel Create(ModelConfig config)
    {
        ArgumentNullException.ThrowIfNull(config);
        return config.String("_class_name") is not { } name ? ArchitectureRegistry.Create(config)
            : s_classes.TryGetValue(name, out var make) ? make(config)
            : throw new NotSupportedByPeftException("ArchitectureNotSupported", $"Models of the class '{name}' are not supported.")
            {
                Target = name,
                RecommendedAction = $"Supported are: {string.Join(", ", s_classes.Keys)}, and transformers' text encoders.",
            };
    }

    /// <summary>Loads a part.</summary>
    /// <param name="folder">Its folder, such as <c>unet</c>.</param>
    /// <param name="options">How; null for the file's types on the CPU.</param>
    /// <returns>The part; the caller owns it.</returns>
    /// <exception cref="PeftException">What reading its files throws.</exception>
    public static PretrainedModel Load(string folder, LoadOptions? options = null)
    {
        options ??= new LoadOptions();
        var config = ModelConfig.FromFile(Path.Combine(folder, "config.json"));
        if (config.String("_class_name") is null)
        {
            return ModelLoader.Load(folder, options);
        }

        var model = Create(config);
        try
        {
            if (!options.StructureOnly)
            {
                using var store = TensorStore.OpenFolder(folder, DiffusersStem);
                ModelLoader.LoadWeights(model, store, options);
                model.Prepare();
            }

            return model;
        }
        catch
        {
            model.Dispose();
            throw;
        }
    }
}
