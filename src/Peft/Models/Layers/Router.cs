using static TorchSharp.torch;

namespace Peft.Models.Layers;

/// <summary>What a router's scores become.</summary>
internal enum RouterScores
{
    /// <summary>A softmax over all experts, of which the best are taken.</summary>
    Softmax,

    /// <summary>A softmax over the chosen ones alone.</summary>
    SoftmaxOfChosen,

    /// <summary>A sigmoid each.</summary>
    Sigmoid,
}

/// <summary>How a router chooses experts and weighs them.</summary>
/// <param name="Chosen">Experts a token goes to.</param>
/// <param name="Scores">What scores become.</param>
internal sealed record RouterRule(long Chosen, RouterScores Scores = RouterScores.Softmax)
{
    /// <summary>Whether the weights of the chosen experts are divided by their sum.</summary>
    public bool Normalises { get; init; }

    /// <summary>Added to that sum.</summary>
    public double Epsilon { get; init; }

    /// <summary>Multiplies the weights.</summary>
    public double Scale { get; init; } = 1;

    /// <summary>Groups of experts, of which the best are chosen first, by the sum of each one's two best scores (DeepSeek-V3); 1 for none.</summary>
    public long Groups { get; init; } = 1;

    /// <summary>Groups that experts are chosen from.</summary>
    public long ChosenGroups { get; init; } = 1;
}

/// <summary>Where tokens go.</summary>
/// <param name="Logits">The router's scores, [rows, experts].</param>
/// <param name="Weights">Weights of the chosen experts, [rows, chosen].</param>
/// <param name="Experts">Their indices, int64 [rows, chosen].</param>
internal sealed record Routing(Tensor Logits, Tensor Weights, Tensor Experts)
{
    /// <summary>How they were chosen, where it was for one token by itself.</summary>
    public RouterChoice? Choice { get; init; }
}

/// <summary>A linear layer whose outputs choose experts for each token (Shazeer et al. 2017).</summary>
internal sealed class Router : Module, IAdaptable
{
    private readonly RouterRule _rule;

    /// <summary>Makes a router without weights.</summary>
    /// <param name="experts">Number of experts.</param>
    /// <param name="width">Width of the input.</param>
    /// <param name="rule">How it chooses.</param>
    /// <param name="className">transformers' class name.</param>
    /// <param name="hasBias">Whether scores have a bias.</param>
    /// <param name="correction">Name of a buffer that is added to scores when experts are chosen, but not to their weights; null for none.</param>
    public Router(long experts, long width, RouterRule rule, string className, bool hasBias = false, string? correction = null)
        : base(className)
    {
        _rule = rule;
        if (rule.Chosen > experts || experts % rule.Groups != 0 || rule.Chosen > experts / rule.Groups * rule.ChosenGroups || rule.ChosenGroups > rule.Groups)
        {
            throw new PeftException("ModelConfigInvalid", FormattableString.Invariant(
                $"A token can't go to {rule.Chosen} of {experts} experts, from {rule.ChosenGroups} of {rule.Groups} groups."));
        }

        Weight = AddParameter("weight", [experts, width]);
        Bias = hasBias ? AddParameter("bias", [experts]) : null;
        Correction = correction is null ? null : AddBuffer(correction, [experts]);
    }

    /// <inheritdoc/>
    public Parameter Weight { get; }

    /// <inheritdoc/>
    public Parameter? Bias { get; }

    /// <summary>Added to scores when experts are chosen, [experts], or null.</summary>
    public Parameter? Correction { get; }

    /// <inheritdoc/>
    public long Inputs => Weight.Shape[1];

    /// <inheritdoc/>
    public long Outputs => Weight.Shape[0];

    /// <inheritdoc/>
    public Tensor Apply(Tensor x, Tensor weight, Tensor? bias)
    {
        var y = x.mm(weight.t());
        return bias is null ? y : y + bias;
    }

    /// <summary>Chooses experts.</summary>
    /// <param name="x">[rows, width].</param>
    /// <param name="context">The forward pass.</param>
    /// <param name="correction">In place of <see cref="Correction"/>, where another module holds it.</param>
    public Routing Forward(Tensor x, ForwardContext context, Parameter? correction = null)
    {
        var plan = Weight.Slot?.Plan(context) ?? SlotPlan.Empty;
        var logits = plan.NeedsForward
            ? Weight.Slot!.Forward(x, context, (input, inner) => Product(input, SlotPlan.Empty, inner))
            : Product(x, plan, context);
        correction ??= Correction;
        if (context.Tape is null && x.size(0) == 1 && RouterChoice.Of(_rule, logits, correction?.Data) is { } choice)
        {
            return choice.Route(logits);
        }

        var experts = Choose(logits, correction);
        var weights = context.Tape is { } tape ? tape.Autograd(inputs => Weigh(inputs[0], experts), [logits], []) : Weigh(logits, experts);
        return new Routing(logits, weights, experts);
    }

