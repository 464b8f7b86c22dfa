using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Models.Heads;

/// <summary>A model that continues text.</summary>
public class CausalModel : PretrainedModel
{
    private readonly string _headName;
    private readonly Linear _projection;
    private readonly Head _head;

    /// <summary>Makes the structure of a family's model.</summary>
    /// <param name="config">The configuration as the family reads it.</param>
    /// <param name="className">transformers' class name.</param>
    /// <param name="headName">Name of the output layer.</param>
    /// <param name="hasBias">Whether the output layer has a bias.</param>
    /// <param name="scales">Whether logits are scaled as the configuration says (MPT's aren't, whatever its own says).</param>
    public CausalModel(ModelConfig config, string className, string headName = "lm_head", bool hasBias = false, bool scales = true)
        : base(config.Family.Backbone(config), className)
    {
        _headName = headName;

        // Asked for again later, as a file may decide otherwise; a value of another kind is an error now.
        _ = config.Boolean("tie_word_embeddings");
        AddBackbone();
        _projection = Add(headName, new Linear(Backbone.Width, Backbone.TokenEmbeddings!.Count, hasBias));
        _head = new Head(_projection)
        {
            Scale = !scales ? 1 : config.Number("logit_scale") ?? (config.Number("logits_scaling") is { } scaling ? 1 / scaling : 1),
            SoftCap = config.Number("final_logit_softcapping"),
        };
    }

    /// <summary>Whether scores are proportional to hidden states: no bias, and nothing that bounds them.</summary>
    public bool IsLinear => _projection.Bias is null && _head.Offset is null && _head.SoftCap is null;

    /// <inheritdoc/>
    public override string? OutputEmbeddings => _headName;

    /// <inheritdoc/>
    public override IEnumerable<(string Owner, string Follower)> TiedParameters => (Config.Boolean("tie_word_embeddings") ?? true)
        ? [.. base.TiedParameters, ($"{Backbone.TokenEmbeddings!.Path}.weight", $"{_headName}.weight")]
        : base.TiedParameters;

    /// <summary>Logits of every position; not for training.</summary>
    /// <param name="output">The backbone's output.</param>
    /// <param name="context">The forward pass.</param>
    /// <returns>[rows · length, vocabulary], in the hidden states' type.</returns>
    public Tensor Logits(BackboneOutput output, ForwardContext context) => _head.Logits(output.Hidden, output.In(context));

    /// <summary>Logits of some hidden states; not for training.</summary>
    /// <param name="hidden">[n, hidden size].</param>
    /// <param name="context">The forward pass.</param>
    /// <returns>[n, vocabulary], in the hidden states' type.</returns>
    public Tensor Logits(Tensor hidden, ForwardContext context) => _head.Logits(hidden, context);

    /// <summary>Cross-entropy of the next token, and what the backbone adds to it.</summary>
    /// <param name="output">The backbone's output.</param>
    /// <param name="labels">int64 [rows, tokens]; position t is compared with the label of t + 1; -100 is ignored.</param>
    /// <param name="divisor">What the sum over labelled positions is divided by; null for their number.</param>
    /// <param name="context">The forward pass.</param>
    /// <param name="labelSmoothing">Share of the target that is spread over the whole vocabulary.</param>
    /// <returns>A scalar in float32, known to the tape. Zero where nothing is labelled.</returns>
    public Tensor Loss(BackboneOutput output, Tensor labels, double? divisor, ForwardContext context, double labelSmoothing = 0)
    {
        ArgumentNullException.ThrowIfNull(output);
        ArgumentNullException.ThrowIfNull(context);
        var loss = context.Prompt?.Loss is { } prompt
            ? WeightedLoss(output, prompt.Of(labels, output.Inputs.TokenTypes), divisor, output.In(context))
            : _head.Loss(output.Hidden, output.Aligned(labels), divisor, output.In(context), labelSmoothing);
        return output.AuxiliaryLoss is { } auxiliary ? ResidualSum.Forward(loss, auxiliary, context) : loss;
    }

    /// <summary>The loss against another model's predictions, and against the labels as far as these count.</summary>
    /// <param name="output">The backbone's output.</param>
    /// <param name="labels">int64 [rows, tokens], as for <see cref="Loss"/>: which positions are learnt.</param>
    /// <param name="divisor">What the sum over labelled positions is divided by; null for their number.</param>
    /// <param name="soft">What is to be predicted; its positions are those of the hidden states, virtual ones included.</param>
    /// <param name="context">The forward pass.</param>
    /// <returns>A scalar in float32, known to the tape.</returns>
    public Tensor SoftLoss(BackboneOutput output, Tensor labels, double? divisor, SoftTargets soft, ForwardContext context) =>
        _head.Loss(output.Hidden, output.Aligned(labels), divisor, output.In(context), soft: soft);

    /// <summary>Negative log-likelihood of every labelled position.</summary>
    /// <param name="output">The backbone's output.</param>
    /// <param name="labels">int64 [rows, tokens], as for <see cref="Loss"/>.</param>
    /// <param name="context">The forward pass.</param>
    /// <param name="statistics">What else is wanted of the logits there.</param>
    /// <returns>float32 [rows, positions - 1], virtual ones included, known to the tape; 0 where the label is -100.</returns>
    public Tensor TokenLosses(BackboneOutput output, Tensor labels, ForwardContext context, params TokenStatistic[] statistics) =>
        _head.TokenLosses(output.Hidden, output.Aligned(labels), output.In(context), statistics);

    private Tensor WeightedLoss(BackboneOutput output, (Tensor Labels, Tensor Weights) learnt, double? divisor, ForwardContext context)
    {
        var positions = learnt.Labels.size(1) - 1;
        var (losses, weights) = (_head.TokenLosses(output.Hidden, learnt.Labels, context), learnt.Weights.narrow(1, 1, positions));
        var count = learnt.Labels.narrow(1, 1, positions).ne(-100).sum().clamp_min(1);
        return context.Tape is { } tape ? tape.Autograd(inputs => Form(inputs[0]), [losses], []) : Form(losses);

        Tensor Form(Tensor each) => divisor is { } given ? each.mul(weights).sum().div(given) : each.mul(weights).sum().div(count);
    }
}
