using Peft.Generation.LogitsProcessors;
using static TorchSharp.torch;

namespace Peft.Generation;

/// <summary>
/// Draws rows' next tokens where their scores are, by the engine's operators, so that of a GPU's scores nothing but the tokens comes to the host.
/// The rules and their order are those of <see cref="Truncation"/>.
/// </summary>
internal static class DeviceSampling
{
    /// <summary>Whether options ask for no other rule than temperature, top-k, top-p and min-p.</summary>
    public static bool Serves(GenerationOptions options)
    {
        bool[] own = [options.Temperature != 1, options.TopK > 0, options.TopP < 1, options.MinP > 0, options.RenormalizeLogits];
        return options.Sample && LogitsProcessorChain.Create(options, []).Count == own.Count(static rule => rule);
    }

    /// <summary>Draws a token for each row.</summary>
    /// <param name="logits">[rows, vocabulary].</param>
    /// <param name="options">Those that <see cref="Serves"/> takes.</param>
    /// <param name="draws">A number in [0, 1) for each row.</param>
    /// <returns>int64 [rows].</returns>
    public static Tensor Draw(Tensor logits, GenerationOptions options, double[] draws)
    {
        using var scope = NewDisposeScope();
        var scores = logits.to(ScalarType.Float32, copy: true).div_(options.Temperature);
        if (options.TopK > 0 && options.TopK < scores.size(1))
        {
            var least = scores.topk(options.TopK, -1).Item1.narrow(1, options.TopK - 1, 1);
            scores.masked_fill_(scores.lt(least), double.NegativeInfinity);
        }

        if (options.TopP < 1)
        {
            var (sorted, order) = sort(scores, -1, descending: false, stable: true);
            var removed = sorted.softmax(-1).cumsum(-1).le(1 - options.TopP);
            removed.narrow(1, scores.size(1) - 1, 1).fill_(false);
            scores.masked_fill_(zeros_like(removed).scatter(1, order, removed), double.NegativeInfinity);
        }

        if (options.MinP > 0)
        {
            var probabilities = scores.softmax(-1);
            scores.masked_fill_(probabilities.lt(probabilities.amax([-1], keepdim: true).mul(options.MinP)), double.NegativeInfinity);
        }

        // The first token up to which the probabilities add up to more than the draw.
        var sums = scores.to(ScalarType.Float64).softmax(-1).cumsum(-1);
        var reached = tensor(draws, [draws.Length, 1], device: logits.device).mul(sums.narrow(1, sums.size(1) - 1, 1));
        return sums.le(reached).sum(-1).clamp_max(sums.size(1) - 1).MoveToOuterDisposeScope();
    }
}
