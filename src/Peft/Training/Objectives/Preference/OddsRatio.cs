using Peft.Training.Data;
using static TorchSharp.torch;
using static TorchSharp.torch.nn.functional;

namespace Peft.Training.Objectives.Preference;

/// <summary>
/// Odds ratio preference optimisation (Hong et al. 2024): language modelling of the chosen answers, prompts included, and beside it the ratio of the odds of
/// both answers, without a reference.
/// </summary>
internal sealed class OddsRatio : IObjective
{
    private readonly double _beta;

    /// <summary>Reads TRL's option <c>beta</c> (0.1), the weight of the odds ratio.</summary>
    public OddsRatio(NamedOptions options)
    {
        _beta = options.Number("beta") ?? 0.1;
        options.Require(_beta >= 0, "beta", "0 or more");
    }

    /// <inheritdoc/>
    public string Name => "orpo";

    /// <inheritdoc/>
    public ExampleKind ExampleKind => ExampleKind.Pair;

    /// <inheritdoc/>
    public long Items(TrainingBatch batch) => 1;

    /// <inheritdoc/>
    public Tensor Loss(ObjectivePass pass)
    {
        var batch = pass.Rows<PairBatch>();
        using var scope = NewDisposeScope();
        var learnt = AnswerSums.Mask(batch.Labels);
        var chosenWhole = learnt.clone();
        var (pairs, tokens) = (batch.Pairs, batch.InputIds.size(1) - 1);
        chosenWhole.narrow(0, pairs, pairs).zero_();
        chosenWhole.narrow(0, 0, pairs).copy_(batch.AttentionMask is { } mask ? mask.narrow(0, 0, pairs).narrow(1, 1, tokens) : ones(pairs, tokens, device: batch.InputIds.device));
        return pass.Formula(inputs => Form(pass, inputs[0].neg(), learnt, chosenWhole), pass.LossesOf(Whole(batch))).MoveToOuterDisposeScope();
    }

    /// <summary>Every token of the rows is a target: the chosen answers' prompts are learnt too.</summary>
    private static TrainingBatch Whole(PairBatch batch) => batch with
    {
        Labels = batch.AttentionMask is { } mask ? batch.InputIds.masked_fill(mask.eq(0), TrainingExample.Ignored) : batch.InputIds,
    };

    private Tensor Form(ObjectivePass pass, Tensor policy, Tensor learnt, Tensor chosenWhole)
    {
        var (chosen, rejected) = AnswerSums.Halves(policy.mul(learnt).sum(1).div(learnt.sum(1).clamp(min: 1)));
        var odds = chosen.sub(rejected).sub(chosen.exp().neg().log1p()).add(rejected.exp().neg().log1p());
        var ratio = logsigmoid(odds);
        var likelihood = policy.mul(chosenWhole).sum().neg().div(chosenWhole.sum().clamp(min: 1));
        Report(pass, chosen, rejected, odds, ratio, likelihood);
        return likelihood.sub(ratio.mean().mul(_beta)).div(pass.Divisor ?? 1);
    }

    private void Report(ObjectivePass pass, Tensor chosen, Tensor rejected, Tensor odds, Tensor ratio, Tensor likelihood)
    {
        using var noGrad = no_grad();
        PreferenceMetrics.Report(pass, chosen, rejected, chosen.mul(_beta), rejected.mul(_beta));
        pass.Report("nll_loss", likelihood);
        pass.Report("log_odds_ratio", ratio.mean());
        pass.Report("log_odds_chosen", odds.mean());
    }
}
