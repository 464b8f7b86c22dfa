using Peft.Adapters.Model;
using Peft.Diffusion.Models;
using Peft.Diffusion.Schedulers;
using Peft.Models;
using static TorchSharp.torch;

namespace Peft.Diffusion.Pipelines;

/// <summary>What a run begins with, in latents: noise, or a picture, or a picture that stays where a mask says so.</summary>
/// <param name="Noise">Standard normal noise, [1, channels, height, width].</param>
internal sealed record LatentStart(Tensor Noise)
{
    /// <summary>The picture's latents, scaled; null to begin with noise alone.</summary>
    public Tensor? Original { get; init; }

    /// <summary>1 where the picture is changed, [1, 1, height, width]; null for everywhere.</summary>
    public Tensor? Mask { get; init; }

    /// <summary>Latents of the picture without what is changed, which UNets made for inpainting read; null for others.</summary>
    public Tensor? Masked { get; init; }
}

/// <summary>A step of a run.</summary>
/// <param name="Index">Its number, from 1.</param>
/// <param name="Total">How many there are.</param>
/// <param name="Latents">What it made, scaled.</param>
/// <param name="Original">What the picture is believed to be; null where the scheduler doesn't say.</param>
/// <param name="Estimate">What the UNet gave, without the prompt and with it.</param>
internal sealed record DenoisingStep(int Index, int Total, Tensor Latents, Tensor? Original, Tensor Estimate);

/// <summary>Takes latents from noise to a picture: the UNet, guidance and the scheduler, step by step.</summary>
/// <param name="model">The model with its adapters.</param>
/// <param name="parts">The same model, by its parts.</param>
/// <param name="options">How.</param>
/// <param name="selection">Which adapters act; null for those active on the model.</param>
internal sealed class DenoisingRun(PeftModel model, DiffusionModel parts, ImageOptions options, AdapterSelection? selection = null)
{
    private const double DefaultGuidance = 7.5;
    private const double LargeGuidance = 5;

    /// <summary>How far steps go beyond the estimate without the prompt.</summary>
    public double Guidance { get; } = options.GuidanceScale ?? (parts.IsLarge ? LargeGuidance : DefaultGuidance);

    private bool IsGuided => Guidance > 1;

    /// <summary>Runs to the end.</summary>
    /// <param name="scheduler">The scheduler; it is started here.</param>
    /// <param name="prompt">What the picture shows.</param>
    /// <param name="negative">What it doesn't.</param>
    /// <param name="start">What it begins with.</param>
    /// <param name="noise">Draws standard normal noise of the latents' shape.</param>
    /// <param name="onStep">Sees each step; tensors last until it returns.</param>
    /// <param name="cancellation">Looked at between steps, and between the UNet's blocks.</param>
    /// <returns>Latents, scaled.</returns>
    /// <exception cref="OperationCanceledException">It was cancelled.</exception>
    public Tensor Run(NoiseScheduler scheduler, PromptStates prompt, PromptStates negative, LatentStart start, Func<Tensor> noise, Action<DenoisingStep>? onStep, CancellationToken cancellation)
    {
        using var whole = NewDisposeScope();
        var taken = start.Original is null ? options.Steps : Math.Clamp((int)(options.Steps * options.Strength), 1, options.Steps);
        scheduler.Start(options.Steps, options.Steps - taken);
        var latents = start.Original is not null && (start.Mask is null || options.Strength < 1) ? scheduler.AddNoise(start.Original, start.Noise) : start.Noise.mul(scheduler.InitialNoise);
        var (text, pooled, sizes) = Conditions(prompt, negative, start.Noise);
        var context = model.NewPass(new ForwardContext { Cancellation = cancellation }, selection);
        for (int first = scheduler.Index, total = scheduler.Timesteps.Count - first; !scheduler.IsFinished;)
        {
            cancellation.ThrowIfCancellationRequested();
            using var scope = NewDisposeScope();
            var scaled = scheduler.ScaleInput(latents);
            var sample = Rows(start.Masked is { } masked ? cat([scaled, start.Mask!, masked], 1) : scaled);
            var times = full([sample.size(0)], scheduler.Timestep, ScalarType.Float32, sample.device);
            var estimate = parts.UNet.Forward(
                new UNetInputs(sample.to(parts.UNet.DataType), times, text) { PooledText = pooled, Sizes = sizes },
                context with { Noise = new NoiseTimes([.. Enumerable.Repeat(scheduler.Timestep, (int)sample.size(0))], parts.SchedulerConfig.TrainTimesteps) }).to(latents.dtype);
            var step = scheduler.Step(Guided(estimate), latents, noise);
            var next = start is { Mask: { } mask, Masked: null, Original: { } original } ? Blended(scheduler, step.Sample, original, mask, start.Noise) : step.Sample;
            onStep?.Invoke(new DenoisingStep(scheduler.Index - first, total, next, step.Original, estimate));
            next.MoveToOuterDisposeScope();
            latents.Dispose();
            latents = next;
        }

        return latents.MoveToOuterDisposeScope();
    }

    /// <summary>Where the mask is black the picture stays, with the noise of the step that comes next.</summary>
    private static Tensor Blended(NoiseScheduler scheduler, Tensor sample, Tensor original, Tensor mask, Tensor noise)
    {
        var kept = scheduler.IsFinished ? original : scheduler.AddNoise(original, noise);
        return kept.add(mask.mul(sample.sub(kept)));
    }

    /// <summary>The estimate without the prompt, moved towards the one with it and beyond.</summary>
    private Tensor Guided(Tensor estimate)
    {
        if (!IsGuided)
        {
            return estimate;
        }

        var (without, with) = (estimate.narrow(0, 0, 1), estimate.narrow(0, 1, 1));
        var guided = without.add(with.sub(without).mul(Guidance));
        if (options.GuidanceRescale <= 0)
        {
            return guided;
        }

        long[] own = [1, 2, 3];
        var rescaled = guided.mul(std(with, own, keepdim: true).div(std(guided, own, keepdim: true)));
        return rescaled.mul(options.GuidanceRescale).add(guided.mul(1 - options.GuidanceRescale));
    }

    private Tensor Rows(Tensor sample) => IsGuided ? cat([sample, sample], 0) : sample;

    /// <summary>What the UNet reads beside the sample: without the prompt first, and with it.</summary>
    private (BackboneOutput Text, Tensor? Pooled, Tensor? Sizes) Conditions(PromptStates prompt, PromptStates negative, Tensor latents)
    {
        var type = parts.UNet.DataType;
        var states = (IsGuided ? cat([negative.States, prompt.States], 0) : prompt.States).to(type);
        var text = new BackboneOutput(states.reshape(-1, states.size(2)), states.size(0), states.size(1));
        if (prompt.Pooled is not { } pooled)
        {
            return (text, null, null);
        }

        var (height, width) = (latents.size(2) * parts.Autoencoder.Reduction, latents.size(3) * parts.Autoencoder.Reduction);

        // The whole picture, cut nowhere, in the size that is asked for.
        var sizes = tensor(new float[] { height, width, 0, 0, height, width }, [1, 6], ScalarType.Float32, states.device).expand(states.size(0), 6);
        return (text, (IsGuided ? cat([negative.Pooled!, pooled], 0) : pooled).to(type), sizes);
    }
}
