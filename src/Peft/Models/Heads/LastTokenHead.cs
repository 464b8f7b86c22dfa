using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Models.Heads;

/// <summary>
/// Scores of rows by a linear layer at the last position whose token is not padding: the head of a decoder that classifies, or one beside a model's own
/// (<see cref="PretrainedModel.AddHead"/>).
/// </summary>
public sealed class LastTokenHead
{
    private readonly ModelConfig _config;

    internal LastTokenHead(Linear layer, ModelConfig config)
    {
        Layer = layer;
        _config = config;
    }

    /// <summary>The layer, which stands in the model's tree.</summary>
    public Linear Layer { get; }

    /// <summary>Scores of rows.</summary>
    /// <param name="output">The backbone's output.</param>
    /// <param name="context">The forward pass.</param>
    /// <returns>[rows, labels]; in training known to the tape.</returns>
    public Tensor Scores(BackboneOutput output, ForwardContext context)
    {
        ArgumentNullException.ThrowIfNull(output);
        using var scope = NewDisposeScope();
        context = output.In(context) with { Length = 1 };
        return Layer.Forward(RowSelection.Forward(output.Hidden, LastTokens(output, context.AttentionMask), context), context).MoveToOuterDisposeScope();
    }

    /// <summary>
    /// Index of each row's last token among all positions. transformers looks at token ids, not at the attention mask; where the configuration names no padding token,
    /// as of most decoders, it refuses several rows, and the mask says where they end.
    /// </summary>
    private Tensor LastTokens(BackboneOutput output, Tensor? mask)
    {
        var starts = arange(output.Rows, ScalarType.Int64, output.Hidden.device).mul_(output.Length);
        if (_config.Integer("pad_token_id") is not { } padding || output.Inputs.Ids is not { } ids)
        {
            return mask is null
                ? starts.add_(output.Length - 1)
                : starts.add_(mask.mul(arange(mask.size(1), ScalarType.Int64, mask.device)).amax([1])).add_(output.Length - mask.size(1));
        }

        var positions = arange(ids.size(1), ScalarType.Int64, ids.device);
        return starts.add_(ids.ne(padding).to(ScalarType.Int64).mul(positions).amax([1])).add_(output.VirtualLength);
    }
}
