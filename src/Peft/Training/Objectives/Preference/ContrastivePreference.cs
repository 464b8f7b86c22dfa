using Peft.Training.Data;
using static TorchSharp.torch;
using static TorchSharp.torch.nn.functional;

namespace Peft.Training.Objectives.Preference;

/// <summary>
/// Contrastive preference optimisation (Xu et al. 2024) and SimPO (Meng et al. 2024): a loss over pairs without a reference, and language modelling of the
/// chosen answers beside it. SimPO proper is <c>loss_type</c> <c>simpo</c> with <c>cpo_alpha</c> 0; with <c>alpha</c> it is AlphaPO (Gupta et al. 2025).
/// </summary>
internal sealed class ContrastivePreference : IObjective
{
    /// <summary>The losses over pairs.</summary>
    public static readonly string[] Losses = ["sigmoid", "hinge", "ipo", "simpo"];

    private readonly string _kind;
    private readonly double _beta;
    private readonly double _smoothing;
    private readonly double _likelihoodWeight;
    private readonly double _margin;
    private readonly double _alpha;

    /// <summary>Reads TRL's options: <c>loss_type</c> (<c>sigmoid</c>, <c>hinge</c>, <c>ipo</c>, <c>simpo</c>), <c>beta</c>, <c>label_smoothing</c>, <c>cpo_alpha</c>, <c>simpo_gamma</c>, <c>alpha</c>.</summary>
    public ContrastivePreference(NamedOptions options)
    {
        _kind = options.Choice("loss_type", Losses);
        _beta = options.Number("beta") ?? 0.1;
        _smoothing = options.Number("label_smoothing") ?? 0;
        _likelihoodWeight = options.Number("cpo_alpha") ?? 1;
        _margin = options.Number("simpo_gamma") ?? 0.5;
        _alpha = options.Number("alpha") ?? 0;
        options.Require(_beta > 0, "beta", "more than 0");
        options.Require(_smoothing is >= 0 and < 0.5, "label_smoothing", "at least 0 and below 0.5");
    }

    /// <inheritdoc/>
    public string Name => "cpo";

    /// <inheritdoc/>
    public ExampleKind ExampleKind => ExampleKind.Pair;

    /// <inheritdoc/>
    public long Items(TrainingBatch batch) => 1;

    /// <inheritdoc/>
    public Tensor Loss(ObjectivePass pass)
    {
        var learnt = AnswerSums.Mask(pass.Rows<PairBatch>().Labels);
        return pass.Formula(inputs => Form(pass, inputs[0].neg(), learnt), pass.Losses());
    }

    private Tensor Form(ObjectivePass pass, Tensor policy, Tensor learnt)
    {
        var lengths = learnt.sum(1).clamp(min: 1);
        var sums = policy.sum(1);
        var likelihood = AnswerSums.Halves(sums).Chosen.sum().neg().div(AnswerSums.Halves(lengths).Chosen.sum());
        var (chosen, rejected) = AnswerSums.Halves(_kind is "simpo" or "ipo" ? sums.div(lengths) : sums);
        var isTransformed = _kind == "simpo" && _alpha != 0;
        var (chosenScore, rejectedScore) = isTransformed ? (Transformed(chosen), Transformed(rejected)) : (chosen, rejected);
        var difference = chosenScore.sub(rejectedScore);
        var loss = _kind switch
        {
            "hinge" => relu(difference.mul(-_beta).add(1)),
            "ipo" => difference.sub(1 / (2 * _beta)).square(),
            "simpo" => Smoothed(difference.sub(_margin / _beta)),
            _ => Smoothed(difference),
        };
        Report(pass, chosen, rejected, chosenScore, rejectedScore, likelihood);
        return loss.mean().add(likelihood.mul(_likelihoodWeight)).div(pass.Divisor ?? 1);
    }

    private Tensor Transformed(Tensor logarithm) => logarithm.mul(-_alpha).exp().neg().add(1).div(_alpha);

    private Tensor Smoothed(Tensor difference) =>
        logsigmoid(difference.mul(_beta)).mul(_smoothing - 1).sub(logsigmoid(difference.mul(-_beta)).mul(_smoothing));

    private void Report(ObjectivePass pass, Tensor chosen, Tensor rejected, Tensor chosenScore, Tensor rejectedScore, Tensor likelihood)
    {
        using var noGrad = no_grad();
        PreferenceMetrics.Report(pass, chosen, rejected, chosenScore.mul(_beta), rejectedScore.mul(_beta));
        if (_likelihoodWeight != 0)
        {
            pass.Report("nll_loss", likelihood);
        }
    }
}
