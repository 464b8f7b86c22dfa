using System.Numerics;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Engine.Cuda;

/// <summary>What layers compute beside products, by a GPU's kernels. Each takes tensors that <see cref="KernelDevice.Serves"/> and that lie on the device.</summary>
internal static class LayerLaunches
{
    private const int Threads = 256;
    private const int MostThreads = 1024;

    // A block of the norms' kernels has registers for so many, whatever the compiler makes of them.
    private const int MostNormThreads = 512;
    private const int VectorBytes = 16;

    /// <summary>What runs kernels on tensors of one type and device; null where there is none, or a tensor is none that they take.</summary>
    public static KernelDevice? Serving(Tensor x, params ReadOnlySpan<Tensor> others)
    {
        if (KernelDevice.Of(x) is not { } device || !KernelDevice.Serves(x) || x.NumberOfElements == 0)
        {
            return null;
        }

        foreach (var other in others)
        {
            if (other.dtype != x.dtype || KernelDevice.Of(other) != device || !KernelDevice.Serves(other))
            {
                return null;
            }
        }

        return device;
    }

    /// <summary>As <see cref="NormKernel.RootMeanSquare"/>, but that r is rounded to the input's type before it multiplies, as by operators.</summary>
    public static (Tensor Result, Tensor Inverse) RootMeanSquare(KernelDevice device, Tensor x, Tensor weight, double epsilon)
    {
        var shape = x.shape;
        var width = (int)shape[^1];
        shape[^1] = 1;
        var (y, inverse) = (empty_like(x), empty(shape, x.dtype, x.device));
        device.Launch("rms_norm", x.dtype, new KernelArguments.Norm
        {
            X = device.Address(x), Weight = device.Address(weight), Y = device.Address(y), Inverse = device.Address(inverse), Width = width, Epsilon = (float)epsilon,
        }, x.NumberOfElements / width, NormThreads(width, x));
        return (y, inverse);
    }

    /// <summary>The gradient of a root mean square norm's input.</summary>
    /// <param name="device">Runs it.</param>
    /// <param name="gradient">Of the output.</param>
    /// <param name="x">The input, [rows, …, width].</param>
    /// <param name="inverse">r.</param>
    /// <param name="weight">[width].</param>
    public static Tensor RootMeanSquareGradient(KernelDevice device, Tensor gradient, Tensor x, Tensor inverse, Tensor weight)
    {
        var width = (int)x.size(-1);
        var result = empty_like(x);
        device.Launch("rms_norm_gradient", x.dtype, new KernelArguments.NormGradient
        {
            Gradient = device.Address(gradient), X = device.Address(x), Weight = device.Address(weight), Inverse = device.Address(inverse), Result = device.Address(result), Width = width,
        }, x.NumberOfElements / width, NormThreads(width, x));
        return result;
    }

    /// <summary>What turns heads that may lie apart; null where nothing does.</summary>
    /// <param name="heads">[rows, length, heads, size]; the heads of a position don't lie apart.</param>
    /// <param name="cosine">[length, 1, turned] or [rows, length, 1, turned].</param>
    /// <param name="sine">Of the same shape.</param>
    public static KernelDevice? Turning(Tensor heads, Tensor cosine, Tensor sine) =>
        heads.dtype == cosine.dtype && heads.stride(3) == 1 && heads.stride(2) == heads.size(3) && heads.NumberOfElements > 0 && Serving(cosine, sine) is { } device && KernelDevice.Of(heads) == device
            && (cosine.NumberOfElements / cosine.size(-1)) is var tables && (tables == heads.size(1) || tables == heads.size(0) * heads.size(1))
            ? device
            : null;

    /// <summary>Turns heads by their positions, or gradients back.</summary>
    /// <param name="device">What <see cref="Turning"/> gave.</param>
    /// <param name="heads">[rows, length, heads, size].</param>
    /// <param name="tables">Cosines and sines.</param>
    /// <param name="isInterleaved">Whether neighbouring elements are a pair; otherwise element i and i + half.</param>
    /// <param name="back">Whether by the negative angle.</param>
    /// <returns>[rows, length, heads, size], in memory of its own.</returns>
    public static Tensor Turn(KernelDevice device, Tensor heads, (Tensor Cosine, Tensor Sine) tables, bool isInterleaved, bool back)
    {
        var output = empty(heads.shape, heads.dtype, heads.device);
        var turned = tables.Cosine.size(-1);

        // A view with gaps has no address of its own until it is cut to what has none.
        using var row = heads.select(0, 0);
        using var position = row.select(0, 0);
        device.Launch("turn", heads.dtype, new KernelArguments.Turn
        {
            X = device.Address(position), Y = device.Address(output), Cosine = device.Address(tables.Cosine), Sine = device.Address(tables.Sine),
            Length = heads.size(1), RowStride = heads.stride(0), PositionStride = heads.stride(1), Tables = tables.Cosine.NumberOfElements / turned,
            Heads = (int)heads.size(2), Size = (int)heads.size(3), Turned = (int)turned, IsInterleaved = isInterleaved ? 1 : 0, Back = back ? 1 : 0,
        }, heads.size(0) * heads.size(1), Threads);
        return output;
    }

    /// <summary>As <see cref="GatedKernel.Form"/>.</summary>
    public static Tensor Gated(KernelDevice device, Tensor projections)
    {
        var output = empty([projections.size(0), projections.size(1) / 2], projections.dtype, projections.device);
        Gated("gated", device, projections, output);
        return output;
    }

    /// <summary>As <see cref="GatedKernel.Gradient"/>.</summary>
    public static void GatedGradient(KernelDevice device, Tensor projections, Tensor gradient) => Gated("gated_gradient", device, projections, gradient);

    /// <summary>As <see cref="CrossEntropyKernel.Form"/>.</summary>
    public static void CrossEntropy(KernelDevice device, Tensor logits, Tensor targets, Tensor losses, (double Scale, double Smoothing) shape, bool wantsGradient)
    {
        using var own = targets.contiguous();
        device.Launch("cross_entropy", logits.dtype, new KernelArguments.CrossEntropy
        {
            Logits = device.Address(logits), Targets = device.Address(own), Losses = device.Address(losses), Width = logits.size(1),
            Scale = (float)shape.Scale, Smoothing = (float)shape.Smoothing, WantsGradient = wantsGradient ? 1 : 0,
        }, logits.size(0), RowThreads((int)logits.size(1), logits, MostThreads));
    }

    /// <summary>Threads that the kernel of a root mean square norm has for a row.</summary>
    public static int NormThreads(int width, Tensor x) => RowThreads(width, x, MostNormThreads);

    private static void Gated(string kernel, KernelDevice device, Tensor projections, Tensor other)
    {
        var (rows, width) = (projections.size(0), projections.size(1) / 2);
        var pieces = rows * KernelDevice.Blocks(width, VectorElements(projections));
        device.Launch(
            kernel, projections.dtype, new KernelArguments.Gated { Projections = device.Address(projections), Other = device.Address(other), Rows = rows, Width = width }, KernelDevice.Blocks(pieces, Threads), Threads);
    }

    private static long VectorElements(Tensor tensor) => VectorBytes / tensor.ElementSize;

    // As many as there are vectors in a row, up to what a block has.
    private static int RowThreads(int width, Tensor x, int most) => (int)Math.Clamp(BitOperations.RoundUpToPowerOf2((uint)KernelDevice.Blocks(width, VectorElements(x))), 32, most);
}
