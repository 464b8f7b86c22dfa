using System.Globalization;
using static TorchSharp.torch;

namespace Peft.Training;

/// <summary>What is known of a training whose numbers are none any more, as an error: where, of which rows, and what likely led there.</summary>
internal static class Divergence
{
    /// <summary>The error of a step.</summary>
    /// <param name="step">The step, counted from 0.</param>
    /// <param name="losses">Losses of its micro batches.</param>
    /// <param name="norm">Norm of its gradients.</param>
    /// <param name="rows">Rows of each micro batch.</param>
    /// <param name="request">The training.</param>
    /// <param name="before">The steps before.</param>
    public static PeftException Of(int step, IReadOnlyList<float> losses, double norm, IReadOnlyList<IReadOnlyList<int>> rows, TrainingRequest request, IReadOnlyList<StepRecord> before)
    {
        var bad = losses.ToList().FindIndex(static loss => !float.IsFinite(loss));
        var batch = rows.Count != losses.Count ? rows.SelectMany(static each => each).ToList() : bad >= 0 ? rows[bad] : rows.Count == 1 ? rows[0] : [];
        var what = new List<string>
        {
            string.Create(CultureInfo.InvariantCulture, $"In step {step + 1} the loss is {losses.Sum(static loss => (double)loss)} and the norm of the gradients {norm}"),
        };
        if (bad >= 0 && losses.Count > 1)
        {
            what.Add(string.Create(CultureInfo.InvariantCulture, $"of its {losses.Count} batches number {bad + 1} is the first without a number"));
        }

        if (batch.Count > 0)
        {
            var shown = batch.Take(8).Select(request.Data.Describe);
            what.Add($"learnt were {string.Join("; ", shown)}{(batch.Count > 8 ? FormattableString.Invariant($" and {batch.Count - 8} more") : "")}");
        }

        what.Add(string.Create(CultureInfo.InvariantCulture, $"the weights are those of step {step}"));
        return Error($"{string.Join(", ", what)}: the training has diverged. {string.Join(" ", Causes(step, bad >= 0, request, before))}".TrimEnd());
    }

    /// <summary>The error of what is no number.</summary>
    /// <param name="what">What was found, as a sentence without its full stop.</param>
    public static PeftException Error(string what) => new("TrainingDiverged", what)
    {
        RecommendedAction = "Lower the learning rate, lengthen the warm-up, clip gradients, or compute in float32, and start again from a checkpoint.",
    };

    /// <summary>What likely led there, the likeliest first.</summary>
    private static IEnumerable<string> Causes(int step, bool lossIsBad, TrainingRequest request, IReadOnlyList<StepRecord> before)
    {
        if (request.Model.NonFiniteWarning() is { } weights)
        {
            yield return $"Likely cause: {weights}";
        }

        if (request.Model.DataType == ScalarType.Float16)
        {
            yield return "Likely cause: float16 holds no numbers above 65504; bfloat16 or float32 do.";
        }

        if (before.Count > 0 && before.Min(static record => record.Loss) is var least && before[^1].Loss > least + (0.5 * Math.Abs(least)) + 0.1)
        {
            yield return string.Create(CultureInfo.InvariantCulture, $"Likely cause: the learning rate of {before[^1].LearningRate:G3} is too high, for the loss had risen from {least:0.###} to {before[^1].Loss:0.###}.");
        }
        else if (step > 0 && before.Count > 0 && before[^1].LearningRate is var rate && rate > 1e-3)
        {
            yield return string.Create(CultureInfo.InvariantCulture, $"Likely cause: the learning rate, {rate:G3}.");
        }

        if (request.Options.MaxGradientNorm == 0 && step > 0)
        {
            yield return "Gradients aren't clipped (max_grad_norm is 0).";
        }

        if (step == 0 && lossIsBad)
        {
            yield return "Nothing had been learnt yet: it is the base's weights, the adapter that was trained further, or these rows.";
        }
    }
}
