using System.Collections;
using System.Management.Automation;
using System.Text.Json;
using System.Text.Json.Nodes;
using Peft.Adapters.Model;
using Peft.Cmdlets.Arguments;
using Peft.Cmdlets.Completion;
using Peft.Cmdlets.Pipeline;
using Peft.Diffusion;
using Peft.Training;
using Peft.Training.Data;
using Peft.Training.Diffusion;
using Peft.Training.Objectives;
using Peft.Training.Sweeps;

namespace Peft.Cmdlets.Commands.Training;

/// <summary>Invoke-LoraTraining: trains an adapter on a data set.</summary>
[Cmdlet(VerbsLifecycle.Invoke, "LoraTraining", SupportsShouldProcess = true, DefaultParameterSetName = ModelSet)]
[Alias("Invoke-PeftTraining")]
[OutputType(typeof(PeftAdapter), typeof(PeftModel), typeof(TrainingComparison))]
public sealed class InvokeLoraTrainingCommand : AdapterTrainingCommand
{
    /// <summary>Trains all weights of the model in place of an adapter, or in a sweep (see <c>-Config</c>) beside them and as its last, to compare adapters with: sixteen bytes of memory a weight with AdamW. The model itself is put out, changed (in a sweep it is as it was afterwards), and saved under <c>-OutputPath</c> in <c>model/</c>.</summary>
    [Parameter(ParameterSetName = ModelSet)]
    public SwitchParameter Full { get; set; }

    /// <summary>Of a diffusion model: side of the square whose pixels an image has at most. Images keep their shape, roughly, and those of one shape share batches. Default: the model's own.</summary>
    [Parameter]
    [ValidateRange(8, 8192)]
    public int Resolution { get; set; }

    /// <summary>Of a diffusion model: weighs timesteps by min-SNR with this limit; 5 is usual. Without it all count alike.</summary>
    [Parameter]
    [Alias("snr_gamma")]
    public double SnrGamma { get; set; }

    /// <summary>Of a diffusion model: strength of noise that is the same over an image, so that very dark and bright ones are learnt; 0.05 to 0.1 is usual.</summary>
    [Parameter]
    [Alias("noise_offset")]
    [PSDefaultValue(Value = 0, Help = "0")]
    public double NoiseOffset { get; set; }

    /// <summary>Of a diffusion model: mirrors images at random.</summary>
    [Parameter]
    [Alias("random_flip")]
    public SwitchParameter RandomFlip { get; set; }

    /// <summary>Of a diffusion model: a folder for the latents of images and what the text encoders make of captions, which trainings share. What stands there for the same pixels, captions and encoders isn't computed again; what is damaged is. Without it they are computed in every training, and kept in memory.</summary>
    [Parameter]
    [ValidateNotNullOrEmpty]
    public string? CachePath { get; set; }

    /// <summary>Who teaches: the adapter learns what it predicts, its likeliest tokens, at each position that carries loss, in place of the data's own tokens (distillation). Another model with the same tokens, with the adapters that are active on it, or an adapter, of this model or another one. <c>-ObjectiveOption @{ temperature = 2; top_k = 64; alpha = 1 }</c> are its options; <c>alpha</c> below 1 learns the data's tokens as well.</summary>
    [Parameter]
    [ValidateNotNull]
    public object? Teacher { get; set; }

    /// <summary>What is made small, where the model's head doesn't say it: such as <c>distillation</c>, <c>dft</c>, or <c>cosine_similarity</c> in place of <c>multiple_negatives_ranking</c>.</summary>
    [Parameter]
    [ArgumentCompleter(typeof(ObjectiveCompleter))]
    [ValidateNotNullOrEmpty]
    public string? Objective { get; set; }

    /// <summary>Other options of what is learnt, under the names that Hugging Face's scripts give them, such as <c>@{ prior_loss_weight = 0.5; caption_dropout = 0.1; center_crop = $true }</c> of a diffusion model.</summary>
    [Parameter]
    [ValidateNotNull]
    public Hashtable? ObjectiveOption { get; set; }

    private EncoderCacheOptions? _cache;

    private protected override bool TrainsBase => Full && !IsSweep;

    private protected override bool ComparesBase => Full;

