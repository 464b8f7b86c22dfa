using System.Text.Json.Nodes;
using Peft.Models;
using Peft.Models.Layers;
using Peft.Tensors;

namespace Peft.Diffusion.SingleFiles;

/// <summary>A text encoder in a checkpoint of one file.</summary>
/// <param name="Component">Its name in diffusers' folders: <c>text_encoder</c>.</param>
/// <param name="Prefix">What each of its names begins with.</param>
/// <param name="IsOpenClip">Whether it has OpenCLIP's names, queries, keys and values joined.</param>
internal sealed record CheckpointText(string Component, string Prefix, bool IsOpenClip)
{
    /// <summary>What stands in front of the names of its text model.</summary>
    public string TextPrefix { get; init; } = Prefix + "text_model.";
}

/// <summary>Which model a checkpoint in one file is: where its parts stand, and what its configurations are where the file says nothing.</summary>
/// <param name="Name">What messages call it.</param>
/// <param name="Texts">Its text encoders.</param>
internal sealed record CheckpointKind(string Name, IReadOnlyList<CheckpointText> Texts)
{
    /// <summary>Stable Diffusion 1.x.</summary>
    public static CheckpointKind First { get; } = new("Stable Diffusion 1", [new("text_encoder", "cond_stage_model.transformer.", false)]);

    /// <summary>Stable Diffusion 2.x.</summary>
    public static CheckpointKind Second { get; } = new("Stable Diffusion 2", [new("text_encoder", "cond_stage_model.model.", true)]);

    /// <summary>Stable Diffusion XL.</summary>
    public static CheckpointKind Large { get; } = new(
        "Stable Diffusion XL", [new("text_encoder", "conditioner.embedders.0.transformer.", false), new("text_encoder_2", "conditioner.embedders.1.model.", true)]);

    // Schedules that follow from the configuration, averages of the weights that training kept beside them, and what a text encoder has beyond what is used.
    private static readonly string[] s_known =
    [
        "betas", "alphas_cumprod", "sqrt_", "log_one_minus_", "posterior_", "model_ema.", "logvar", "denoiser.", "lvlb_weights", "global_step", "scale_factor",
        "cond_stage_model.logit_scale", "cond_stage_model.model.", "conditioner.embedders.1.model.", "first_stage_model.loss.", "model_sampling.", "edm_",
    ];

    private static readonly string[] s_parts = [CheckpointLayout.UNetPrefix, CheckpointLayout.AutoencoderPrefix];

    /// <summary>Tells what a file is by the names of its tensors.</summary>
    /// <param name="file">The file.</param>
    /// <exception cref="PeftException"><c>CheckpointNotRecognised</c>: it is no diffusion model; <c>CheckpointMixed</c>: it has parts of several.</exception>
    public static CheckpointKind Of(TensorStore file)
    {
        CheckpointKind[] found = [.. new[] { First, Second, Large }.Where(kind => file.Names.Any(name => kind.Texts.Any(text => name.StartsWith(text.Prefix, StringComparison.Ordinal))))];
        var hasUNet = file.Names.Any(static name => name.StartsWith(CheckpointLayout.UNetPrefix, StringComparison.Ordinal));
        var isLarge = file.Contains(CheckpointLayout.UNetPrefix + "label_emb.0.0.weight");
        if (found.Length > 1 || (found.Length == 1 && hasUNet && isLarge != (found[0] == Large)))
        {
            var parts = string.Join(" and ", found.Select(static kind => $"the text encoder of {kind.Name}")) + (found.Length > 1 ? "" : $", but a UNet that is {(isLarge ? "" : "not ")}of {Large.Name}");
            throw new PeftException("CheckpointMixed", $"'{file.Path}' holds parts of different models: {parts}.")
            {
                Target = file.Path,
            };
        }

        if (!hasUNet)
        {
            throw new PeftException("CheckpointNotRecognised", $"'{file.Path}' is no checkpoint of a whole Stable Diffusion model: none of its {file.Names.Count:N0} tensors begins with {CheckpointLayout.UNetPrefix}{(file.Names.FirstOrDefault() is { } first ? $"; the first is {first}" : "")}.")
            {
                Target = file.Path,
            };
        }

        if (found.Length == 0)
        {
            throw new PeftException("CheckpointIncomplete", $"'{file.Path}' holds a UNet without a text encoder.") { Target = file.Path };
        }

        // The oldest files have the text model without its name in front.
        return found[0] == First && !file.Names.Any(static name => name.StartsWith(First.Texts[0].TextPrefix, StringComparison.Ordinal))
            ? First with { Texts = [First.Texts[0] with { TextPrefix = First.Texts[0].Prefix }] }
            : found[0];
    }

