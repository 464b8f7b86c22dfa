using static TorchSharp.torch;

namespace Peft.Adapters.Methods;

/// <summary>The leading part of a matrix, computed without the rest.</summary>
internal static class SingularVectors
{
    /// <summary>The leading singular vectors and values by subspace iteration from a random start (Halko et al. 2011, algorithm 4.4).</summary>
    /// <param name="matrix">Any matrix.</param>
    /// <param name="rank">How many.</param>
    /// <param name="iterations">More of them come closer.</param>
    /// <param name="generator">Source of random numbers, on the CPU.</param>
    public static (Tensor U, Tensor S, Tensor Vh) Leading(Tensor matrix, long rank, int iterations, Generator generator)
    {
        if (matrix.size(0) < matrix.size(1))
        {
            // The random start has the length of the smaller side, as PyTorch's has.
            var (right, values, left) = Leading(matrix.t(), rank, iterations, generator);
            return (left.t(), values, right.t());
        }

        var basis = linalg.qr(matrix.mm(RandomTensors.Normal([matrix.size(1), rank], 1, generator, matrix.device))).Q;
        for (var i = 0; i < iterations; i++)
        {
            basis = linalg.qr(matrix.mm(linalg.qr(matrix.t().mm(basis)).Q)).Q;
        }

        var (u, s, vh) = linalg.svd(basis.t().mm(matrix), fullMatrices: false);
        return (basis.mm(u), s, vh);
    }
}
