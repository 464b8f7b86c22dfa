using static TorchSharp.torch;

namespace Peft.Models.Layers;

/// <summary>
/// A state that decays and takes up an outer product at each position, computed in chunks: within one, all positions at once; from one to
/// the next, the state alone. With a rate of learning it is the gated delta rule, S ← exp(g) S + β k (v − kᵀ exp(g) S) (Yang et al. 2024,
/// sections 3 and 4); without one it is Mamba-2's S ← exp(g) S + k v (Dao and Gu 2024, section 6). The output is qᵀ S.
/// </summary>
internal static class GatedRecurrence
{
    private const long ChunkSize = 64;

    /// <summary>Runs it in float32; autograd runs through it.</summary>
    /// <param name="q">[rows, length, heads, key size].</param>
    /// <param name="k">Of the same shape.</param>
    /// <param name="v">[rows, length, heads, value size].</param>
    /// <param name="decay">g, at most 0, [rows, length, heads].</param>
    /// <param name="rate">β, [rows, length, heads]; null for Mamba-2's rule.</param>
    /// <param name="state">S before the first position, [rows, heads, key size, value size]; null for zeros.</param>
    /// <returns>The output, [rows, length, heads, value size], and S after the last position.</returns>
    public static (Tensor Output, Tensor State) Run(Tensor q, Tensor k, Tensor v, Tensor decay, Tensor? rate, Tensor? state)
    {
        var (rows, length, heads) = (q.size(0), q.size(1), q.size(2));
        var chunk = Math.Min(ChunkSize, (long)System.Numerics.BitOperations.RoundUpToPowerOf2((ulong)length));
        var (qs, ks, vs) = (Chunks(q, chunk), Chunks(k, chunk), Chunks(v, chunk));
        var sum = Chunks(decay.unsqueeze(-1), chunk).squeeze(-1).cumsum(-1);
        var between = Between(sum, chunk);
        var attention = qs.matmul(ks.transpose(-2, -1)) * between;
        var grown = sum.exp().unsqueeze(-1);
        var values = vs;
        Tensor? read = null;
        if (rate is not null)
        {
            var rates = Chunks(rate.unsqueeze(-1), chunk);
            var system = Inverse((ks * rates).matmul(ks.transpose(-2, -1)) * between, chunk);
            values = system.matmul(vs * rates);
            read = system.matmul(ks * rates * grown);
        }

        var last = sum.narrow(-1, chunk - 1, 1);
        var (queries, keys, kept) = (qs * grown, ks * (last - sum).exp().unsqueeze(-1), last.exp().unsqueeze(-1));
        var current = state ?? zeros([rows, heads, k.size(3), v.size(3)], ScalarType.Float32, q.device);
        var outputs = new List<Tensor>();
        for (long i = 0; i < sum.size(2); i++)
        {
            var added = read is null ? values.select(2, i) : values.select(2, i) - read.select(2, i).matmul(current);
            outputs.Add(queries.select(2, i).matmul(current) + attention.select(2, i).matmul(added));
            current = (current * kept.select(2, i)) + keys.select(2, i).transpose(-2, -1).matmul(added);
        }

        var output = cat(outputs, 2).narrow(2, 0, length).transpose(1, 2);
        return (output, current);
    }

    /// <summary>[rows, length, heads, n] as [rows, heads, chunks, chunk, n] in float32, with zeros at the end.</summary>
    private static Tensor Chunks(Tensor x, long chunk)
    {
        var (rows, length, heads, width) = (x.size(0), x.size(1), x.size(2), x.size(3));
        var missing = (chunk - (length % chunk)) % chunk;
        var wide = x.to(ScalarType.Float32).transpose(1, 2);
        wide = missing == 0 ? wide : cat([wide, zeros([rows, heads, missing, width], ScalarType.Float32, x.device)], 2);
        return wide.reshape(rows, heads, -1, chunk, width);
    }

    /// <summary>How much of position j is left at position i, [.., i, j]; zero where j comes after i.</summary>
    private static Tensor Between(Tensor sum, long chunk) => (sum.unsqueeze(-1) - sum.unsqueeze(-2))
        .masked_fill(ones([chunk, chunk], ScalarType.Bool, sum.device).triu(1), double.NegativeInfinity)
        .exp();

    /// <summary>
    /// The inverse of a matrix with ones on its diagonal and <paramref name="lower"/> below it, block by block: that of [[A, 0], [C, B]] has
    /// −B⁻¹ C A⁻¹ in its corner.
    /// </summary>
    private static Tensor Inverse(Tensor lower, long chunk)
    {
        var positions = arange(chunk, ScalarType.Int64, lower.device);
        var inverse = eye(chunk, dtype: ScalarType.Float32, device: lower.device).expand(lower.shape);
        for (long size = 1; size < chunk; size *= 2)
        {
            var block = positions.div(size, RoundingMode.floor);
            var isCorner = block.unsqueeze(1).sub(block.unsqueeze(0)).eq(1).logical_and(block.remainder(2).eq(1).unsqueeze(1));
            var corner = lower * isCorner.to(ScalarType.Float32);
            inverse = inverse - inverse.matmul(corner).matmul(inverse);
        }

        return inverse;
    }
}
