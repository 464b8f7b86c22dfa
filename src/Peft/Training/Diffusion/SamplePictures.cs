using System.Globalization;
using Peft.Adapters.Model;
using Peft.Diffusion;
using Peft.Diffusion.Pipelines;
using Peft.Images;
using Peft.Models;

namespace Peft.Training.Diffusion;

/// <summary>What a diffusion model draws while it learns: <c>samples/step-N-1.png</c> in the training's folder, of one seed, so that steps can be compared.</summary>
internal static class SamplePictures
{
    /// <summary>The folder's name.</summary>
    public const string FolderName = "samples";

    private const int Steps = 20;

    /// <summary>Draws the prompts.</summary>
    /// <param name="request">The training, its prompts and its options.</param>
    /// <param name="selection">Who acts.</param>
    /// <param name="folder">The training's folder.</param>
    /// <param name="step">Steps made.</param>
    /// <param name="cancellation">Stops between steps of a picture.</param>
    /// <returns>The prompts, each with the picture's path below the training's folder.</returns>
    public static TrainingSample[] Draw(TrainingRequest request, AdapterSelection selection, string folder, int step, CancellationToken cancellation)
    {
        var generator = new ImageGenerator(request.Model, selection);
        var side = DiffusionOptions.Of(new NamedOptions("training", request.Options.ObjectiveOptions)).Resolution;
        var options = new ImageOptions { Steps = Steps, Seed = (ulong)request.Options.Seed, Width = side, Height = side };
        Directory.CreateDirectory(Path.Combine(folder, FolderName));
        return [.. request.SamplePrompts.Select((prompt, i) =>
        {
            var picture = generator.Generate(prompt, options, cancellation: cancellation);
            var name = string.Create(CultureInfo.InvariantCulture, $"{FolderName}/step-{step}-{i + 1}.png");
            ImageFile.Write(picture.Image, Path.Combine(folder, name), new Dictionary<string, string> { ["parameters"] = picture.Parameters });
            return new TrainingSample(prompt, name);
        })];
    }

    /// <summary>Whether a model draws.</summary>
    public static bool AreOf(PeftModel model) => model.Base is DiffusionModel;
}