    /// <summary>The kind of a model that is written.</summary>
    public static CheckpointKind Of(DiffusionModel model) => model.IsLarge ? Large
        : model.UNet.Find("down_blocks.0.attentions.0.proj_in") is Linear ? Second : First;

    /// <summary>What <c>model_index.json</c> would say.</summary>
    public ModelConfig Index()
    {
        var document = new JsonObject
        {
            ["_class_name"] = this == Large ? "StableDiffusionXLPipeline" : "StableDiffusionPipeline",
            ["scheduler"] = new JsonArray("diffusers", this == Large ? "EulerDiscreteScheduler" : Texts[0].IsOpenClip ? "DDIMScheduler" : "PNDMScheduler"),
            ["unet"] = new JsonArray("diffusers", "UNet2DConditionModel"),
            ["vae"] = new JsonArray("diffusers", "AutoencoderKL"),
        };
        foreach (var text in Texts)
        {
            var isSecond = text.Component == "text_encoder_2";
            document[text.Component] = new JsonArray("transformers", isSecond ? "CLIPTextModelWithProjection" : "CLIPTextModel");
            document[text.Component.Replace("text_encoder", "tokenizer", StringComparison.Ordinal)] = new JsonArray("transformers", "CLIPTokenizer");
        }

        if (this == Large)
        {
            document["force_zeros_for_empty_prompt"] = true;
        }

        return new ModelConfig(document);
    }

    /// <summary>Where the parameters of a part are.</summary>
    /// <param name="component">The part's name.</param>
    /// <param name="part">Its tree.</param>
    public IReadOnlyDictionary<string, CheckpointPlace> Places(string component, Module part) => component switch
    {
        DiffusionModel.UNetName => CheckpointLayout.OfUNet(part),
        DiffusionModel.AutoencoderName => CheckpointLayout.OfAutoencoder(part),
        _ => CheckpointLayout.OfText(part, Texts.Single(text => text.Component == component)),
    };

    /// <summary>Refuses tensors under the names of parts that no part takes: the file is of a model that is built otherwise. Others are told.</summary>
    /// <param name="file">The file.</param>
    /// <param name="places">What the parts take.</param>
    /// <param name="onMessage">Hears of tensors elsewhere that nobody needs.</param>
    /// <exception cref="PeftException"><c>CheckpointKeysUnknown</c>.</exception>
    public void RefuseUnknown(TensorStore file, IReadOnlyDictionary<string, IReadOnlyDictionary<string, CheckpointPlace>> places, Action<string>? onMessage)
    {
        if (places.Count == 0)
        {
            return;
        }

        var taken = places.Values.SelectMany(static part => part.Values).Select(static place => place.Name).ToHashSet(StringComparer.Ordinal);
        string[] left =
        [
            .. file.Names.Where(name => !taken.Contains(name)
                && !name.EndsWith("position_ids", StringComparison.Ordinal)
                && !s_known.Any(known => name.StartsWith(known, StringComparison.Ordinal))),
        ];
        string[] inside = [.. left.Where(name => s_parts.Concat(Texts.Select(static text => text.Prefix)).Any(prefix => name.StartsWith(prefix, StringComparison.Ordinal)))];
        if (inside.Length > 0)
        {
            throw new PeftException("CheckpointKeysUnknown", $"'{file.Path}' holds {inside.Length:N0} tensors that a checkpoint of {Name} has no place for, among them {string.Join(", ", inside.Take(3))}.") { Target = file.Path };
        }

        if (left.Length > 0)
        {
            onMessage?.Invoke($"{left.Length:N0} tensors of '{file.Path}' belong to no part of the model and are left out, among them {string.Join(", ", left.Take(3))}.");
        }
    }
}
