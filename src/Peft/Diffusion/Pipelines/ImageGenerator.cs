using System.Diagnostics;
using Peft.Adapters.Model;
using Peft.Images;
using Peft.Models;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Diffusion.Pipelines;

/// <summary>How far a picture is.</summary>
/// <param name="Step">Steps taken.</param>
/// <param name="Steps">Steps that it takes.</param>
/// <param name="Preview">Makes what the picture is believed to be now; good until the call that was given this returns.</param>
public sealed record ImageProgress(int Step, int Steps, Func<PixelImage> Preview);

/// <summary>A picture that was made.</summary>
/// <param name="Image">The picture.</param>
/// <param name="Prompt">What it was asked to show.</param>
/// <param name="Seed">Repeats it.</param>
/// <param name="Parameters">The settings as the web interfaces write them into files.</param>
/// <param name="Time">How long it took.</param>
public sealed record GeneratedImage(PixelImage Image, string Prompt, ulong Seed, string Parameters, TimeSpan Time);

/// <summary>Makes pictures from text, changes pictures, and fills parts of them (Rombach et al. 2022).</summary>
public sealed class ImageGenerator
{
    private readonly PeftModel _model;
    private readonly DiffusionModel _parts;
    private readonly AdapterSelection? _selection;

    /// <summary>Wraps a model.</summary>
    /// <param name="model">A diffusion model.</param>
    /// <param name="selection">Which adapters act; null for those active on the model.</param>
    /// <exception cref="NotSupportedByPeftException"><c>NotADiffusionModel</c>.</exception>
    public ImageGenerator(PeftModel model, AdapterSelection? selection = null)
    {
        ArgumentNullException.ThrowIfNull(model);
        (_model, _selection) = (model, selection);
        _parts = model.Base as DiffusionModel ?? throw new NotSupportedByPeftException("NotADiffusionModel", $"'{model.Name}' ({model.Base.ClassName}) makes no pictures.") { Target = model.Name };
    }

    /// <summary>How many pixels both sizes of a picture are a multiple of.</summary>
    public long PixelStep => _parts.Autoencoder.Reduction;

    /// <summary>Makes one picture.</summary>
    /// <param name="prompt">What it should show.</param>
    /// <param name="options">How; null for the defaults.</param>
    /// <param name="onStep">Sees each step.</param>
    /// <param name="cancellation">Looked at between steps, and between the UNet's blocks.</param>
    /// <exception cref="PeftException"><c>ImageOptionsInvalid</c>, <c>TokenizerMissing</c>, <c>WeightsNotLoaded</c> or <c>ImageNotFinite</c>.</exception>
    /// <exception cref="OperationCanceledException">It was cancelled.</exception>
    public GeneratedImage Generate(string prompt, ImageOptions? options = null, Action<ImageProgress>? onStep = null, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(prompt);
        options ??= new ImageOptions();
        using var held = _model.Acquire("making a picture");
        options.Validate(PixelStep);
        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        var clock = Stopwatch.StartNew();
        var seed = options.Seed ?? (ulong)Random.Shared.NextInt64(uint.MaxValue);
        using var generator = new Generator(seed);
        using var scheduler = options.CreateScheduler(_parts.SchedulerConfig);
        var (width, height) = SizeOf(options);
        long[] shape = [1, _parts.Autoencoder.LatentChannels, height / PixelStep, width / PixelStep];
        Tensor Noise() => randn(shape, ScalarType.Float32, generator: generator).to(_model.Device);

        var (wanted, unwanted) = new PromptEncoder(_model, _parts, _selection).Encode(prompt, options.NegativePrompt, options, cancellation);
        var run = new DenoisingRun(_model, _parts, options, _selection);
        var start = Start(options, width, height, Noise, cancellation);
        var latents = run.Run(scheduler, wanted, unwanted, start, Noise, onStep is null ? null : step => onStep(new ImageProgress(step.Index, step.Total, () => Picture(step.Original ?? step.Latents, cancellation))), cancellation);
        if (!latents.isfinite().all().item<bool>())
        {
            throw new PeftException("ImageNotFinite", $"What '{_model.Name}' computed is no number (NaN or infinity), so there is no picture.");
        }

        var picture = Picture(latents, cancellation);
        return new GeneratedImage(picture, prompt, seed, ImageParameters.Text(_model, _selection ?? _model.CurrentSelection, prompt, options, scheduler, run.Guidance, seed, picture), clock.Elapsed);
    }

    private (int Width, int Height) SizeOf(ImageOptions options)
    {
        // Latents of 64 positions where the configuration doesn't say.
        var usual = (int)(_parts.UNet.Config.Size("sample_size", 64) * PixelStep);
        return (options.Width ?? Fitting(options.Image?.Width) ?? usual, options.Height ?? Fitting(options.Image?.Height) ?? usual);
    }

    private int? Fitting(int? size) => size is { } pixels ? (int)(Math.Max(1, pixels / PixelStep) * PixelStep) : null;

    private LatentStart Start(ImageOptions options, int width, int height, Func<Tensor> noise, CancellationToken cancellation)
    {
        var isInpainting = _parts.UNet.InputChannels == (2 * _parts.Autoencoder.LatentChannels) + 1;
        if (options.Image is not { } image)
        {
            return isInpainting
                ? throw new PeftException("ImageOptionsInvalid", "This model fills parts of pictures: it needs a picture and a mask.") { Target = nameof(ImageOptions.Image) }
                : new LatentStart(noise());
        }

        var pixels = image.Cover(width, height).ToTensor().unsqueeze(0).to(_model.Device);
        var original = Latents(pixels, noise, cancellation);
        if (options.Mask is null && !isInpainting)
        {
            return new LatentStart(noise()) { Original = original };
        }

        // White is above the middle of [-1, 1].
        var white = options.Mask is { } mask ? mask.Cover(width, height).ToTensor().mean([0L], keepdim: true).unsqueeze(0).gt(0).to(ScalarType.Float32).to(_model.Device) : ones([1, 1, height, width], ScalarType.Float32, _model.Device);
        var small = nn.functional.interpolate(white, [height / PixelStep, width / PixelStep]);
        return new LatentStart(noise())
        {
            Original = original,
            Mask = small,
            Masked = isInpainting ? Latents(pixels.mul(white.neg().add(1)), noise, cancellation) : null,
        };
    }

    /// <summary>The scaled latents of pictures in [-1, 1].</summary>
    private Tensor Latents(Tensor pixels, Func<Tensor> noise, CancellationToken cancellation)
    {
        var coder = _parts.Autoencoder;
        var context = new ForwardContext { Cancellation = cancellation };
        return coder.Encode(pixels.to(coder.DataType), context).Sample(noise().to(coder.DataType)).to(ScalarType.Float32).sub(coder.ShiftFactor).mul(coder.ScalingFactor);
    }

    /// <summary>The picture of scaled latents.</summary>
    private PixelImage Picture(Tensor latents, CancellationToken cancellation)
    {
        using var scope = NewDisposeScope();
        var coder = _parts.Autoencoder;
        var unscaled = latents.div(coder.ScalingFactor).add(coder.ShiftFactor).to(coder.DataType);
        return PixelImage.FromTensor(coder.Decode(unscaled, new ForwardContext { Cancellation = cancellation })[0]);
    }
}
