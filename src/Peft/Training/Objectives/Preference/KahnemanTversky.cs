using Peft.Training.Data;
using static TorchSharp.torch;

namespace Peft.Training.Objectives.Preference;

/// <summary>
/// Kahneman-Tversky optimisation (Ethayarajh et al. 2024): answers that are each good or bad, no pairs. Good ones become more likely and bad ones less than under
/// a reference, counted from how far the model has moved on the whole; or, as <c>apo_zero_unpaired</c> (D'Oosterlinck et al. 2024), from zero.
/// </summary>
internal sealed class KahnemanTversky : IObjective
{
    /// <summary>Where gains and losses are counted from: an estimate of the divergence, or zero.</summary>
    public static readonly string[] Losses = ["kto", "apo_zero_unpaired"];

    private readonly double _beta;
    private readonly double _desirableWeight;
    private readonly double _undesirableWeight;
    private readonly bool _countsFromDivergence;

    /// <summary>Reads TRL's options: <c>loss_type</c> (<c>kto</c>, <c>apo_zero_unpaired</c>), <c>beta</c>, <c>desirable_weight</c>, <c>undesirable_weight</c>.</summary>
    public KahnemanTversky(NamedOptions options)
    {
        _countsFromDivergence = options.Choice("loss_type", Losses) == Losses[0];
        _beta = options.Number("beta") ?? 0.1;
        _desirableWeight = options.Number("desirable_weight") ?? 1;
        _undesirableWeight = options.Number("undesirable_weight") ?? 1;
        options.Require(_beta > 0, "beta", "more than 0");
    }

    /// <inheritdoc/>
    public string Name => "kto";

    /// <inheritdoc/>
    public ExampleKind ExampleKind => ExampleKind.Judged;

    /// <inheritdoc/>
    public bool NeedsReference => true;

    /// <inheritdoc/>
    public long Items(TrainingBatch batch) => 1;

    /// <inheritdoc/>
    public Tensor Loss(ObjectivePass pass)
    {
        var batch = pass.Rows<JudgedBatch>();
        using var scope = NewDisposeScope();
        var start = Start(pass, batch);
        var reference = pass.ReferenceLosses();
        var signs = tensor([.. batch.Desirable.Select(static good => good ? 1f : -1f)], ScalarType.Float32, batch.InputIds.device);
        var weights = tensor(
            [.. batch.Desirable.Select(good => (float)(good ? _desirableWeight : _undesirableWeight))], ScalarType.Float32, batch.InputIds.device);
        return pass.Formula(
            inputs =>
            {
                var policy = inputs[0].sum(1).neg();
                var ratio = policy.add(inputs[1].sum(1));
                Report(pass, signs, policy, ratio);
                return ratio.sub(start).mul(signs).mul(-_beta).sigmoid().mul(weights).mean().div(pass.Divisor ?? 1);
            },
            pass.Losses(),
            reference).MoveToOuterDisposeScope();
    }

    /// <summary>From where gains and losses are counted: an estimate of the divergence from the reference on answers to other prompts, which isn't learnt from.</summary>
    private Tensor Start(ObjectivePass pass, JudgedBatch batch)
    {
        if (!_countsFromDivergence || batch.Mismatched is not { } mismatched)
        {
            return zeros([], ScalarType.Float32, batch.InputIds.device);
        }

        var reference = pass.ReferenceLosses(mismatched).sum(1);
        var start = reference.sub(pass.ConstantLosses(mismatched).sum(1)).mean().clamp(min: 0);
        pass.Report("kl", start);
        return start;
    }

    private void Report(ObjectivePass pass, Tensor signs, Tensor policy, Tensor ratio)
    {
        using var noGrad = no_grad();
        var good = signs.gt(0).to(ScalarType.Float32);
        var count = pass.Rows<JudgedBatch>().Desirable.Count(static desirable => desirable);
        Report("chosen", good, count);
        Report("rejected", good.neg().add(1), signs.size(0) - count);

        void Report(string which, Tensor mask, long rows)
        {
            pass.Report($"logps/{which}", policy.mul(mask).sum(), rows);
            pass.Report($"rewards/{which}", ratio.mul(mask).sum().mul(_beta), rows);
        }
    }
}
