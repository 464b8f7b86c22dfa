using Peft.Models.Heads;
using static TorchSharp.torch;

namespace Peft.Models;

/// <summary>One pass as the two halves of an encoder-decoder see it.</summary>
/// <param name="Encoder">Without a cache, and without a prefix of keys: those stand in front of the decoder's.</param>
/// <param name="Decoder">Causal, from its start token on, without padding: what follows a text's end is never labelled.</param>
/// <param name="DecoderIds">What the decoder reads, int64 [rows, decoder length]: where nobody says, the encoder's ids one position later.</param>
internal readonly record struct EncoderDecoderPass(ForwardContext Encoder, ForwardContext Decoder, Tensor DecoderIds)
{
    /// <summary>Splits a pass.</summary>
    /// <param name="config">The model's configuration.</param>
    /// <param name="inputs">What goes in.</param>
    /// <param name="context">The pass over the encoder's positions, virtual ones included.</param>
    public static EncoderDecoderPass Of(ModelConfig config, ModelInputs inputs, ForwardContext context)
    {
        var ids = inputs.DecoderIds ?? Heads.DecoderIds.Shift(config, inputs.RequiredIds);
        var mask = context.AttentionMask;
        if (context.Prompt is { KeyValues: not null } prefix)
        {
            mask = mask?.narrow(1, prefix.Length, mask.size(1) - prefix.Length);
        }

        return new EncoderDecoderPass(
            context with { Cache = null, Prompt = null, AttentionMask = mask },
            context with { Length = ids.size(1), Positions = null, AttentionMask = null, Packing = null },
            ids);
    }
}
