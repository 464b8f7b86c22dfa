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
public sealed record PrefixTuningConfig : PrefixConfig
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
}

/// <summary>Prefix tuning on a model.</summary>
public sealed class PrefixTuningAdapter(string name, PrefixTuningConfig config) : PrefixAdapter(name, config)
{
    private protected override PromptEncoder? CreateEncoder() => Config is PrefixTuningConfig { PrefixProjection: true } prefix
        ? new PrefixProjection(prefix, Table.Shape[0], RowWidth)
        : null;

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
}