    /// <inheritdoc/>
    protected override void Begin()
    {
        if (Full && !IsSweep && (Config is not null || Given(nameof(AdapterName))))
        {
            throw new PeftException("ParametersContradict", "-Full trains the model's own weights, and -Config and -AdapterName describe an adapter.")
            {
                Target = nameof(Full),
                RecommendedAction = "Leave -Full out to train an adapter, or the others to train all weights.",
            };
        }

        _cache = CachePath is null ? null : new EncoderCacheOptions(PathResolution.Target(this, CachePath)) { Writes = !Given("WhatIf") };
        base.Begin();
    }

    /// <summary>What is learnt is what the model's head is for, where nobody says otherwise.</summary>
    private protected override TrainingOptions ReadOptions()
    {
        var options = base.ReadOptions();
        options = Objective is not null ? options with { Objective = Objective } : options;
        options = Teacher is not null ? options with { Objective = "distillation" } : options;
        options = options.Objective == new TrainingOptions().Objective ? options with { Objective = ObjectiveRegistry.DefaultFor(TheModel.Base) } : options;
        var own = options.ObjectiveOptions?.DeepClone().AsObject() ?? [];
        foreach (DictionaryEntry entry in ObjectiveOption ?? [])
        {
            own[entry.Key.ToString()!] = JsonSerializer.SerializeToNode(DatasetRow.Value(entry.Value));
        }

        if (TeachingAdapter is { } teacher)
        {
            own["teacher"] = teacher;
        }

        Set(nameof(Resolution), "resolution", Resolution);
        Set(nameof(SnrGamma), "snr_gamma", SnrGamma);
        Set(nameof(NoiseOffset), "noise_offset", NoiseOffset);
        Set(nameof(RandomFlip), "random_flip", RandomFlip.IsPresent);
        return (options with { ObjectiveOptions = own.Count == 0 ? null : own }).Validate();

        void Set<T>(string parameter, string option, T value)
        {
            if (Given(parameter))
            {
                own[option] = JsonValue.Create(value);
            }
        }
    }

    /// <summary>Name of the adapter that teaches; null where it is a model with what is active on it.</summary>
    private string? TeachingAdapter => Teacher.Unwrap() switch { PeftAdapter adapter => adapter.Name, string name => name, _ => null };

    /// <inheritdoc/>
    private protected override IObjective? MakeObjective(TrainingOptions options, WorkOutput output) => Teacher.Unwrap() switch
    {
        PeftModel model => Distillation.From(options, model),
        PeftAdapter adapter when adapter.Model != TheModel => Distillation.From(options, adapter.Model),
        null or PeftAdapter or string => base.MakeObjective(options, output),
        var other => throw new PeftException("TeacherUnfit", $"'{other}' is no teacher.")
        {
            Target = other,
            RecommendedAction = "Give a model, an adapter, or the name of an adapter of this model.",
        },
    };

    /// <inheritdoc/>
    private protected override ITrainingData Read(TrainingDataset dataset, PeftModel model, string? adapterName, TrainingOptions options, WorkOutput output)
    {
        if (CachePath is not null && model.Base is not ILatentDiffusion)
        {
            throw new PeftException("ParametersContradict", $"-CachePath keeps what a diffusion model's encoders make of images and captions, and '{model.Name}' is a {model.Base.ClassName}.")
            {
                Target = nameof(CachePath),
                RecommendedAction = "Leave -CachePath out.",
            };
        }

        if (model.Base is not ILatentDiffusion && !ImageClassDataset.AreFor(model))
        {
            return base.Read(dataset, model, adapterName, options, output);
        }

        var progress = new ProgressLine(output, "Reading images");
        if (model.Base is not ILatentDiffusion)
        {
            var classes = ImageClassDataset.Read(dataset, model, done => progress.Show(done, dataset.Count, FormattableString.Invariant($"{done:N0} of {dataset.Count:N0} images")), output.Cancellation);
            progress.Complete();
            return classes;
        }

        var images = ImageDataset.Read(
            dataset, model, options, adapterName,
            done => progress.Show(done, dataset.Count, FormattableString.Invariant($"{done:N0} of {dataset.Count:N0} images")), _cache, output.Cancellation);
        progress.Complete();
        if (_cache is { } cache)
        {
            output.WriteVerbose(FormattableString.Invariant($"Of the latents and captions, {images.Cached:N0} were in '{cache.Folder}', and {images.Computed:N0} were computed."));
        }

        images.Messages.ForEach(output.WriteWarning);
        return images;
    }
}
