using static TorchSharp.torch;

namespace Peft.Training.Objectives.Preference;

/// <summary>What the objectives over pairs state beside their loss, under TRL's names.</summary>
internal static class PreferenceMetrics
{
    /// <summary>States log-probabilities and rewards.</summary>
    /// <param name="pass">Takes them.</param>
    /// <param name="chosen">Log-probabilities of the chosen answers, [pairs].</param>
    /// <param name="rejected">Those of the rejected answers.</param>
    /// <param name="chosenRewards">Rewards that the model implies, [pairs].</param>
    /// <param name="rejectedRewards">Those of the rejected answers.</param>
    public static void Report(ObjectivePass pass, Tensor chosen, Tensor rejected, Tensor chosenRewards, Tensor rejectedRewards)
    {
        using var noGrad = no_grad();
        var pairs = chosen.size(0);
        pass.Report("logps/chosen", chosen.sum(), pairs);
        pass.Report("logps/rejected", rejected.sum(), pairs);
        pass.Report("rewards/chosen", chosenRewards.sum(), pairs);
        pass.Report("rewards/rejected", rejectedRewards.sum(), pairs);
        pass.Report("rewards/margins", chosenRewards.sub(rejectedRewards).sum(), pairs);
        pass.Report("rewards/accuracies", chosenRewards.gt(rejectedRewards).to(ScalarType.Float32).sum(), pairs);
    }
}
