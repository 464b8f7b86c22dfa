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
        var keysAcross = ks.transpose(-2, -1);
        var attention = qs.matmul(keysAcross) * between;
        var values = vs;
        Tensor? read = null;
        if (rate is not null)
        {
            // Rates and decays scale the small matrices between positions, not keys and values.
            var rates = Chunks(rate.unsqueeze(-1), chunk);
            var system = Inverse(ks.matmul(keysAcross) * (between * rates), chunk) * rates.transpose(-2, -1);
            values = system.matmul(vs);
            read = (system * sum.exp().unsqueeze(-2)).matmul(ks);
        }

        var last = sum.narrow(-1, chunk - 1, 1);
        var (queries, keys, kept) = ((qs * sum.exp().unsqueeze(-1)).unbind(2), (ks * (last - sum).exp().unsqueeze(-1)).unbind(2), last.exp().unsqueeze(-1).unbind(2));
        var (seen, given, pasts) = (attention.unbind(2), values.unbind(2), read?.unbind(2));
        var current = state ?? zeros([rows, heads, k.size(3), v.size(3)], ScalarType.Float32, q.device);
        var outputs = new List<Tensor>();
        for (var i = 0; i < queries.Length; i++)
        {
            var added = pasts is null ? given[i] : given[i] - pasts[i].matmul(current);
            outputs.Add(queries[i].matmul(current) + seen[i].matmul(added));
            current = (current * kept[i]) + keys[i].transpose(-2, -1).matmul(added);
        }

        var output = cat(outputs, 2).narrow(2, 0, length).transpose(1, 2);
        return (output, current);
    }

    /// <summary>Bytes that autograd keeps of a token, all in float32.</summary>
    /// <param name="heads">Number of heads.</param>
    /// <param name="keySize">Width of q and k.</param>
    /// <param name="valueSize">Width of v.</param>
    /// <param name="hasRate">Whether it learns by the delta rule.</param>
    public static long KeptBytes(long heads, long keySize, long valueSize, bool hasRate)
    {
        // Matrices between the positions of a chunk: scores, decays and their product; for the delta rule the system as well and what its inverse was found by.
        var between = (hasRate ? 11 : 3) * ChunkSize;

        // q and k scaled to a chunk's ends, what is learnt and the outputs; one state a chunk. Mamba-2's come as views, and are kept in chunks too.
        var along = ((hasRate ? 2 : 4) * keySize) + ((hasRate ? 2 : 3) * valueSize) + (keySize * valueSize / ChunkSize);
        var learnt = hasRate ? keySize : 0;
        return heads * (between + along + learnt) * sizeof(float);
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

    /// <summary>The inverse of a matrix with ones on its diagonal and <paramref name="lower"/> below it.</summary>
    private static Tensor Inverse(Tensor lower, long chunk)
    {
        var inverse = Inverted(lower.detach(), chunk);

        // Newton's step X (2 − A X) has the inverse's value and derivative, so that autograd needn't go through the steps that found it.
        return lower.requires_grad
            ? inverse + inverse - inverse.matmul(lower.tril(-1) + eye(chunk, dtype: ScalarType.Float32, device: lower.device)).matmul(inverse)
            : inverse;
    }

    /// <summary>Block by block: the inverse of [[A, 0], [C, B]] has −B⁻¹ C A⁻¹ in its corner.</summary>
    private static Tensor Inverted(Tensor lower, long chunk)
    {
        using var noGrad = no_grad();
        var all = lower.reshape(-1, chunk, chunk);
        var inverse = eye(chunk, dtype: ScalarType.Float32, device: lower.device).repeat(all.size(0), 1, 1);
        for (long size = 1; size < chunk; size *= 2)
        {
            var blocks = DiagonalBlocks(inverse, 2 * size);
            var corner = Corner(DiagonalBlocks(all, 2 * size), size, 0, size);
            var found = size == 1 ? corner : Corner(blocks, size, size, size).matmul(corner).matmul(Corner(blocks, 0, 0, size));
            Corner(blocks, size, 0, size).copy_(found.neg());
        }

        return inverse.view(lower.shape);
    }

    /// <summary>The blocks on the diagonal as a view, [.., count, size, size].</summary>
    private static Tensor DiagonalBlocks(Tensor matrix, long size) =>
        matrix.view(matrix.size(0), -1, size, matrix.size(1) / size, size).diagonal(0, 1, 3).permute(0, 3, 1, 2);

    private static Tensor Corner(Tensor blocks, long row, long column, long size) => blocks.narrow(2, row, size).narrow(3, column, size);
}
