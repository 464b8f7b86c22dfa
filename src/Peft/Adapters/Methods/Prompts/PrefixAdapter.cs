using Peft.Models;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Prompts;

/// <summary>A table of keys and values that stand in front of those of each layer: [virtual tokens, 2 · layers · width].</summary>
public abstract class PrefixAdapter(string name, PrefixConfig config) : PromptAdapter(name, config)
{
    private protected override long RowWidth => 2L * Config.LayerCount!.Value * Config.TokenWidth!.Value;

    /// <summary>Of an encoder with a decoder the decoder alone has a prefix.</summary>
    private protected override long RowCount => Config.VirtualTokens!.Value;

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
