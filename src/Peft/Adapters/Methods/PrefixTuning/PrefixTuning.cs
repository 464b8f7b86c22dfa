using Peft.Adapters.Configuration;
using Peft.Adapters.Methods.Prompts;
using Peft.Models;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.PrefixTuning;

/// <summary>
/// Prefix tuning (Li and Liang 2021): every layer's attention sees trained keys and values in front of the row's own.
/// Defaults are PEFT's.
/// </summary>
[ConfigVariant("init_weights")]
public sealed record PrefixTuningConfig : PromptConfig
{
    /// <inheritdoc/>
    public override string PeftType => "PREFIX_TUNING";

    /// <summary>Width of the hidden layer that computes the prefix, where there is one; taken from the width of a layer's keys.</summary>
    [ConfigField("encoder_hidden_size", Minimum = 1, ErrorId = "PromptDoesNotFit")]
    public int? EncoderHiddenSize { get; init; }

    /// <summary>Computes the prefix by a small network from a narrower table, which trains more evenly. Its result alone is saved.</summary>
    [ConfigField("prefix_projection")]
    public bool PrefixProjection { get; init; }

    /// <inheritdoc/>
    public override Adapter CreateAdapter(string name) => new PrefixTuningAdapter(name, this);

    private protected override PromptConfig Filled(PromptConfig sized)
    {
        var prefix = (PrefixTuningConfig)sized;
        return prefix with { EncoderHiddenSize = prefix.EncoderHiddenSize ?? prefix.TokenWidth };
    }

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

/// <summary>Prefix tuning on a model.</summary>
public sealed class PrefixTuningAdapter(string name, PrefixTuningConfig config) : PromptAdapter(name, config)
{
    private protected override long RowWidth => 2L * Config.LayerCount!.Value * Config.TokenWidth!.Value;

    /// <summary>Of an encoder with a decoder the decoder alone has a prefix.</summary>
    private protected override long RowCount => Config.VirtualTokens!.Value;

    private protected override PromptEncoder? CreateEncoder() => Config is PrefixTuningConfig { PrefixProjection: true } prefix
        ? new PrefixProjection(prefix, Table.Shape[0], RowWidth)
        : null;

    private protected override VirtualPrompt Prompt(Tensor values, ForwardContext pass)
    {
        var (layers, heads, tokens) = (Config.LayerCount!.Value, Config.HeadCount!.Value, Config.VirtualTokens!.Value);
        var size = Config.TokenWidth!.Value / heads;
        var parts = values.view(tokens, 2 * layers, heads, size);
        Tensor[] all = [.. Enumerable.Range(0, 2 * layers).Select(i => parts.select(1, i).transpose(0, 1).unsqueeze(0).contiguous())];
        pass.Tape?.Record(new SplitPiece(2 * layers), [values], all, trains: false);

        // On an encoder-decoder PEFT lays the table out twice and deals out four parts a layer, of which the decoder's own attention reads the first two.
        return new VirtualPrompt(tokens) { KeyValues = [.. Enumerable.Range(0, layers).Select(layer => (Config.Submodules == 2 ? 2 * layer : layer) % layers).Select(i => new KeyValuePrefix(all[2 * i], all[(2 * i) + 1]))] };
    }

    /// <summary>Tanh between two linear layers, from a table as wide as a layer's keys to the keys and values of all layers.</summary>
    private sealed class PrefixProjection : PromptEncoder
    {
        private readonly Func<Tensor, Tensor> _first;
        private readonly Func<Tensor, Tensor> _second;

        public PrefixProjection(PrefixTuningConfig config, long rows, long outputs)
            : base(rows, config.TokenWidth!.Value)
        {
            var hidden = config.EncoderHiddenSize!.Value;
            _first = AddLinear("transform.0", config.TokenWidth!.Value, hidden);
            _second = AddLinear("transform.2", hidden, outputs);
        }

        public override Tensor Forward(ForwardContext pass) => _second(_first(Embedding).tanh());
    }

    /// <summary>Cuts the table into keys and values, one pair a layer.</summary>
    private sealed class SplitPiece(int parts) : Piece
    {
        public override void Backward(PieceGradients gradients)
        {
            var some = Enumerable.Range(0, parts).Select(gradients.OutputOrNull).OfType<Tensor>().First();
            using var nothing = zeros_like(some);
            gradients.Add(0, cat([.. Enumerable.Range(0, parts).Select(i => (gradients.OutputOrNull(i) ?? nothing).squeeze(0).transpose(0, 1).flatten(1))], 1));
        }
    }
}
