using Peft.Training.Data;
using Peft.Training.Policy;
using static TorchSharp.torch;

namespace Peft.Training.Objectives.Preference;

/// <summary>
/// Group relative policy optimisation (Shao et al. 2024) and its relatives, with TRL's options: answers that the model gave itself become likelier the better they are beside others to the
/// same prompt, as far as the ratio to the model that gave them stays near 1. The batches bring the answers and what they are worth.
/// </summary>
internal sealed class GroupRelativePolicy : IPolicyLoss
{
    /// <summary>The losses by TRL's names, its default first.</summary>
    public static readonly IReadOnlyList<string> Losses = ["dapo", "grpo", "bnpo", "dr_grpo", "cispo", "sapo", "luspo"];

    private readonly string _loss;
    private readonly bool _isBySequence;
    private readonly double _beta;
    private readonly double _below;
    private readonly double _above;
    private readonly double? _limit;
    private readonly bool _correctsDivergence;
    private readonly (double Positive, double Negative) _softness;

    /// <summary>Reads TRL's options; those of drawing and rating say how <see cref="PolicyObjective"/> comes by its batches.</summary>
    public GroupRelativePolicy(NamedOptions options)
    {
        _loss = options.Choice("loss_type", [.. Losses]);
        _isBySequence = options.Choice("importance_sampling_level", "token", "sequence") == "sequence";
        _beta = options.Number("beta") ?? 0;
        _below = options.Number("epsilon") ?? 0.2;
        _above = options.Number("epsilon_high") ?? _below;
        _limit = options.Number("delta");
        _correctsDivergence = options.Flag("use_bias_correction_kl") ?? true;
        _softness = (options.Number("sapo_temperature_pos") ?? 1, options.Number("sapo_temperature_neg") ?? 1.05);
        Settings = PolicySettings.Of(options, 8);
    }

    /// <inheritdoc/>
    public string Name => "grpo";

    /// <inheritdoc/>
    public ExampleKind ExampleKind => ExampleKind.Rated;

    /// <inheritdoc/>
    public bool NeedsReference => _beta != 0;

    /// <inheritdoc/>
    public PolicySettings Settings { get; }

    /// <inheritdoc/>
    public double[] Advantages(double[] rewards) => RewardStatistics.Relative(rewards, Settings.GroupSize, Settings.Scale);

    /// <inheritdoc/>
    public long Items(TrainingBatch batch) => SumsTokens(batch) ? batch.TargetCount : 1;

    /// <inheritdoc/>
    public Tensor Loss(ObjectivePass pass)
    {
        using var scope = NewDisposeScope();
        var batch = pass.Rows<RatedBatch>();
        using var entropy = IPolicyLoss.Entropy();
        var learnt = AnswerSums.Mask(batch.Labels);
        var losses = pass.Losses(entropy);
        var sampled = batch.SampledLosses?.mul(learnt) ?? losses.detach();
        var reference = _beta == 0 ? null : batch.ReferenceLosses?.mul(learnt) ?? pass.ReferenceLosses();
        pass.Report("entropy", IPolicyLoss.Mean(entropy.Values, learnt));
        return pass.Formula(inputs => Form(pass, inputs[0].neg(), sampled.neg(), reference?.neg(), learnt, batch.Advantages.unsqueeze(1)), losses).MoveToOuterDisposeScope();
    }

    private Tensor Form(ObjectivePass pass, Tensor policy, Tensor sampled, Tensor? reference, Tensor learnt, Tensor advantages)
    {
        var difference = policy.sub(sampled);
        var ratio = (_isBySequence ? difference.mul(learnt).sum(1, keepdim: true).div(learnt.sum(1, keepdim: true).clamp_min(1)) : difference).exp();
        var each = Gain(pass, policy, ratio, learnt, advantages).neg();
        if (reference is not null)
        {
            var apart = reference.sub(policy);
            var divergence = apart.exp().sub(apart).sub(1);
            divergence = _correctsDivergence ? divergence.mul(ratio) : divergence;
            pass.Report("kl", IPolicyLoss.Mean(divergence.detach(), learnt));
            each = each.add(divergence.mul(_beta));
        }

        return SumsTokens(pass.Batch) && pass.Divisor is { } tokens ? each.mul(learnt).sum().div(tokens) : Mean(each.mul(learnt), learnt).div(pass.Divisor ?? 1);
    }

    /// <summary>What is made large, of each token.</summary>
    private Tensor Gain(ObjectivePass pass, Tensor policy, Tensor ratio, Tensor learnt, Tensor advantages)
    {
        if (_loss == "cispo")
        {
            return ratio.clamp_max(_above).detach().mul(advantages).mul(policy);
        }

        if (_loss == "sapo")
        {
            var softness = where(advantages.gt(0), full_like(advantages, _softness.Positive), full_like(advantages, _softness.Negative));
            return ratio.sub(1).mul(softness).sigmoid().mul(4).div(softness).mul(advantages);
        }

        Report(pass, ratio.detach(), learnt, advantages);
        var free = _limit is { } limit ? ratio.clamp_max(limit) : ratio;
        return free.mul(advantages).minimum(ratio.clamp(1 - _below, 1 + _above).mul(advantages));
    }

    private void Report(ObjectivePass pass, Tensor ratio, Tensor learnt, Tensor advantages)
    {
        using var noGrad = no_grad();
        var low = ratio.lt(1 - _below).logical_and(advantages.lt(0));
        var high = ratio.gt(1 + _above).logical_and(advantages.gt(0));
        Say("low_mean", low);
        Say("high_mean", high);
        Say("region_mean", low.logical_or(high));

        // A ratio of a whole answer counts once, one of a token as often as there are tokens.
        void Say(string name, Tensor clipped) => pass.Report(
            "clip_ratio/" + name, clipped.size(1) == 1 ? clipped.to(ScalarType.Float32).mean() : IPolicyLoss.Mean(clipped.to(ScalarType.Float32), learnt));
    }

    /// <summary>Whether a step averages over the tokens of all its micro batches, and not over the batches' own means. A batch that doesn't say how many tokens it has counts by itself.</summary>
    private bool SumsTokens(TrainingBatch batch) => _loss is "dapo" or "cispo" && batch.TargetCount > 0;

    private Tensor Mean(Tensor each, Tensor learnt) => _loss switch
    {
        "grpo" or "sapo" => each.sum(1).div(learnt.sum(1).clamp_min(1)).mean(),
        "dr_grpo" => each.sum().div(each.size(0) * Settings.MaxLength),
        "luspo" => each.sum(1).mean(),
        _ => each.sum().div(learnt.sum().clamp_min(1)),
    };
}
