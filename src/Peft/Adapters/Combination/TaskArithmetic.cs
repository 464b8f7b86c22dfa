using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Adapters.Combination;

/// <summary>Combines tensors of equal shape as the options say. Everything is elementwise but the choice of what pruning keeps.</summary>
internal sealed class TaskArithmetic(CombinationOptions options, Generator generator)
{
    /// <summary>What a list of tensors becomes.</summary>
    /// <param name="tensors">At least one.</param>
    /// <param name="weights">One for each.</param>
    /// <returns>In the tensors' shape and type.</returns>
    public Tensor Combine(IEnumerable<Tensor> tensors, IReadOnlyList<double> weights)
    {
        var parts = stack(tensors.Select(Prune));
        var factors = tensor(weights.Select(static weight => (float)weight).ToArray(), parts.dtype, parts.device)
            .view([weights.Count, .. Enumerable.Repeat(1L, (int)parts.dim() - 1)]);
        var weighted = parts.mul(factors);
        if (!options.Type.Elects())
        {
            return weighted.sum(dim: 0);
        }

        // Signs are elected before the weights count, so a negative weight doesn't vote against its adapter.
        var sign = parts.sign();
        var votes = options.MajoritySign == MajoritySign.Frequency ? sign.sum(dim: 0) : parts.sum(dim: 0);
        var majority = votes.ge(0).to(parts.dtype).mul(2).sub(1);
        var agree = sign.eq(majority).to(parts.dtype);
        return weighted.mul(agree).sum(dim: 0).div(agree.sum(dim: 0).clamp_(min: 1));
    }

    private Tensor Prune(Tensor values)
    {
        if (options.Density is not { } density || density >= 1)
        {
            return values;
        }

        if (options.Type.DropsAtRandom())
        {
            var kept = options.Mask?.Invoke(values).to(values.dtype) ?? Draw(values, density);
            return values.mul(kept).div_(density);
        }

        return options.Type.DropsSmall() ? values.mul(Largest(values, density)) : values;
    }

    private Tensor Draw(Tensor values, double density) =>
        empty([.. values.shape]).bernoulli_(density, generator).to(values.dtype).to(values.device);

    private static Tensor Largest(Tensor values, double density)
    {
        var kept = zeros_like(values).view(-1);
        var (_, indices) = values.abs().reshape(-1).topk((int)(density * values.numel()));
        return kept.index_fill_(0, indices, 1).view_as(values);
    }
}
