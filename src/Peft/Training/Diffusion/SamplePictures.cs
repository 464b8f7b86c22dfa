using System.Globalization;
using Peft.Adapters.Model;
using Peft.Diffusion;
using Peft.Diffusion.Pipelines;
using Peft.Files;
using Peft.Images;
using Peft.Models;

namespace Peft.Training.Diffusion;

/// <summary>What a diffusion model draws while it learns: <c>samples/step-N-1.png</c> in the training's folder, of one seed, so that steps can be compared.</summary>
internal static class SamplePictures
{
    /// <summary>The folder's name.</summary>
    public const string FolderName = "samples";

    private const int Steps = 20;
    private const string Start = "step-";

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
            var name = string.Create(CultureInfo.InvariantCulture, $"{FolderName}/{Start}{step}-{i + 1}.png");
            ImageFile.Write(picture.Image, Path.Combine(folder, name), new Dictionary<string, string> { [ImageParameters.Keyword] = picture.Parameters });
            return new TrainingSample(prompt, name);
        })];
    }

    /// <summary>What was drawn in a training's folder, by steps and in the order of the prompts.</summary>
    /// <param name="folder">The training's folder; null for none.</param>
    public static IReadOnlyList<(int Step, TrainingSample Sample)> In(string? folder) =>
        [.. Files(folder).Select(static file => (Place: PlaceOf(file), File: file)).Where(static entry => entry.Place is not null).OrderBy(static entry => entry.Place)
            .Select(static entry => (entry.Place!.Value.Step, new TrainingSample(PromptOf(entry.File), $"{FolderName}/{Path.GetFileName(entry.File)}")))];

    /// <summary>What another training drew into a folder, as long as this one hasn't begun, with the time by which a file that is written anew is told.</summary>
    public static IReadOnlyList<(string File, DateTime Written)> Before(string folder) =>
        [.. Files(folder).Where(static file => PlaceOf(file) is not null).Select(static file => (file, File.GetLastWriteTimeUtc(file)))];

    /// <summary>Takes away what another training drew. Times aren't compared with the clock, which may have been set back meanwhile.</summary>
    public static void Remove(IReadOnlyList<(string File, DateTime Written)> older)
    {
        foreach (var (file, written) in older)
        {
            Disk.TryTo(() =>
            {
                if (File.GetLastWriteTimeUtc(file) == written)
                {
                    File.Delete(file);
                }
            });
        }
    }

    /// <summary>Whether a model draws.</summary>
    public static bool AreOf(PeftModel model) => model.Base is DiffusionModel;

    private static string[] Files(string? folder) =>
        folder is not null && Path.Combine(folder, FolderName) is var drawn && Directory.Exists(drawn) ? Directory.GetFiles(drawn, Start + "*.png") : [];

    /// <summary>Step and prompt's number that a file's name says; null for a file of somebody else's.</summary>
    private static (int Step, int Number)? PlaceOf(string file) =>
        Path.GetFileNameWithoutExtension(file)[Start.Length..].Split('-') is [var step, var number]
        && int.TryParse(step, NumberStyles.None, CultureInfo.InvariantCulture, out var at) && int.TryParse(number, NumberStyles.None, CultureInfo.InvariantCulture, out var which) ? (at, which) : null;

    /// <summary>The prompt, which stands in the picture above the line with its settings.</summary>
    private static string PromptOf(string file) =>
        ImageFile.ReadTexts(file).TryGetValue(ImageParameters.Keyword, out var text) && text.LastIndexOf('\n') is >= 0 and var end ? text[..end] : "";
}