    private Tensor Product(Tensor x, SlotPlan plan, ForwardContext context)
    {
        var member = new LinearMember(Weight.Effective(context), Bias?.Effective(context), plan.LowRank);
        return LinearProduct.Run(x, member.Weight.Data, member.Bias?.Data, [member], context);
    }

    private Tensor Choose(Tensor logits, Parameter? correction)
    {
        using var scope = NewDisposeScope();
        var scores = logits.to(ScalarType.Float32);
        scores = _rule.Scores == RouterScores.Sigmoid ? scores.sigmoid() : scores;
        scores = correction is null ? scores : scores.add(correction.Data.to(ScalarType.Float32));
        if (_rule.Groups > 1)
        {
            var grouped = scores.view(scores.size(0), _rule.Groups, -1);
            var groups = grouped.topk((int)Math.Min(2, grouped.size(2)), -1).values.sum(-1).topk((int)_rule.ChosenGroups, -1).indexes;
            var hidden = ones([scores.size(0), _rule.Groups], ScalarType.Bool, scores.device).scatter_(1, groups, zeros_like(groups, ScalarType.Bool));
            scores = grouped.masked_fill(hidden.unsqueeze(-1), double.NegativeInfinity).view(scores.shape);
        }

        return scores.topk((int)_rule.Chosen, -1).indexes.MoveToOuterDisposeScope();
    }

    private Tensor Weigh(Tensor logits, Tensor experts)
    {
        var scores = logits.to(ScalarType.Float32);
        var weights = _rule.Scores switch
        {
            RouterScores.Softmax => scores.softmax(-1).gather(1, experts),
            RouterScores.SoftmaxOfChosen => scores.gather(1, experts).softmax(-1),
            _ => scores.gather(1, experts).sigmoid(),
        };
        weights = _rule.Normalises ? weights / (weights.sum(-1, keepdim: true) + _rule.Epsilon) : weights;
        return (_rule.Scale == 1 ? weights : weights * _rule.Scale).to(logits.dtype);
    }
}

/// <summary>A loss that grows with uneven use of experts (Fedus et al. 2022, equations 4 to 6), over all layers together.</summary>
internal static class RouterBalance
{
    /// <summary>The part of the loss that a configuration asks for (<c>output_router_logits</c>, <c>router_aux_loss_coef</c>), or null.</summary>
    /// <param name="config">The configuration.</param>
    /// <param name="logits">Scores of each layer's router, [rows · length, experts], known to the tape.</param>
    /// <param name="context">The forward pass; padding counts for nothing.</param>
    public static Tensor? Loss(ModelConfig config, IReadOnlyList<Tensor> logits, ForwardContext context)
    {
        if (logits.Count == 0 || config.Boolean("output_router_logits") != true)
        {
            return null;
        }

        var (chosen, factor) = (config.Size("num_experts_per_tok", 2), config.Number("router_aux_loss_coef") ?? 0.001);
        var mask = context.AttentionMask is { } all ? all.narrow(1, all.size(1) - context.Length, context.Length).reshape(-1) : null;
        return context.Tape is { } tape
            ? tape.Autograd(inputs => Form(inputs, chosen, mask).mul(factor), logits, [])
            : Form(logits, chosen, mask).mul(factor);
    }

    private static Tensor Form(IReadOnlyList<Tensor> logits, long chosen, Tensor? mask)
    {
        var device = logits[0].device;
        var experts = logits[0].size(1);
        var tokens = mask is null ? ones([logits[0].size(0)], ScalarType.Float32, device) : mask.to(device).to(ScalarType.Float32);
        var used = zeros([experts], ScalarType.Float32, device);
        var probable = used;
        foreach (var layer in logits)
        {
            var shares = layer.to(ScalarType.Float32).softmax(-1);
            var best = shares.detach().topk((int)chosen, -1).indexes;
            used = used + zeros([tokens.size(0), experts], ScalarType.Float32, device).scatter_(1, best, ones_like(best, ScalarType.Float32)).mul(tokens.unsqueeze(1)).sum(dim: 0);
            probable = probable + (shares * tokens.unsqueeze(1)).sum(dim: 0);
        }

        var count = tokens.sum() * logits.Count;
        return (used / count * (probable / count)).sum() * experts;
    }
}
