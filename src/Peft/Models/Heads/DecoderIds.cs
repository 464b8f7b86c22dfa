using static TorchSharp.torch;

namespace Peft.Models.Heads;

/// <summary>What the decoder of an encoder-decoder reads.</summary>
internal static class DecoderIds
{
    /// <summary>The token that every decoder's text begins with.</summary>
    /// <exception cref="PeftException"><c>ModelConfigIncomplete</c>.</exception>
    public static long Start(ModelConfig config) => config.RequiredInteger("decoder_start_token_id");

    /// <summary>Ids one position later, behind the start token, with padding where a label is ignored.</summary>
    /// <param name="config">The model's configuration.</param>
    /// <param name="ids">int64 [rows, length]: labels, or the encoder's own ids.</param>
    /// <exception cref="PeftException"><c>ModelConfigIncomplete</c>.</exception>
    public static Tensor Shift(ModelConfig config, Tensor ids)
    {
        var shifted = cat([full([ids.size(0), 1], Start(config), ids.dtype, ids.device), ids.narrow(1, 0, ids.size(1) - 1)], 1);
        return shifted.masked_fill(shifted.eq(-100), config.RequiredInteger("pad_token_id"));
    }
}
