using Peft.Models.Layers;
using Peft.Training.Data;
using static TorchSharp.torch;
using static TorchSharp.torch.nn.functional;

namespace Peft.Training.Objectives.Preference;

/// <summary>
/// Direct preference optimisation (Rafailov et al. 2023) and the losses that followed it (<see cref="PairLosses"/>): the model learns to prefer the chosen answer
/// of a pair more than a reference does. A batch's mean is the item that a step averages over.
/// </summary>
internal sealed class DirectPreference : IObjective
{
    private readonly (Func<PairScores, Tensor> Loss, double Weight)[] _losses;
    private readonly double _beta;
    private readonly double _smoothing;
    private readonly double _temperature;
    private readonly double? _tailWeight;
    private readonly bool _isWeighted;
    private readonly Func<Tensor, Tensor> _divergence;

    /// <summary>Reads TRL's options: <c>loss_type</c> (one or several), <c>loss_weights</c>, <c>beta</c>, <c>label_smoothing</c>, <c>f_divergence_type</c>, <c>f_alpha_divergence_coef</c>, <c>ld_alpha</c>, <c>discopop_tau</c>, <c>use_weighting</c>.</summary>
    public DirectPreference(NamedOptions options)
    {
        var names = options.Words("loss_type") ?? ["sigmoid"];
        var weights = options.Numbers("loss_weights") ?? [.. names.Select(static _ => 1.0)];
        _beta = options.Number("beta") ?? 0.1;
        _smoothing = options.Number("label_smoothing") ?? 0;
        _temperature = options.Number("discopop_tau") ?? 0.05;
        _tailWeight = options.Number("ld_alpha");
        _isWeighted = options.Flag("use_weighting") ?? false;
        _divergence = Divergence(options);
        options.Require(names.Count > 0 && names.All(PairLosses.ByName.ContainsKey), "loss_type", $"of {string.Join(", ", PairLosses.ByName.Keys)}");
        options.Require(weights.Count == names.Count, "loss_weights", "a number for each loss");
        options.Require(_beta > 0, "beta", "more than 0");
        options.Require(_smoothing is >= 0 and < 0.5, "label_smoothing", "at least 0 and below 0.5");
        options.Require(_smoothing > 0 || !names.Contains("exo_pair"), "label_smoothing", "more than 0 for exo_pair");
        _losses = [.. names.Zip(weights, static (name, weight) => (PairLosses.ByName[name], weight))];
    }

    /// <inheritdoc/>
    public string Name => "dpo";

    /// <inheritdoc/>
    public ExampleKind ExampleKind => ExampleKind.Pair;

    /// <inheritdoc/>
    public bool NeedsReference => true;

    /// <inheritdoc/>
    public long Items(TrainingBatch batch) => 1;

    /// <inheritdoc/>
    public Tensor Loss(ObjectivePass pass)
    {
        var batch = pass.Rows<PairBatch>();
        using var scope = NewDisposeScope();
        var reference = pass.ReferenceLosses();
        var learnt = AnswerSums.Mask(batch.Labels);
        using var concentration = new TokenStatistic(static (logits, _) => logits.mul(2).logsumexp(1).sub_(logits.logsumexp(1).mul_(2)));
        var policy = _isWeighted ? pass.Losses(concentration) : pass.Losses();
        var weights = _isWeighted ? PairWeights(policy, concentration.Values, learnt) : null;
        return pass.Formula(inputs => Form(pass, inputs[0].neg(), inputs[1].neg(), learnt, weights), policy, reference).MoveToOuterDisposeScope();
    }

    /// <summary>How far a log-ratio counts under each f-divergence (Wang et al. 2024): f' of the ratio, but for a constant.</summary>
    private static Func<Tensor, Tensor> Divergence(NamedOptions options)
    {
        var alpha = options.Number("f_alpha_divergence_coef") ?? 0.5;
        return options.Choice("f_divergence_type", "reverse_kl", "forward_kl", "js_divergence", "alpha_divergence") switch
        {
            "forward_kl" => static ratio => ratio.neg().exp().neg(),
            "js_divergence" => static ratio => logsigmoid(ratio),
            "alpha_divergence" when Math.Abs(alpha - 1) > 1e-6 => ratio => ratio.mul(alpha - 1).exp().div(alpha - 1),
            _ => static ratio => ratio,
        };
    }

    private Tensor Form(ObjectivePass pass, Tensor policy, Tensor reference, Tensor learnt, Tensor? pairWeights)
    {
        var tokenWeights = TokenWeights(learnt);
        var (chosen, rejected) = AnswerSums.Halves(policy.mul(tokenWeights).sum(1));
        var (referenceChosen, referenceRejected) = AnswerSums.Halves(reference.mul(tokenWeights).sum(1));
        var (chosenLength, rejectedLength) = AnswerSums.Halves(learnt.sum(1).clamp(min: 1));
        var (chosenRatio, rejectedRatio) = (chosen.sub(referenceChosen), rejected.sub(referenceRejected));
        var scores = new PairScores(_divergence(chosenRatio), _divergence(rejectedRatio))
        {
            ChosenRatio = chosenRatio,
            RejectedRatio = rejectedRatio,
            Preference = chosen.sub(rejected),
            ReferencePreference = referenceChosen.sub(referenceRejected),
            ChosenLength = chosenLength,
            RejectedLength = rejectedLength,
            ChosenLoss = AnswerSums.Halves(policy).Chosen.sum().neg().div(chosenLength.sum()),
            Beta = _beta,
            Smoothing = _smoothing,
            Temperature = _temperature,
        };
        PreferenceMetrics.Report(pass, chosen, rejected, chosenRatio.mul(_beta), rejectedRatio.mul(_beta));
        Tensor? total = null;
        foreach (var (loss, weight) in _losses)
        {
            var each = loss(scores);
            var term = (pairWeights is null ? each : each.mul(pairWeights)).mean().mul(weight / (pass.Divisor ?? 1));
            total = total is null ? term : total.add(term);
        }

        return total!;
    }

    /// <summary>What each token counts: 1, or <c>ld_alpha</c> beyond the length that both answers reach (Liu et al. 2024).</summary>
    private Tensor TokenWeights(Tensor learnt)
    {
        if (_tailWeight is not { } tail)
        {
            return learnt;
        }

        var (chosen, rejected) = AnswerSums.Halves(learnt.sum(1));
        var shared = chosen.minimum(rejected).repeat(2).unsqueeze(1);
        return learnt.mul(learnt.cumsum(1).gt(shared).to(ScalarType.Float32).mul(tail - 1).add(1));
    }

    /// <summary>
    /// WPO (Zhou et al. 2024): how likely the model itself is to give both answers, each token relative to how concentrated the distribution is there; at most 1.
    /// </summary>
    private static Tensor PairWeights(Tensor policy, Tensor concentration, Tensor learnt)
    {
        var mean = policy.neg().sub(concentration).mul(learnt).sum(1).div(learnt.sum(1).clamp(min: 1));
        var (chosen, rejected) = AnswerSums.Halves(mean);
        return chosen.add(rejected).exp().clamp(max: 1);
    }
}
