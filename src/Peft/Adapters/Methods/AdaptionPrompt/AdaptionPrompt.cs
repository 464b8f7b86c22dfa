using Peft.Adapters.Configuration;
using Peft.Models;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.AdaptionPrompt;

/// <summary>
/// LLaMA-Adapter (Zhang et al. 2023): queries of the upper layers see trained vectors beside the row, through a gate that starts closed.
/// Defaults are PEFT's.
/// </summary>
public sealed record AdaptionPromptConfig : AdapterConfig
{
    /// <inheritdoc/>
    public override string PeftType => "ADAPTION_PROMPT";

    /// <summary>Number of vectors in each layer.</summary>
    [ConfigField("adapter_len", Parameter = "Length", Aliases = ["AdapterLength"], Minimum = 1, ErrorId = "PromptDoesNotFit")]
    public int? Length { get; init; }

    /// <summary>Number of layers, counted from the top.</summary>
    [ConfigField("adapter_layers", Parameter = "LayerCount", Aliases = ["AdapterLayers"], Minimum = 1, ErrorId = "PromptDoesNotFit")]
    public int? LayerCount { get; init; }

    /// <summary>Name of the layers' attention; where nothing is said, what the family calls it (<c>self_attn</c>, GPT-2's <c>attn</c>).</summary>
    [ConfigField("target_modules", Parameter = "TargetModule")]
    public string? TargetModules { get; init; }

    /// <inheritdoc/>
    public override Adapter CreateAdapter(string name) => new AdaptionPromptAdapter(name, this);
}

/// <summary>LLaMA-Adapter on a model.</summary>
public sealed class AdaptionPromptAdapter(string name, AdaptionPromptConfig config) : Adapter(name, config)
{
    private readonly SortedDictionary<int, (Parameter Vectors, Parameter Gate)> _layers = [];

    /// <inheritdoc/>
    public override string MergeObstacle => "what its queries see beside a row is no weight of the model";

    /// <inheritdoc/>
    public override void Declare(PretrainedModel model, ICollection<string> messages)
    {
        ArgumentNullException.ThrowIfNull(model);
        var given = (AdaptionPromptConfig)Config;
        var attention = model.Backbone.GatedPromptTarget ?? throw new NotSupportedByPeftException("PromptNotSupported", $"The attention of {model.ClassName} can't see a gated prompt.")
        {
            Target = model.ClassName,
            RecommendedAction = "Use an adapter that changes layers, such as LoRA.",
        };
        var target = given.TargetModules ?? attention;
        Config = given with { TargetModules = target };
        Module[] all = [.. model.Descendants().Where(module => module.Path.EndsWith($".{target}", StringComparison.Ordinal))];
        var (length, count) = (given.Length ?? throw Missing("adapter_len"), given.LayerCount ?? throw Missing("adapter_layers"));
        if (count > all.Length)
        {
            throw new PeftException("PromptDoesNotFit", $"adapter_layers is {count}, but {all.Length} modules of the model are called '{target}'.")
            {
                Target = target,
                RecommendedAction = "Name the layers' attention, and as many layers as the model has.",
            };
        }

        for (var layer = all.Length - count; layer < all.Length; layer++)
        {
            var (vectors, gate) = (new Parameter("adaption_prompt", [1, length, model.Backbone.Width]), new Parameter("adaption_gate", [1]));
            _layers.Add(layer, (vectors, gate));
            Shared.Add(new AdapterParameter(KeyOf(all[layer].Path, "adaption_prompt"), vectors, Module: all[layer]));
            Shared.Add(new AdapterParameter(KeyOf(all[layer].Path, "adaption_gate"), gate, Module: all[layer]));
        }

        base.Declare(model, messages);
    }

    /// <inheritdoc/>
    public override void Initialise(Generator generator, Predicate<Parameter> needed)
    {
        ArgumentNullException.ThrowIfNull(needed);
        foreach (var (vectors, gate) in _layers.Values)
        {
            if (needed(vectors))
            {
                vectors.Assign(RandomTensors.Normal(vectors.Shape, 1, generator, Device));
            }

            if (needed(gate))
            {
                gate.Assign(RandomTensors.Zeros(gate.Shape, Device));
            }
        }

        base.Initialise(generator, needed);
    }

    /// <inheritdoc/>
    public override ForwardContext Prepare(ForwardContext pass)
    {
        ArgumentNullException.ThrowIfNull(pass);
        if (pass.Prompt is not null)
        {
            throw new PeftException("PromptsConflict", $"'{Name}' has a prompt; it acts alone among such adapters.")
            {
                Target = Name,
                RecommendedAction = "Activate one adapter with a prompt.",
            };
        }

        var strength = pass.Selection.Order.First(entry => entry.Name == Name).Weight;
        return pass with
        {
            Prompt = new VirtualPrompt(0)
            {
                Gated = _layers.ToDictionary(static layer => layer.Key, layer => new GatedPrompt(
                    Known(pass, layer.Value.Vectors, static values => values.squeeze(0)),
                    Known(pass, layer.Value.Gate, values => values * strength))),
            },
        };
    }

    private static Tensor Known(ForwardContext pass, Parameter parameter, Func<Tensor, Tensor> form) =>
        pass.Tape is { } tape ? tape.Autograd(_ => form(parameter.Data), [], [parameter]) : form(parameter.Data);

    private PeftException Missing(string key) => new("PromptDoesNotFit", $"{Config.PeftType} needs {key}.")
    {
        Target = key,
        RecommendedAction = "Say how many vectors each layer has, and how many layers have them.",
    };
}
