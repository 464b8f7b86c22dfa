using static TorchSharp.torch;

namespace Peft.Models;

/// <summary>Puts a prompt's virtual tokens in front of a pass, and moves its geometry by them.</summary>
internal static class PromptPlacement
{
    /// <summary>The vectors to go on with, how many virtual ones stand in front of each row, and the pass as the backbone sees it.</summary>
    /// <param name="embeddings">[rows · length, width].</param>
    /// <param name="context">The pass over tokens alone.</param>
    /// <param name="isPlaced">Whether virtual tokens are there already, in what an encoder gave.</param>
    public static (Tensor Embeddings, long VirtualLength, ForwardContext Context) Place(Tensor embeddings, ForwardContext context, bool isPlaced = false)
    {
        if (context.Prompt is not { Length: > 0 } prompt)
        {
            return (embeddings, 0, context);
        }

        if (context.Packing is not null)
        {
            throw new PeftException("PromptPacked", "A prompt stands in front of a row, so rows of several examples can't have one.")
            {
                RecommendedAction = "Train without packing.",
            };
        }

        var isFirst = !isPlaced && (context.Cache is null || context.Cache.Length == 0);
        var added = prompt.Embeddings is not null && isFirst ? prompt.Length : 0;

        // Positions and masks count virtual tokens whether they stand in this pass, in the cache or in the prefix.
        var positions = context.Positions?.add(prompt.Length);
        if (positions is not null && added > 0)
        {
            positions = cat([arange(added, ScalarType.Int64, positions.device).expand(context.Rows, added), positions], 1);
        }

        var pass = context with
        {
            Length = context.Length + added,
            Positions = positions,
            AttentionMask = context.AttentionMask is { } mask
                ? cat([ones([context.Rows, prompt.Length], mask.dtype, mask.device), mask], 1)
                : null,
        };
        return (added == 0 ? embeddings : InFront(prompt.Embeddings!, embeddings, context, added), added, pass);
    }

    /// <summary>The same for what the decoder of an encoder-decoder reads.</summary>
    /// <param name="words">Vectors of the decoder's tokens, [rows · length, width].</param>
    /// <param name="context">The decoder's pass over its tokens alone.</param>
    public static (Tensor Embeddings, long VirtualLength, ForwardContext Context) PlaceDecoder(Tensor words, ForwardContext context) =>
        context.Prompt is { DecoderEmbeddings: { } own, Length: var added } && context.Cache is null or { Length: 0 }
            ? (InFront(own, words, context, added), added, context with { Length = context.Length + added })
            : (words, 0, context);

    private static Tensor InFront(Tensor prompt, Tensor embeddings, ForwardContext context, long added)
    {
        var (rows, length, width) = (context.Rows, context.Length, embeddings.size(1));
        var isShared = prompt.size(0) == added && rows != 1;
        var front = isShared ? prompt.view(1, added, width).expand(rows, added, width) : prompt.view(rows, added, width);
        var all = cat([front.to(embeddings.dtype), embeddings.view(rows, length, width)], 1).view(rows * (added + length), width);
        context.Tape?.Record(new PlacementPiece(rows, added, length, isShared, prompt.dtype), [prompt, embeddings], [all], trains: false);
        return all;
    }

    private sealed class PlacementPiece(long rows, long added, long length, bool isShared, ScalarType promptType) : Piece
    {
        public override void Backward(PieceGradients gradients)
        {
            var g = gradients.Output().view(rows, added + length, -1);
            var front = g.narrow(1, 0, added);
            gradients.Add(0, (isShared ? front.sum(dim: 0) : front.reshape(rows * added, -1)).to(promptType).clone());
            gradients.Add(1, g.narrow(1, added, length).reshape(rows * length, -1).clone());
        }
    }
}
