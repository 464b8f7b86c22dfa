using static TorchSharp.torch;

namespace Peft.Models.Layers;

/// <summary>Attention with linear biases: scores fall with the distance, for each head at a slope of its own (Press, Smith and Lewis 2022).</summary>
/// <param name="heads">Number of heads.</param>
internal sealed class Alibi(long heads)
{
    /// <summary>Multiplies the biases.</summary>
    public double Scale { get; init; } = 1;

    /// <summary>Whether slopes and biases are rounded to bfloat16, as in the runs that Falcon was trained in.</summary>
    public bool Rounds { get; init; }

    /// <summary>
    /// What is added to scores: slope · key's position, which differs from -slope · distance by a number for each query, and so by nothing
    /// after the softmax.
    /// </summary>
    /// <param name="context">The forward pass; in training its tape knows the result.</param>
    /// <param name="type">Type of the hidden states.</param>
    /// <param name="device">Device of the hidden states.</param>
    /// <returns>[rows or 1, heads, 1, keys].</returns>
    public Tensor Bias(ForwardContext context, ScalarType type, Device device)
    {
        using var scope = NewDisposeScope();
        var inner = Rounds ? ScalarType.BFloat16 : ScalarType.Float32;
        var slopes = tensor(Slopes(heads), ScalarType.Float32, device).to(inner).view(1, -1, 1, 1);
        var bias = slopes.mul(Positions(context, device).to(inner).unsqueeze(1).unsqueeze(1)).to(type);
        bias = Scale == 1 ? bias : bias.mul(Scale);
        context.Tape?.AddRoot(bias);
        context.Cache?.Steps.Give(bias);
        return bias.MoveToOuterDisposeScope();
    }

    /// <summary>Powers of 2^(-8 / n) for n heads; where n is no power of two, those of the next smaller one and every second of the next larger one.</summary>
    internal static float[] Slopes(long heads)
    {
        var whole = (long)System.Numerics.BitOperations.RoundUpToPowerOf2((ulong)heads + 1) / 2;
        return [.. Powers(whole, 1).Take((int)whole), .. Powers(2 * whole, 2).Take((int)(heads - whole))];

        static IEnumerable<float> Powers(long count, int step)
        {
            for (long power = 1; ; power += step)
            {
                yield return (float)Math.Pow(2, -8.0 * power / count);
            }
        }
    }

    // Packed documents begin anew; otherwise keys are counted over what is no padding.
    private static Tensor Positions(ForwardContext context, Device device) =>
        context is { Packing: not null, Positions: { } own } && own.size(1) == context.Start + context.Length ? own.to(device)
        : context.AttentionMask is { } mask ? LearnedPositions.Counted(mask.to(device)).clamp_min_(0)
        : arange(context.Start + context.Length, ScalarType.Int64, device).unsqueeze(0);
}
