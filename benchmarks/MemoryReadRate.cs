using System.Diagnostics;
using System.Numerics;
using System.Runtime.InteropServices;
using Peft.Engine;

namespace Peft.Benchmarks;

/// <summary>How fast this machine reads memory: what bounds the generation of text, which reads every weight for each token.</summary>
internal static class MemoryReadRate
{
    private const int Elements = 1 << 27;

    /// <summary>Measures in bytes a second: the best of a few passes over half a gigabyte by the engine's number of threads.</summary>
    public static double Measure()
    {
        var memory = GC.AllocateUninitializedArray<float>(Elements);
        Array.Fill(memory, 1);
        var threads = ComputeThreads.Count;
        var best = 0.0;
        for (var i = 0; i < 8; i++)
        {
            var clock = Stopwatch.StartNew();
            var sums = new float[threads];
            Parallel.For(0, threads, new ParallelOptions { MaxDegreeOfParallelism = threads }, thread =>
                sums[thread] = Sum(memory.AsSpan(Elements / threads * thread, Elements / threads)));
            best = Math.Max(best, (double)Elements * sizeof(float) / clock.Elapsed.TotalSeconds);
        }

        return best;
    }

    private static float Sum(ReadOnlySpan<float> values)
    {
        var vectors = MemoryMarshal.Cast<float, Vector<float>>(values);
        Vector<float> a = default, b = default, c = default, d = default;
        for (var i = 0; i + 4 <= vectors.Length; i += 4)
        {
            a += vectors[i];
            b += vectors[i + 1];
            c += vectors[i + 2];
            d += vectors[i + 3];
        }

        return Vector.Sum(a + b + c + d);
    }
}
