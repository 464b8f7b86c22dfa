using Peft.Training.Data;
using Peft.Training.Policy;
using static TorchSharp.torch;

namespace Peft.Training.Objectives.Preference;

/// <summary>
/// REINFORCE leave-one-out (Ahmadian et al. 2024), with TRL's options: an answer is compared with the mean of the others to its prompt, and becomes likelier as a whole, as far as the ratio to
/// the model that gave it stays near 1. How far the model is from the reference is taken from the reward.
/// </summary>
internal sealed class LeaveOneOut : IPolicyLoss
{
    private readonly double _below;
    private readonly double _above;
    private readonly bool _isNormalised;
    private readonly (double Low, double High)? _range;

    /// <summary>Reads TRL's options: <c>beta</c>, <c>epsilon</c>, <c>epsilon_high</c>, <c>normalize_advantages</c>, <c>reward_clip_range</c>, and those of drawing and rating.</summary>
    public LeaveOneOut(NamedOptions options)
    {
        RewardPenalty = options.Number("beta") ?? 0.05;
        _below = options.Number("epsilon") ?? 0.2;
        _above = options.Number("epsilon_high") ?? _below;
        _isNormalised = options.Flag("normalize_advantages") ?? false;
        _range = options.Pair("reward_clip_range");
        options.Require(RewardPenalty >= 0, "beta", "0 or more");
        Settings = PolicySettings.Of(options, 2);
    }

    /// <inheritdoc/>
    public string Name => "rloo";

    /// <inheritdoc/>
    public ExampleKind ExampleKind => ExampleKind.Rated;

    /// <inheritdoc/>
    public bool NeedsReference => RewardPenalty != 0;

    /// <inheritdoc/>
    public PolicySettings Settings { get; }

    /// <inheritdoc/>
    public double RewardPenalty { get; }

    /// <inheritdoc/>
    public double[] Advantages(double[] rewards)
    {
        double[] clipped = [.. rewards.Select(reward => _range is { } range ? Math.Clamp(reward, range.Low, range.High) : reward)];
        double[] advantages = [.. clipped.Chunk(Settings.GroupSize).SelectMany(static group => group.Select(reward => reward - ((group.Sum() - reward) / (group.Length - 1))))];
        return _isNormalised ? RewardStatistics.Normalised(advantages) : advantages;
    }

    /// <inheritdoc/>
    public long Items(TrainingBatch batch) => 1;

    /// <inheritdoc/>
    public Tensor Loss(ObjectivePass pass)
    {
        using var scope = NewDisposeScope();
        var batch = pass.Rows<RatedBatch>();
        using var entropy = IPolicyLoss.Entropy();
        var learnt = AnswerSums.Mask(batch.Labels);
        var losses = pass.Losses(entropy);
        var sampled = batch.SampledLosses?.mul(learnt) ?? losses.detach();
        pass.Report("entropy", IPolicyLoss.Mean(entropy.Values, learnt));
        return pass.Formula(inputs => Form(pass, sampled.sub(inputs[0]).mul(learnt).sum(1).exp(), batch.Advantages), losses).MoveToOuterDisposeScope();
    }

    private Tensor Form(ObjectivePass pass, Tensor ratio, Tensor advantages)
    {
        using (no_grad())
        {
            pass.Report("clip_ratio/low_mean", ratio.lt(1 - _below).logical_and(advantages.lt(0)).to(ScalarType.Float32).mean());
            pass.Report("clip_ratio/high_mean", ratio.gt(1 + _above).logical_and(advantages.gt(0)).to(ScalarType.Float32).mean());
        }

        return ratio.mul(advantages).minimum(ratio.clamp(1 - _below, 1 + _above).mul(advantages)).mean().neg().div(pass.Divisor ?? 1);
    }
}
