using System.Numerics.Tensors;
using Peft.Tokenization;

namespace Peft.Generation.LogitsProcessors;

/// <summary>Rules that keep only part of the distribution before a token is drawn from it; a search needs more than one to be left.</summary>
internal static class Truncation
{
    // What top-H looks at, as in transformers: tokens beyond the hundred likeliest are dropped.
    private const int TopHCandidates = 100;

    public static LogitsProcessor Temperature(float temperature) => (_, _, scores) => TensorPrimitives.Divide(scores, temperature, scores);

    public static LogitsProcessor TopK(int k) => (_, _, scores) =>
    {
        if (k < scores.Length)
        {
            var sorted = scores.ToArray();
            sorted.AsSpan().Sort();
            RemoveBelow(scores, scores, sorted[^k]);
        }
    };

    public static LogitsProcessor TopP(double p, int atLeast = 1) => (_, _, scores) =>
    {
        var order = AscendingOrder(scores);
        var probabilities = Softmax(scores);
        var cumulative = 0f;
        var limit = (float)(1 - p);
        for (var i = 0; i < order.Length - atLeast; i++)
        {
            cumulative += probabilities[order[i]];
            if (cumulative > limit)
            {
                break;
            }

            scores[order[i]] = float.NegativeInfinity;
        }
    };

    public static LogitsProcessor MinP(float fraction, int atLeast = 1) => (_, _, scores) =>
    {
        var probabilities = Softmax(scores);
        RemoveUnlikely(scores, probabilities, fraction * TensorPrimitives.Max<float>(probabilities), atLeast);
    };

    public static LogitsProcessor Typical(double mass, int atLeast = 1) => (_, _, scores) =>
    {
        var logProbabilities = LogSoftmax(scores);
        var probabilities = Softmax(scores);
        var entropy = Entropy(probabilities, logProbabilities);
        var distance = Array.ConvertAll(logProbabilities, value => MathF.Abs(-value - entropy));
        var order = AscendingOrder(distance);
        var cumulative = 0f;
        var last = 0;
        while (last < order.Length - 1 && (cumulative += probabilities[order[last]]) < mass)
        {
            last++;
        }

        var limit = distance[order[last]];
        var kept = order.AsSpan(0, Math.Min(atLeast, order.Length));
        for (var i = 0; i < scores.Length; i++)
        {
            if (distance[i] > limit && !kept.Contains(i))
            {
                scores[i] = float.NegativeInfinity;
            }
        }
    };

    public static LogitsProcessor Epsilon(float epsilon, int atLeast = 1) => (_, _, scores) => RemoveUnlikely(scores, Softmax(scores), epsilon, atLeast);

    public static LogitsProcessor Eta(double epsilon, int atLeast = 1) => (_, _, scores) =>
    {
        var probabilities = Softmax(scores);
        var entropy = Entropy(probabilities, LogSoftmax(scores));
        RemoveUnlikely(scores, probabilities, (float)Math.Min(epsilon, Math.Sqrt(epsilon) * Math.Exp(-entropy)), atLeast);
    };

    public static LogitsProcessor TopH(double share) => (_, _, scores) =>
    {
        var order = AscendingOrder(scores);
        var candidates = order.Reverse().Take(TopHCandidates).ToArray();
        var top = Array.ConvertAll(candidates, Picker(scores));
        var probabilities = Softmax(top);
        var logProbabilities = LogSoftmax(top);
        var limit = Entropy(probabilities, logProbabilities) * share;
        var kept = 0;
        for (var cumulative = 0.0; kept < candidates.Length; kept++)
        {
            cumulative -= probabilities[kept] > 0 ? (double)probabilities[kept] * logProbabilities[kept] : 0;
            if (cumulative > limit)
            {
                break;
            }
        }

        kept = Math.Max(1, kept);
        var keptScores = top[..kept];
        scores.Fill(float.NegativeInfinity);
        for (var i = 0; i < kept; i++)
        {
            scores[candidates[i]] = keptScores[i];
        }
    };

    public static void Renormalize(ReadOnlySpan<int> ids, int added, Span<float> scores) => LogSoftmax(scores).CopyTo(scores);

    /// <summary>Softmax in single precision, as transformers computes it.</summary>
    public static float[] Softmax(ReadOnlySpan<float> scores)
    {
        var result = new float[scores.Length];
        TensorPrimitives.Subtract(scores, TensorPrimitives.Max(scores), result);
        TensorPrimitives.Exp(result, result);
        TensorPrimitives.Divide(result, TensorPrimitives.Sum<float>(result), result);
        return result;
    }

    private static float[] LogSoftmax(ReadOnlySpan<float> scores)
    {
        var result = new float[scores.Length];
        TensorPrimitives.Subtract(scores, TensorPrimitives.Max(scores), result);
        var exponentials = new float[scores.Length];
        TensorPrimitives.Exp(result, exponentials);
        TensorPrimitives.Subtract(result, MathF.Log(TensorPrimitives.Sum<float>(exponentials)), result);
        return result;
    }

    private static float Entropy(float[] probabilities, float[] logProbabilities)
    {
        var sum = 0.0;
        for (var i = 0; i < probabilities.Length; i++)
        {
            sum -= probabilities[i] > 0 ? (double)probabilities[i] * logProbabilities[i] : 0;
        }

        return (float)sum;
    }

    /// <summary>Indices in ascending order of value; of equal values the lower index first, as transformers' stable sort has it.</summary>
    private static int[] AscendingOrder(ReadOnlySpan<float> values)
    {
        // One integer a value: its bits in an order-preserving form, then its index. Sorting these is stable and several times as fast as a comparer.
        var keys = new ulong[values.Length];
        for (var i = 0; i < keys.Length; i++)
        {
            var bits = BitConverter.SingleToUInt32Bits(values[i]);
            bits = (bits & 0x8000_0000) != 0 ? ~bits : bits | 0x8000_0000;
            keys[i] = ((ulong)bits << 32) | (uint)i;
        }

        Array.Sort(keys);
        return Array.ConvertAll(keys, static key => (int)(uint)key);
    }

    private static Converter<int, float> Picker(ReadOnlySpan<float> values)
    {
        var copy = values.ToArray();
        return index => copy[index];
    }

    private static void RemoveUnlikely(Span<float> scores, float[] probabilities, float limit, int atLeast)
    {
        var best = atLeast > 1 ? scores[AscendingOrder(scores)[^Math.Min(atLeast, scores.Length)]] : TensorPrimitives.Max<float>(scores);
        for (var i = 0; i < scores.Length; i++)
        {
            if (probabilities[i] < limit && scores[i] < best)
            {
                scores[i] = float.NegativeInfinity;
            }
        }
    }

    private static void RemoveBelow(Span<float> scores, ReadOnlySpan<float> values, float limit)
    {
        for (var i = 0; i < scores.Length; i++)
        {
            if (values[i] < limit)
            {
                scores[i] = float.NegativeInfinity;
            }
        }
    }
}
