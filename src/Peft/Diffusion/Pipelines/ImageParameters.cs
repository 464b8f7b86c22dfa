using System.Globalization;
using System.Text;
using Peft.Adapters.Model;
using Peft.Diffusion.Schedulers;
using Peft.Images;
using Peft.Models;

namespace Peft.Diffusion.Pipelines;

/// <summary>The settings of a picture in the form that the web interfaces write into PNG files under <c>parameters</c> and read again.</summary>
internal static class ImageParameters
{
    /// <summary>The keyword in a PNG.</summary>
    public const string Keyword = "parameters";

    /// <summary>The text.</summary>
    public static string Text(PeftModel model, AdapterSelection selection, string prompt, ImageOptions options, NoiseScheduler scheduler, double guidance, ulong seed, PixelImage picture)
    {
        var text = new StringBuilder(prompt);
        if (options.NegativePrompt is { Length: > 0 } negative)
        {
            text.Append("\nNegative prompt: ").Append(negative);
        }

        List<(string Name, object Value)> settings =
        [
            ("Steps", options.Steps),
            ("Sampler", Name(scheduler, options)),
            ("CFG scale", guidance),
            ("Seed", seed),
            ("Size", FormattableString.Invariant($"{picture.Width}x{picture.Height}")),
            ("Model", model.Name),
        ];
        if (options.GuidanceRescale > 0)
        {
            settings.Add(("CFG Rescale", options.GuidanceRescale));
        }

        if (options.ClipSkip > 0)
        {
            // There the count begins with 1 for nothing left out.
            settings.Add(("Clip skip", options.ClipSkip + 1));
        }

        if (options.Image is not null)
        {
            settings.Add(("Denoising strength", options.Strength));
        }

        if (selection.Order.Count > 0)
        {
            settings.Add(("Adapters", string.Join(" ", selection.Order.Select(static entry => FormattableString.Invariant($"{entry.Name}:{entry.Weight}{(entry.Modules is null ? "" : $":lbw={entry.Modules}")}")))));
        }

        return text.Append('\n').AppendJoin(", ", settings.Select(static entry => string.Create(CultureInfo.InvariantCulture, $"{entry.Name}: {entry.Value}"))).ToString();
    }

    private static string Name(NoiseScheduler scheduler, ImageOptions options) =>
        SchedulerRegistry.Find(options.Scheduler ?? scheduler.Config.ClassName ?? "") ?? scheduler.GetType().Name;
}
