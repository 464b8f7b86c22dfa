using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Models.Heads;

/// <summary>The classifier of an encoder-decoder: two layers over the decoder's output at the last end-of-text token of what the encoder read.</summary>
internal sealed class EndOfTextClassifier : Module
{
    private readonly Linear _dense;
    private readonly Activation _activation = new("tanh");
    private readonly Dropout _dropout;
    private readonly Linear _output;

    public EndOfTextClassifier(string className, long width, long labels, double dropout)
        : base(className)
    {
        _dense = Add("dense", new Linear(width, width, hasBias: true));
        _dropout = Add("dropout", new Dropout(dropout));
        _output = Add("out_proj", new Linear(width, labels, hasBias: true));
    }

    /// <summary>Scores of rows, [rows, labels].</summary>
    /// <exception cref="PeftException"><c>EndOfTextMissing</c>: a row without the token, or rows with different numbers of it.</exception>
    public Tensor Forward(BackboneOutput backbone, ModelConfig config, ForwardContext context)
    {
        context = backbone.In(context) with { Length = 1 };
        var ends = RowSelection.Forward(backbone.Hidden, Ends(backbone, config), context);
        var inner = _activation.Forward(_dense.Forward(_dropout.Forward(ends, context), context), context);
        return _output.Forward(_dropout.Forward(inner, context), context);
    }

    private static Tensor Ends(BackboneOutput backbone, ModelConfig config)
    {
        var ids = backbone.Inputs.RequiredIds;
        var isEnd = ids.eq(config.RequiredInteger("eos_token_id")).to(ScalarType.Int64);
        var counts = isEnd.sum(1);
        if (counts.min().item<long>() is var least && (least == 0 || least != counts.max().item<long>()))
        {
            throw new PeftException("EndOfTextMissing", "Every row that an encoder-decoder classifies must end in the end-of-text token, and all must have the same number of it.")
            {
                RecommendedAction = "Let the tokenizer add its end-of-text token.",
            };
        }

        var last = isEnd.mul(arange(ids.size(1), ScalarType.Int64, ids.device)).amax([1]);
        return last.add_(arange(backbone.Rows, ScalarType.Int64, ids.device).mul_(backbone.Length));
    }
}
