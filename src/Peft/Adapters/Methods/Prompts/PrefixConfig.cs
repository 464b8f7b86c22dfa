using Peft.Models;

namespace Peft.Adapters.Methods.Prompts;

/// <summary>The configuration of a method whose virtual tokens are keys and values in front of each layer's own.</summary>
public abstract record PrefixConfig : PromptConfig
{
    private protected override (long Width, long? Heads, long? Layers) SizesOf(PretrainedModel model)
    {
        var config = model.Config;
        if (LayersOf(config) is not { } first || HeadsOf(config) is not { } heads || config.Integer("kv_lora_rank") is not null)
        {
            throw new NotSupportedByPeftException("PrefixNotSupported", $"{model.ClassName} has no keys and values of its layers in the form that a prefix could stand in front of.") { Target = model.ClassName };
        }

        // Of an encoder with a decoder the decoder's layers read the prefix; PEFT makes one for as many layers as the encoder has.
        var needed = config.Integer("num_decoder_layers") ?? config.Integer("decoder_layers") ?? first;
        var layers = Math.Max(first, needed);
        var (keys, size) = model.Backbone.KeyValueShape ?? (
            config.Integer("num_key_value_heads") ?? config.Integer("decoder_attention_heads") ?? heads,
            config.Integer("head_dim") ?? config.Integer("d_kv") ?? ((config.Integer("hidden_size") ?? model.Backbone.Width) / heads));
        return LayerCount is { } given && (given < needed || given > layers) ? throw DoesNotFit("num_layers", given, layers)
            : HeadCount is { } had && had != keys ? throw DoesNotFit("num_attention_heads", had, keys)
            : (keys * size, keys, layers);
    }
}
