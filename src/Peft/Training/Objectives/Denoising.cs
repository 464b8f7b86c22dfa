using Peft.Diffusion;
using Peft.Diffusion.Schedulers;
using Peft.Diffusion.Training;
using Peft.Engine;
using Peft.Models;
using Peft.Training.Data;
using Peft.Training.Diffusion;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Training.Objectives;

/// <summary>
/// What diffusion models learn (Ho et al. 2020): to say of a noised image, at a random timestep, what the noise is, or the velocity. A micro batch's loss is a plain mean, so that
/// their gradients add up; images that keep the class as it is (Ruiz et al. 2023) have a mean of their own.
/// </summary>
public sealed class Denoising : IObjective
{
    private readonly DiffusionOptions _options;
    private readonly System.Runtime.CompilerServices.ConditionalWeakTable<PretrainedModel, NoiseTargets> _targets = [];

    internal Denoising(NamedOptions options) => _options = DiffusionOptions.Of(options);

    /// <inheritdoc/>
    public string Name => "denoising";

    /// <inheritdoc/>
    public ExampleKind ExampleKind => ExampleKind.Image;

    /// <inheritdoc/>
    public long Items(TrainingBatch batch) => 1;

    /// <inheritdoc/>
    public Tensor Loss(ObjectivePass pass)
    {
        ArgumentNullException.ThrowIfNull(pass);
        var model = pass.Model as ILatentDiffusion ?? throw new NotSupportedByPeftException("ObjectiveNotSupported", $"The objective '{Name}' needs a diffusion model; {pass.Model.ClassName} is none.")
        {
            Target = pass.Model.ClassName,
            RecommendedAction = "Import a diffusion model, such as Stable Diffusion.",
        };
        var (batch, context) = (pass.Rows<DiffusionBatch>(), pass.Context);
        var targets = _targets.GetValue(pass.Model, _ => new NoiseTargets(new NoiseLevels(model.SchedulerConfig)));
        var kind = model.SchedulerConfig.Prediction;
        Tensor noisy, wanted;
        IReadOnlyList<int> timesteps;
        using (no_grad())
        {
            var latents = batch.Deviations is { } deviations ? batch.Latents.add(deviations.mul(Normal(deviations.shape, context, deviations))) : batch.Latents;
            var noise = batch.Noise ?? Noise(latents, context);
            timesteps = batch.Timesteps ?? Timesteps(latents, targets.Count, context);
            noisy = targets.Noisy(latents, noise, timesteps).to(pass.Model.DataType);
            wanted = targets.Target(kind, latents, noise, timesteps).to(ScalarType.Float32);
        }

        context.Tape?.AddRoot(noisy);
        var text = Text(model, batch, context);
        var predicted = model.Predict(noisy, [.. timesteps.Select(static timestep => (double)timestep)], text, batch.Sizes, context);
        var weights = Weights(batch, kind, timesteps, targets, latents: wanted);
        var divisor = pass.Divisor ?? 1;
        return pass.Formula(inputs => inputs[0].to(ScalarType.Float32).sub(wanted).square().flatten(1).mean([1]).mul(weights).sum().div(divisor), predicted);
    }

    /// <summary>What each row's mean counts: the rows of a part share 1, or the prior's weight.</summary>
    private Tensor Weights(DiffusionBatch batch, PredictionKind kind, IReadOnlyList<int> timesteps, NoiseTargets targets, Tensor latents)
    {
        var (rows, prior) = (latents.size(0), batch.PriorRows);
        var own = rows - prior;
        return tensor(
            [.. timesteps.Select((timestep, row) => (float)((row < own ? 1.0 / own : _options.PriorLossWeight / prior) * (_options.SnrGamma is { } gamma ? targets.MinSnrWeight(kind, timestep, gamma) : 1)))],
            ScalarType.Float32,
            latents.device);
    }

    private TextCondition Text(ILatentDiffusion model, DiffusionBatch batch, ForwardContext context)
    {
        var dropped = Dropped(batch, context);
        if (batch.Text is { } ready)
        {
            var text = dropped is null ? ready : ready with
            {
                States = where(dropped.view(-1, 1, 1), batch.EmptyText!.States, ready.States),
                Pooled = ready.Pooled is null ? null : where(dropped.view(-1, 1), batch.EmptyText.Pooled!, ready.Pooled),
            };
            context.Tape?.AddRoot(text.States);
            if (text.Pooled is { } pooled)
            {
                context.Tape?.AddRoot(pooled);
            }

            return text;
        }

        return model.EncodeText(dropped is null ? batch.Ids : [.. batch.Ids.Zip(batch.EmptyIds, (ids, empty) => where(dropped.view(-1, 1), empty, ids))], context);
    }

    /// <summary>Which rows lose their caption; null for none.</summary>
    private Tensor? Dropped(DiffusionBatch batch, ForwardContext context) => _options.CaptionDropout > 0 && context.IsTraining
        ? RandomDraws.Uniform([batch.InputIds.size(0)], ScalarType.Float32, batch.InputIds.device, context.Generator).lt(_options.CaptionDropout)
        : null;

    private Tensor Noise(Tensor latents, ForwardContext context)
    {
        var noise = Normal(latents.shape, context, latents);
        return _options.NoiseOffset > 0 ? noise.add(Normal([latents.size(0), latents.size(1), 1, 1], context, latents), _options.NoiseOffset) : noise;
    }

    private static Tensor Normal(long[] shape, ForwardContext context, Tensor like) => randn(shape, ScalarType.Float32, like.device, generator: RandomDraws.On(like.device_type, context.Generator));

    // Drawn on the device and read once: the model's tables and the weights are looked up on the host.
    private static int[] Timesteps(Tensor latents, int count, ForwardContext context) =>
        [.. RandomDraws.Uniform([latents.size(0)], ScalarType.Float32, latents.device, context.Generator).mul(count).cpu().data<float>().Select(drawn => Math.Min((int)drawn, count - 1))];
}
