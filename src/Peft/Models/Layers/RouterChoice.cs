using System.Numerics.Tensors;
using Peft.Engine;
using static TorchSharp.torch;
using Tensor = TorchSharp.torch.Tensor;

namespace Peft.Models.Layers;

/// <summary>How one token's experts follow from its scores, on the processor: what <see cref="Router"/> computes by operators for many.</summary>
/// <param name="rule">How they are chosen and weighed.</param>
/// <param name="correction">Added to scores when experts are chosen, [experts]; null for nothing.</param>
internal sealed class RouterChoice(RouterRule rule, Tensor? correction)
{
    private readonly CpuRows _correction = correction is null ? default : CpuRows.Of(correction, correction.NumberOfElements);

    /// <summary>Experts a token goes to.</summary>
    public int Chosen { get; } = (int)rule.Chosen;

    /// <summary>What is added to scores.</summary>
    public Tensor? Correction => correction;

    /// <summary>The choice among scores; null where they, or what is added to them, lie where it can't be read.</summary>
    public static RouterChoice? Of(RouterRule rule, Tensor logits, Tensor? correction) =>
        CpuRows.Serves(logits) && (correction is null || CpuRows.Serves(correction)) ? new RouterChoice(rule, correction) : null;

    /// <summary>Where a token goes.</summary>
    /// <param name="logits">Scores, [1, experts].</param>
    public unsafe Routing Route(Tensor logits)
    {
        var count = logits.NumberOfElements;
        var scratch = new float[count + ScratchFloats(count)];
        var (experts, weights) = (new int[Chosen], new float[Chosen]);
        fixed (float* room = scratch)
        {
            Choose(CpuRows.Of(logits, count).Read(0, (int)count, room), room + count, experts, weights);
        }

        return new Routing(logits, tensor(weights).to(logits.dtype).unsqueeze(0), tensor(Array.ConvertAll(experts, static expert => (long)expert)).unsqueeze(0)) { Choice = this };
    }

    /// <summary>Memory for <see cref="Choose"/>.</summary>
    public static int ScratchFloats(long experts) => 2 * (int)experts;

    /// <summary>Chooses.</summary>
    /// <param name="logits">Scores, [experts].</param>
    /// <param name="scratch">As many as <see cref="ScratchFloats"/> says.</param>
    /// <param name="experts">Takes the chosen ones, in their order.</param>
    /// <param name="weights">Takes their weights.</param>
    public unsafe void Choose(ReadOnlySpan<float> logits, float* scratch, Span<int> experts, Span<float> weights)
    {
        var count = logits.Length;
        var scores = new Span<float>(scratch, count);
        var other = new Span<float>(scratch + count, count);
        logits.CopyTo(scores);
        if (rule.Scores == RouterScores.Sigmoid)
        {
            TensorPrimitives.Sigmoid(scores, scores);
        }

        if (correction is not null)
        {
            TensorPrimitives.Add(scores, _correction.Read(0, count, scratch + count), scores);
        }

        HideGroups(scores, other);
        for (var i = 0; i < experts.Length; i++)
        {
            experts[i] = Take(scores);
        }

        experts.Sort();
        Weigh(logits, other, experts, weights);
    }

    /// <summary>All groups of experts but the best.</summary>
    private void HideGroups(Span<float> scores, Span<float> scratch)
    {
        if (rule.Groups == 1)
        {
            return;
        }

        var (groups, size) = ((int)rule.Groups, scores.Length / (int)rule.Groups);
        var sums = scratch[..groups];
        for (var group = 0; group < groups; group++)
        {
            var own = scores.Slice(group * size, size);
            var best = TensorPrimitives.IndexOfMax<float>(own);
            sums[group] = own[best] + (size == 1 ? 0 : MathF.Max(Largest(own[..best]), Largest(own[(best + 1)..])));
        }

        for (var group = 0; group < rule.ChosenGroups; group++)
        {
            sums[TensorPrimitives.IndexOfMax<float>(sums)] = float.NegativeInfinity;
        }

        for (var group = 0; group < groups; group++)
        {
            if (!float.IsNegativeInfinity(sums[group]))
            {
                scores.Slice(group * size, size).Fill(float.NegativeInfinity);
            }
        }

        static float Largest(ReadOnlySpan<float> values) => values.Length == 0 ? float.NegativeInfinity : TensorPrimitives.Max(values);
    }

    private static int Take(Span<float> scores)
    {
        var best = TensorPrimitives.IndexOfMax<float>(scores);
        scores[best] = float.NegativeInfinity;
        return best;
    }

    private void Weigh(ReadOnlySpan<float> logits, Span<float> scratch, ReadOnlySpan<int> experts, Span<float> weights)
    {
        var source = logits;
        if (rule.Scores == RouterScores.Softmax)
        {
            logits.CopyTo(scratch);
            AttentionKernels.Softmax(scratch);
            source = scratch;
        }

        for (var i = 0; i < experts.Length; i++)
        {
            weights[i] = source[experts[i]];
        }

        if (rule.Scores == RouterScores.SoftmaxOfChosen)
        {
            AttentionKernels.Softmax(weights);
        }
        else if (rule.Scores == RouterScores.Sigmoid)
        {
            TensorPrimitives.Sigmoid(weights, weights);
        }

        if (rule.Normalises)
        {
            TensorPrimitives.Divide(weights, TensorPrimitives.Sum(weights) + (float)rule.Epsilon, weights);
        }

        TensorPrimitives.Multiply(weights, (float)rule.Scale, weights);
    }
}
