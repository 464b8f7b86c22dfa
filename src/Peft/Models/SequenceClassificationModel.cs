using System.Text.Json.Nodes;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Models;

/// <summary>A decoder that gives each row one score a label, read at the last position whose token is not padding.</summary>
public abstract class SequenceClassificationModel : PretrainedModel
{
    /// <summary>Wraps a configuration.</summary>
    protected SequenceClassificationModel(ModelConfig config)
        : base(config)
    {
        LabelCount = config.Size("num_labels", (config.Node("id2label") as JsonObject)?.Count ?? 2);
    }

    /// <summary>Number of labels.</summary>
    public long LabelCount { get; }

    /// <summary>The head.</summary>
    protected abstract Linear Score { get; }

    /// <summary>Scores of rows.</summary>
    /// <param name="ids">int64 [rows, length].</param>
    /// <param name="context">The forward pass; its rows and length are taken from <paramref name="ids"/>.</param>
    /// <returns>[rows, labels].</returns>
    /// <exception cref="PeftException"><c>PaddingTokenMissing</c>: several rows, and no <c>pad_token_id</c> to find their ends by.</exception>
    public Tensor Logits(Tensor ids, ForwardContext context)
    {
        ArgumentNullException.ThrowIfNull(ids);
        ArgumentNullException.ThrowIfNull(context);
        using var scope = NewDisposeScope();
        var batch = context with { Rows = ids.size(0), Length = ids.size(1) };
        var hidden = Hidden(ids, batch);
        return Score.Forward(RowSelection.Forward(hidden, LastTokens(ids), batch), batch).MoveToOuterDisposeScope();
    }

    /// <summary>
    /// The loss of scores: mean squared error for one label, cross-entropy for a class a row, binary cross-entropy for several
    /// (<c>problem_type</c>, or what the labels look like).
    /// </summary>
    /// <param name="logits">[rows, labels], known to the tape.</param>
    /// <param name="labels">int64 [rows], float [rows], or float [rows, labels].</param>
    /// <param name="context">The forward pass.</param>
    /// <returns>A scalar, known to the tape.</returns>
    public Tensor Loss(Tensor logits, Tensor labels, ForwardContext context)
    {
        ArgumentNullException.ThrowIfNull(labels);
        ArgumentNullException.ThrowIfNull(context);
        var problem = Config.String("problem_type")
            ?? (LabelCount == 1 ? "regression" : labels.is_integral() ? "single_label_classification" : "multi_label_classification");
        return context.Tape is { } tape ? tape.Autograd(inputs => Form(inputs[0]), [logits], []) : Form(logits);

        Tensor Form(Tensor scores)
        {
            var values = scores.to(ScalarType.Float32);
            return problem switch
            {
                "regression" => values.reshape(-1).sub(labels.reshape(-1)).square().mean(),
                "single_label_classification" => nn.functional.cross_entropy(values, labels),
                _ => nn.functional.binary_cross_entropy_with_logits(values, labels.to(ScalarType.Float32)),
            };
        }
    }

    /// <summary>Hidden states after the final norm.</summary>
    /// <param name="ids">int64 [rows, length].</param>
    /// <param name="context">The forward pass, with its rows and length.</param>
    /// <returns>[rows · length, hidden size].</returns>
    protected abstract Tensor Hidden(Tensor ids, ForwardContext context);

    /// <summary>Index of each row's last token among all positions. transformers looks at token ids, not at the attention mask.</summary>
    private Tensor LastTokens(Tensor ids)
    {
        var (rows, length) = (ids.size(0), ids.size(1));
        var starts = arange(rows, ScalarType.Int64, ids.device).mul_(length);
        if (Config.Integer("pad_token_id") is not { } padding)
        {
            return rows == 1
                ? starts.add_(length - 1)
                : throw new PeftException("PaddingTokenMissing", "Several rows can't be classified at once, because the model's configuration has no 'pad_token_id'.");
        }

        var positions = arange(length, ScalarType.Int64, ids.device);
        return starts.add_(ids.ne(padding).to(ScalarType.Int64).mul(positions).amax([1]));
    }
}
