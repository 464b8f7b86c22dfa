using Peft.Diffusion.Schedulers;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Diffusion.Training;

/// <summary>What a diffusion training computes from originals, noise and timesteps, each row at its own timestep.</summary>
public sealed class NoiseTargets
{
    private readonly float[] _signal;
    private readonly float[] _noise;

    /// <summary>Makes it for the noise levels of a training.</summary>
    /// <param name="levels">The levels.</param>
    public NoiseTargets(NoiseLevels levels)
    {
        ArgumentNullException.ThrowIfNull(levels);
        _signal = [.. levels.AlphaCumulative.Select(MathF.Sqrt)];
        _noise = [.. levels.AlphaCumulative.Select(static alpha => MathF.Sqrt(1 - alpha))];
    }

    /// <summary>Number of timesteps.</summary>
    public int Count => _signal.Length;

    /// <summary>√ᾱ · original + √(1 - ᾱ) · noise.</summary>
    /// <param name="original">[rows, …].</param>
    /// <param name="noise">Of the same shape.</param>
    /// <param name="timesteps">One for each row.</param>
    public Tensor Noisy(Tensor original, Tensor noise, IReadOnlyList<int> timesteps) =>
        Scale(_signal, timesteps, original).mul(original).add(Scale(_noise, timesteps, noise).mul(noise));

    /// <summary>√ᾱ · noise - √(1 - ᾱ) · original (Salimans and Ho 2022).</summary>
    /// <param name="original">[rows, …].</param>
    /// <param name="noise">Of the same shape.</param>
    /// <param name="timesteps">One for each row.</param>
    public Tensor Velocity(Tensor original, Tensor noise, IReadOnlyList<int> timesteps) =>
        Scale(_signal, timesteps, original).mul(noise).sub(Scale(_noise, timesteps, noise).mul(original));

    /// <summary>What a model should predict.</summary>
    /// <param name="kind">What it predicts.</param>
    /// <param name="original">[rows, …].</param>
    /// <param name="noise">Of the same shape.</param>
    /// <param name="timesteps">One for each row.</param>
    public Tensor Target(PredictionKind kind, Tensor original, Tensor noise, IReadOnlyList<int> timesteps) => kind switch
    {
        PredictionKind.Epsilon => noise,
        PredictionKind.Velocity => Velocity(original, noise, timesteps),
        _ => original,
    };

    /// <summary>ᾱ / (1 - ᾱ), the signal-to-noise ratio.</summary>
    /// <param name="timestep">The timestep.</param>
    public double SignalToNoise(int timestep) => Math.Pow((double)_signal[timestep] / _noise[timestep], 2);

    /// <summary>
    /// Weight of a row's loss under min-SNR (Hang et al. 2023): the ratio, at most <paramref name="gamma"/>, over what the prediction is of. 1 where the ratio is 0 and noise is predicted:
    /// there is nothing but noise.
    /// </summary>
    /// <param name="kind">What the model predicts.</param>
    /// <param name="timestep">The timestep.</param>
    /// <param name="gamma">The most that the ratio counts; 5 is usual.</param>
    public double MinSnrWeight(PredictionKind kind, int timestep, double gamma)
    {
        var ratio = SignalToNoise(timestep);
        var most = Math.Min(ratio, gamma);
        return kind switch
        {
            PredictionKind.Epsilon => ratio == 0 ? 1 : most / ratio,
            PredictionKind.Velocity => most / (ratio + 1),
            _ => most,
        };
    }

    private static Tensor Scale(float[] values, IReadOnlyList<int> timesteps, Tensor like) =>
        tensor([.. timesteps.Select(timestep => values[timestep])], [timesteps.Count, .. Enumerable.Repeat(1L, (int)like.dim() - 1)], ScalarType.Float32, like.device).to(like.dtype);
}
