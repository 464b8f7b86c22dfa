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
    /// <exception cref="PeftException"><c>PaddingTokenMissing</c>: several rows, and no <c>pad_token_id</c> to find their ends by.</exception>
    public Tensor Scores(BackboneOutput output, ForwardContext context)
    {
        ArgumentNullException.ThrowIfNull(output);
        using var scope = NewDisposeScope();
        context = output.In(context) with { Length = 1 };
        return Layer.Forward(RowSelection.Forward(output.Hidden, LastTokens(output), context), context).MoveToOuterDisposeScope();
    }

    /// <summary>Index of each row's last token among all positions. transformers looks at token ids, not at the attention mask.</summary>
    private Tensor LastTokens(BackboneOutput output)
    {
        var starts = arange(output.Rows, ScalarType.Int64, output.Hidden.device).mul_(output.Length);
        if (_config.Integer("pad_token_id") is not { } padding || output.Inputs.Ids is not { } ids)
        {
            return output.Rows == 1
                ? starts.add_(output.Length - 1)
                : throw new PeftException("PaddingTokenMissing", "Several rows can't be classified at once, because the model's configuration has no 'pad_token_id'.");
        }

        var positions = arange(ids.size(1), ScalarType.Int64, ids.device);
        return starts.add_(ids.ne(padding).to(ScalarType.Int64).mul(positions).amax([1])).add_(output.VirtualLength);
    }
}
