using Peft.Models.Heads;
using Peft.Training.Data;
using static TorchSharp.torch;
using static TorchSharp.torch.nn.functional;

namespace Peft.Training.Objectives.Preference;

/// <summary>
/// A reward model (Bradley and Terry 1952; Ouyang et al. 2022): a model with one score a row learns to score the chosen answer of a pair higher, by a margin
/// where the data has one; <c>center_rewards_coefficient</c> keeps the mean of scores near 0 (Eisenstein et al. 2023).
/// </summary>
internal sealed class RewardModelling : IObjective
{
    private readonly double _centring;

    /// <summary>Reads TRL's option <c>center_rewards_coefficient</c>.</summary>
    public RewardModelling(NamedOptions options) => _centring = options.Number("center_rewards_coefficient") ?? 0;

    /// <inheritdoc/>
    public string Name => "reward";

    /// <inheritdoc/>
    public ExampleKind ExampleKind => ExampleKind.Pair;

    /// <inheritdoc/>
    public long Items(TrainingBatch batch) => 1;

    /// <inheritdoc/>
    public Tensor Loss(ObjectivePass pass)
    {
        var batch = pass.Rows<PairBatch>();
        var model = pass.Head<SequenceClassificationModel>("a model that scores a row", "a head for one label (num_labels 1), such as LlamaForSequenceClassification");
        var scores = model.Logits(model.Forward(batch.InputIds, pass.Context), pass.Context);
        return pass.Formula(inputs => Form(pass, inputs[0].to(ScalarType.Float32).squeeze(-1), batch.Margins), scores);
    }

    private Tensor Form(ObjectivePass pass, Tensor scores, Tensor? margins)
    {
        var (chosen, rejected) = AnswerSums.Halves(scores);
        var difference = chosen.sub(rejected);
        Report(pass, scores, difference);
        var loss = logsigmoid(margins is null ? difference : difference.sub(margins)).mean().neg();
        loss = _centring == 0 ? loss : loss.add(chosen.add(rejected).square().mean().mul(_centring));
        return loss.div(pass.Divisor ?? 1);
    }

    private static void Report(ObjectivePass pass, Tensor scores, Tensor difference)
    {
        using var noGrad = no_grad();
        pass.Report("accuracy", difference.gt(0).to(ScalarType.Float32).sum(), difference.size(0));
        pass.Report("margin", difference.sum(), difference.size(0));
        pass.Report("mean_reward", scores.sum(), scores.size(0));
        pass.Report("min_reward", scores.min());
        pass.Report("max_reward", scores.max());
    }
}
