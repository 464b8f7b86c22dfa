using Peft.Diffusion.Schedulers;
using Peft.Models;
using static TorchSharp.torch;

namespace Peft.Diffusion;

/// <summary>What a training needs of a diffusion model: its passes from text, from images and from noise, each on the tape where there is one.</summary>
public interface ILatentDiffusion
{
    /// <summary>The noise levels that it was trained on, and what it predicts.</summary>
    SchedulerConfig SchedulerConfig { get; }

    /// <summary>Sides of images are multiples of it, in pixels.</summary>
    int SizeStep { get; }

    /// <summary>Sides of the images that it was made for, in pixels.</summary>
    int NativeSize { get; }

    /// <summary>Whether it is told sizes and cuts of images (SDXL).</summary>
    bool ReadsSizes { get; }

    /// <summary>Whether a module, by its path, belongs to a text encoder.</summary>
    /// <param name="path">The path.</param>
    bool IsOfTextEncoder(string path);

    /// <summary>Whether a module, by its path, belongs to what codes images.</summary>
    /// <param name="path">The path.</param>
    bool IsOfImageEncoder(string path);

    /// <summary>A prompt as the text encoders read it, one entry for each.</summary>
    /// <param name="prompt">The prompt, without weights; what is longer than the encoders read at once is left out.</param>
    /// <param name="selection">Adapters whose words (textual inversions) count; null for none.</param>
    /// <returns>int64 [1, length] each.</returns>
    IReadOnlyList<Tensor> Tokenize(string prompt, AdapterSelection? selection = null);

    /// <summary>What the text encoders make of prompts.</summary>
    /// <param name="ids">Tokens for each encoder, int64 [rows, length].</param>
    /// <param name="context">The forward pass.</param>
    TextCondition EncodeText(IReadOnlyList<Tensor> ids, ForwardContext context);

    /// <summary>Mean and deviation of the latents of images, scaled as the model wants them.</summary>
    /// <param name="pixels">[rows, 3, height, width] from -1 to 1.</param>
    /// <returns>[rows, channels, height, width] each.</returns>
    (Tensor Mean, Tensor Deviation) EncodeImages(Tensor pixels);

    /// <summary>What the model predicts of noised latents.</summary>
    /// <param name="latents">[rows, channels, height, width]; on a tape known to it.</param>
    /// <param name="timesteps">One for each row.</param>
    /// <param name="text">The prompts.</param>
    /// <param name="sizes">Original height and width, top and left of the cut, and target height and width of each row, [rows, 6]; null where it isn't told.</param>
    /// <param name="context">The forward pass.</param>
    Tensor Predict(Tensor latents, IReadOnlyList<double> timesteps, TextCondition text, Tensor? sizes, ForwardContext context);
}

/// <summary>What text encoders made of prompts.</summary>
/// <param name="States">[rows, length, width].</param>
/// <param name="Pooled">[rows, width] of the whole prompt (SDXL); null elsewhere.</param>
public sealed record TextCondition(Tensor States, Tensor? Pooled = null);
