using Peft.Adapters.Configuration;
using Peft.Models;

namespace Peft.Adapters.Methods.Prompts;

/// <summary>The configuration of a method that puts virtual tokens in front of a row: how many, and the sizes of the model they are made for.</summary>
public abstract record PromptConfig : AdapterConfig
{
    /// <summary>Number of virtual tokens in front of every row.</summary>
    [ConfigField("num_virtual_tokens", Parameter = "VirtualTokenCount", Position = 0, Minimum = 1, ErrorId = "VirtualTokensInvalid")]
    public int? VirtualTokens { get; init; }

    /// <summary>Width of a token's vector (with prefix tuning of a layer's keys); taken from the model.</summary>
    [ConfigField("token_dim", Minimum = 1, ErrorId = "PromptDoesNotFit")]
    public int? TokenWidth { get; init; }

    /// <summary>Parts of the model that have virtual tokens of their own: two for an encoder with a decoder, else one; taken from the task.</summary>
    [ConfigField("num_transformer_submodules", Minimum = 1, Maximum = 2, ErrorId = "PromptDoesNotFit")]
    public int? Submodules { get; init; }

    /// <summary>Number of attention heads (with prefix tuning of those of keys); taken from the model.</summary>
    [ConfigField("num_attention_heads", Minimum = 1, ErrorId = "PromptDoesNotFit")]
    public int? HeadCount { get; init; }

    /// <summary>Number of layers; taken from the model.</summary>
    [ConfigField("num_layers", Minimum = 1, ErrorId = "PromptDoesNotFit")]
    public int? LayerCount { get; init; }

    /// <summary>Modules that are trained in full and saved with the adapter, such as <c>lm_head</c>.</summary>
    [ConfigField("modules_to_save", Aliases = ["ModuleToSave"])]
    public override IReadOnlyList<string>? ModulesToSave { get; init; }

    /// <inheritdoc/>
    public override void Validate()
    {
        base.Validate();
        if (Count is null)
        {
            throw new PeftException("VirtualTokensInvalid", "num_virtual_tokens is missing: it says how many virtual tokens there are.") { Target = "num_virtual_tokens" };
        }

        if (TaskType is null)
        {
            throw new PeftException("TaskTypeUnknown", $"{PeftType} needs task_type: it says which part of the model the virtual tokens stand in.")
            {
                Target = "task_type",
                RecommendedAction = "Give CAUSAL_LM for a model that continues text, SEQ_2_SEQ_LM for one with an encoder and a decoder.",
            };
        }
    }

    /// <summary>The configuration with the model's sizes.</summary>
    /// <param name="model">The model.</param>
    /// <exception cref="PeftException"><c>PromptDoesNotFit</c>: it was made for another.</exception>
    internal PromptConfig For(PretrainedModel model)
    {
        var sizes = SizesOf(model);
        if (TokenWidth is { } width && width != sizes.Width)
        {
            throw DoesNotFit("token_dim", width, sizes.Width);
        }

        return Filled(this with
        {
            VirtualTokens = Count,
            TokenWidth = (int)sizes.Width,
            Submodules = Submodules ?? (TaskType == "SEQ_2_SEQ_LM" ? 2 : 1),
            HeadCount = HeadCount ?? (int?)sizes.Heads,
            LayerCount = LayerCount ?? (int?)sizes.Layers,
        });
    }

    /// <summary>Number of virtual tokens, or null where nobody said.</summary>
    private protected virtual int? Count => VirtualTokens;

    /// <summary>Fills what follows from the sizes.</summary>
    private protected virtual PromptConfig Filled(PromptConfig sized) => sized;

    /// <summary>Width, heads and layers that the method goes by.</summary>
    private protected virtual (long Width, long? Heads, long? Layers) SizesOf(PretrainedModel model) =>
        (model.Backbone.Width, HeadsOf(model.Config), LayersOf(model.Config));

    /// <summary>An error about a size.</summary>
    private protected static PeftException DoesNotFit(string key, long given, long own) => new(
        "PromptDoesNotFit", FormattableString.Invariant($"{key} is {given}, but the model's is {own}: the prompt was made for another model."))
    {
        Target = key,
        RecommendedAction = "Use the base model that the adapter's configuration names; for a new adapter leave the sizes out.",
    };

    /// <summary>Number of attention heads, or null where the configuration doesn't say.</summary>
    private protected static long? HeadsOf(ModelConfig config) => First(config, "num_attention_heads", "n_head", "num_heads", "encoder_attention_heads");

    /// <summary>Number of layers, or null where the configuration doesn't say.</summary>
    private protected static long? LayersOf(ModelConfig config) => First(config, "num_hidden_layers", "n_layer", "num_layers", "n_layers", "encoder_layers");

    private static long? First(ModelConfig config, params string[] keys) => keys.Select(config.Integer).FirstOrDefault(static value => value is not null);
}
