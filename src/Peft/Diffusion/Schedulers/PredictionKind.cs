using static TorchSharp.torch;

namespace Peft.Diffusion.Schedulers;

/// <summary>What a diffusion model predicts of a noised sample x = α · original + σ · noise (<c>prediction_type</c>).</summary>
public enum PredictionKind
{
    /// <summary>The noise.</summary>
    Epsilon,

    /// <summary>α · noise - σ · original (Salimans and Ho 2022).</summary>
    Velocity,

    /// <summary>The original.</summary>
    Sample,
}

/// <summary>From what a model predicts to the original and the noise.</summary>
internal static class Predictions
{
    /// <summary>The original that a prediction implies.</summary>
    public static Tensor Original(this PredictionKind kind, Tensor output, Tensor sample, double alpha, double sigma) => kind switch
    {
        PredictionKind.Epsilon => Terms.Sum((1 / alpha, sample), (-sigma / alpha, output)),
        PredictionKind.Velocity => Terms.Sum((alpha, sample), (-sigma, output)),
        _ => output,
    };

    /// <summary>The noise that a prediction implies.</summary>
    public static Tensor Noise(this PredictionKind kind, Tensor output, Tensor sample, double alpha, double sigma) => kind switch
    {
        PredictionKind.Epsilon => output,
        PredictionKind.Velocity => Terms.Sum((alpha, output), (sigma, sample)),
        _ => Terms.Sum((1 / sigma, sample), (-alpha / sigma, output)),
    };
}

/// <summary>Sums of tensors with weights, of which solvers consist.</summary>
internal static class Terms
{
    /// <summary>Σ weight · tensor; a term of weight 0 is left out, whatever its tensor holds.</summary>
    public static Tensor Sum(params ReadOnlySpan<(double Weight, Tensor Value)> terms)
    {
        Tensor? sum = null;
        foreach (var (weight, value) in terms)
        {
            if (weight != 0)
            {
                sum = sum is null ? value.mul(weight) : sum.add(value, weight);
            }
        }

        return sum ?? terms[0].Value.mul(0.0);
    }
}
