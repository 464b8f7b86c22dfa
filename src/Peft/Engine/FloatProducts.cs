using System.Diagnostics;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Engine;

/// <summary>
/// Products with bfloat16 weights formed in float32: processors without arithmetic of that type are nearly twice as fast so. Values in and out
/// stay bfloat16; weights are turned to float32 a few rows at a time, so that no second copy of them stands in memory.
/// </summary>
internal static class FloatProducts
{
    private const long ChunkElements = 1 << 22;
    private const int MeasuredRows = 512;
    private const int Trials = 3;

    /// <summary>What has to be gained: a pass more over weights and values costs the more the smaller a model is.</summary>
    private const double Gain = 1.15;

    private static readonly Lock s_gate = new();
    private static string? s_measured;

    /// <summary>What the user chose by <c>PEFT_PRODUCTS</c> (<c>bfloat16</c> or <c>float32</c>), or null.</summary>
    public static string? Given => Environment.GetEnvironmentVariable("PEFT_PRODUCTS") is var given and ("bfloat16" or ComputeChoice.Float32) ? given : null;

    /// <summary>The type in which products with a model's bfloat16 weights are faster here, measured once for the process.</summary>
    public static string Faster(PretrainedModel model)
    {
        lock (s_gate)
        {
            return s_measured ??= model.Descendants().OfType<Linear>().Select(static linear => linear.Weight.Value).Where(static weight => weight?.dtype == ScalarType.BFloat16)
                .MaxBy(static weight => weight!.numel()) is { } largest && Measure(largest) ? ComputeChoice.Float32 : "bfloat16";
        }
    }

    /// <summary>x Wᵀ + b + residual.</summary>
    /// <param name="x">bfloat16 [rows, in].</param>
    /// <param name="weight">bfloat16 [out, in].</param>
    /// <param name="bias">bfloat16 [out], or null.</param>
    /// <param name="residual">bfloat16 [rows, out], or null.</param>
    public static Tensor Product(Tensor x, Tensor weight, Tensor? bias, Tensor? residual)
    {
        using var scope = NewDisposeScope();
        var input = x.to(ScalarType.Float32);
        var y = residual?.clone() ?? empty([x.size(0), weight.size(0)], x.dtype);
        foreach (var (start, count) in Chunks(weight))
        {
            using var inner = NewDisposeScope();
            var product = input.mm(weight.narrow(0, start, count).to(ScalarType.Float32).t());
            product = bias is null ? product : product.add_(bias.narrow(0, start, count));
            var part = y.narrow(1, start, count);
            _ = residual is null ? part.copy_(product) : part.add_(product);
        }

        return y.MoveToOuterDisposeScope();
    }

    /// <summary>g W, the gradient of the input.</summary>
    /// <param name="g">bfloat16 [rows, out].</param>
    /// <param name="weight">bfloat16 [out, in].</param>
    public static Tensor InputGradient(Tensor g, Tensor weight)
    {
        using var scope = NewDisposeScope();
        var sum = zeros([g.size(0), weight.size(1)], ScalarType.Float32);
        foreach (var (start, count) in Chunks(weight))
        {
            using var inner = NewDisposeScope();
            sum.addmm_(g.narrow(1, start, count).to(ScalarType.Float32), weight.narrow(0, start, count).to(ScalarType.Float32), 1, 1);
        }

        return sum.to(g.dtype).MoveToOuterDisposeScope();
    }

    private static IEnumerable<(long Start, long Count)> Chunks(Tensor weight)
    {
        var step = Math.Max(1, ChunkElements / weight.size(1));
        for (long start = 0; start < weight.size(0); start += step)
        {
            yield return (start, Math.Min(step, weight.size(0) - start));
        }
    }

    private static bool Measure(Tensor weight)
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        var part = weight.narrow(0, 0, Math.Min(weight.size(0), Math.Max(1, ChunkElements / weight.size(1))));
        var x = ones([MeasuredRows, weight.size(1)], ScalarType.BFloat16);
        return Seconds(() => LinearProduct.Product(x, part, null, null)) > Gain * Seconds(() => Product(x, part, null, null));
    }

    private static double Seconds(Func<Tensor> product)
    {
        product().Dispose();
        return Enumerable.Range(0, Trials).Min(_ =>
        {
            var clock = Stopwatch.StartNew();
            product().Dispose();
            return clock.Elapsed.TotalSeconds;
        });
    }
}
