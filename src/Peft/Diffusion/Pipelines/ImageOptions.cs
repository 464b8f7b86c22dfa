using System.Text.Json.Nodes;
using Peft.Diffusion.Schedulers;
using Peft.Images;

namespace Peft.Diffusion.Pipelines;

/// <summary>How pictures are made. Defaults are those that diffusers and the web interfaces share.</summary>
public sealed record ImageOptions
{
    /// <summary>Steps where none are asked for.</summary>
    public const int DefaultSteps = 30;

    /// <summary>What the picture should not show; null for nothing.</summary>
    public string? NegativePrompt { get; init; }

    /// <summary>Steps from noise to picture.</summary>
    public int Steps { get; init; } = DefaultSteps;

    /// <summary>How far each step goes beyond what the model says without the prompt (Ho and Salimans 2022); 1 and less for the prompt alone. Null for 7.5, and 5 for SDXL.</summary>
    public double? GuidanceScale { get; init; }

    /// <summary>How far the guided estimate is brought back to the deviation of the unguided one (Lin et al. 2023), from 0 to 1.</summary>
    public double GuidanceRescale { get; init; }

    /// <summary>Blocks at the end of the text encoder that are left out.</summary>
    public int ClipSkip { get; init; }

    /// <summary>Pixels in a row; null for what the model was made for, or the width of the picture that is changed.</summary>
    public int? Width { get; init; }

    /// <summary>Rows of pixels; null as for <see cref="Width"/>.</summary>
    public int? Height { get; init; }

    /// <summary>Repeats a picture; null draws another each time.</summary>
    public ulong? Seed { get; init; }

    /// <summary>Another scheduler than the model's, by diffusers' name or a short one (<c>euler</c>).</summary>
    public string? Scheduler { get; init; }

    /// <summary>Options of the scheduler to change, by diffusers' names (<c>use_karras_sigmas</c>); null for none.</summary>
    public JsonObject? SchedulerOptions { get; init; }

    /// <summary>How much of the noise is drawn anew where the scheduler lets one choose, from 0 to 1; null for the scheduler's own.</summary>
    public double? Eta { get; init; }

    /// <summary>A picture that is changed; null to begin with noise.</summary>
    public PixelImage? Image { get; init; }

    /// <summary>White where the picture is changed, black where it stays; null to change all of it.</summary>
    public PixelImage? Mask { get; init; }

    /// <summary>How much of a picture is changed, above 0 to 1.</summary>
    public double Strength { get; init; } = 0.8;

    /// <summary>Whether brackets weigh words of the prompts, as in the web UI; otherwise they are letters.</summary>
    public bool WeighsWords { get; init; } = true;

    /// <summary>Whether what a text encoder can't read at once is cut off a prompt, as diffusers does; otherwise it reads the prompt piece by piece.</summary>
    public bool TruncatesPrompts { get; init; }

    /// <summary>The scheduler for a model.</summary>
    /// <param name="own">The model's own.</param>
    /// <exception cref="NotSupportedByPeftException"><c>SchedulerNotSupported</c>.</exception>
    internal NoiseScheduler CreateScheduler(SchedulerConfig own)
    {
        var scheduler = SchedulerRegistry.Create(SchedulerOptions is { } changes ? own.With(changes) : own, Scheduler);
        scheduler.Eta = Eta ?? scheduler.Eta;
        return scheduler;
    }

    /// <summary>Refuses values that make no picture.</summary>
    /// <param name="pixels">Both sizes must be a multiple of it.</param>
    /// <exception cref="PeftException"><c>ImageOptionsInvalid</c>.</exception>
    internal void Validate(long pixels)
    {
        Check(Steps >= 1, nameof(Steps), "must be 1 or more");
        Check(GuidanceScale is not { } scale || double.IsFinite(scale), nameof(GuidanceScale), "must be a number");
        Check(GuidanceRescale is >= 0 and <= 1, nameof(GuidanceRescale), "must be from 0 to 1");
        Check(ClipSkip >= 0, nameof(ClipSkip), "must be 0 or more");
        Check(Image is null || Strength is > 0 and <= 1, nameof(Strength), "must be above 0, and 1 at most");
        Check(Image is not null || Mask is null, nameof(Mask), "needs a picture that is changed");
        Check(Width is not { } width || (width >= pixels && width % pixels == 0), nameof(Width), FormattableString.Invariant($"must be a multiple of {pixels}"));
        Check(Height is not { } height || (height >= pixels && height % pixels == 0), nameof(Height), FormattableString.Invariant($"must be a multiple of {pixels}"));

        static void Check(bool holds, string name, string expected)
        {
            if (!holds)
            {
                throw new PeftException("ImageOptionsInvalid", $"{name} {expected}.") { Target = name };
            }
        }
    }
}
