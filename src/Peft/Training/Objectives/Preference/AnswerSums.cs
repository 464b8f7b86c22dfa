using Peft.Training.Data;
using static TorchSharp.torch;

namespace Peft.Training.Objectives.Preference;

/// <summary>What the objectives over pairs do with figures of single tokens.</summary>
internal static class AnswerSums
{
    /// <summary>1 where a token is learnt, float32 [rows, length - 1].</summary>
    /// <param name="labels">int64 [rows, length].</param>
    public static Tensor Mask(Tensor labels) => labels.narrow(1, 1, labels.size(1) - 1).ne(TrainingExample.Ignored).to(ScalarType.Float32);

    /// <summary>The rows of the chosen answers and those of the rejected ones.</summary>
    public static (Tensor Chosen, Tensor Rejected) Halves(Tensor rows)
    {
        var pairs = rows.size(0) / 2;
        return (rows.narrow(0, 0, pairs), rows.narrow(0, pairs, pairs));
    }
}
