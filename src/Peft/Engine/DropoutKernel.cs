using System.Numerics.Tensors;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using Peft.Tensors;
using TorchSharp;
using static TorchSharp.torch;
using Tensor = TorchSharp.torch.Tensor;

namespace Peft.Engine;

/// <summary>
/// Dropout on a processor. libtorch draws a mask's elements one after the other from one generator, and multiplies by truth values through a slow path;
/// together that took half of a step of a model that drops attention weights. Here an element's number and a seed give its draw, by a hash.
/// </summary>
internal static unsafe class DropoutKernel
{
    private const long GrainElements = 1 << 14;
    private const int Lanes = 32;

    /// <summary>Which elements stay, as truth values.</summary>
    /// <param name="kept">A tensor of truth values on the processor, without gaps; it is filled.</param>
    /// <param name="probability">Of staying.</param>
    /// <param name="seed">Any number; the same gives the same elements.</param>
    public static void Fill(Tensor kept, double probability, long seed)
    {
        if (probability is <= 0 or >= 1)
        {
            kept.fill_(probability >= 1);
            return;
        }

        var work = new FillWork
        {
            Kept = TensorMemory.Pointer(kept),
            Count = kept.NumberOfElements,
            Below = (uint)Math.Min(probability * 4294967296.0, uint.MaxValue),
            First = (uint)seed,
            Second = (uint)(seed >> 32),
        };
        RowParallel.Run((work.Count + GrainElements - 1) / GrainElements, 1, &Fill, &work);
        GC.KeepAlive(kept);
    }

    /// <summary>What stays, scaled.</summary>
    /// <param name="x">Any shape.</param>
    /// <param name="kept">Truth values of the same shape.</param>
    /// <param name="scale">By how much what stays grows.</param>
    /// <returns>Of the same shape and type.</returns>
    public static Tensor Apply(Tensor x, Tensor kept, double scale)
    {
        if (!CpuRows.Serves(x) || !kept.is_contiguous() || kept.device_type != DeviceType.CPU || kept.dtype != ScalarType.Bool || x.NumberOfElements != kept.NumberOfElements || x.NumberOfElements == 0 || is_grad_enabled())
        {
            var masked = x.mul(kept);
            return scale == 1 ? masked : masked.mul_(scale);
        }

        var result = empty_like(x);
        var width = Math.Min(x.NumberOfElements, GrainElements);
        var work = new ApplyWork
        {
            Source = CpuRows.Of(x, width),
            Target = CpuRows.Of(result, width),
            Kept = TensorMemory.Pointer(kept),
            Count = x.NumberOfElements,
            Scale = (float)scale,
        };
        RowParallel.Run((work.Count + width - 1) / width, 1, &Apply, &work);
        GC.KeepAlive(x);
        GC.KeepAlive(kept);
        return result;
    }

    private static void Fill(void* state, long from, long to)
    {
        var work = (FillWork*)state;
        for (var i = from * GrainElements; i < Math.Min(to * GrainElements, work->Count); i += Lanes)
        {
            // An element's draw doesn't depend on who fills it.
            var (low, high) = (Pair(work, i), Pair(work, i + 16));
            var bytes = Vector256.Narrow(low, high) & Vector256<byte>.One;
            if (i + Lanes <= work->Count)
            {
                bytes.Store(work->Kept + i);
                continue;
            }

            for (var lane = 0; lane < work->Count - i; lane++)
            {
                work->Kept[i + lane] = bytes[lane];
            }
        }
    }

    private static Vector256<ushort> Pair(FillWork* work, long at) => Vector256.Narrow(Stays(work, at), Stays(work, at + 8));

    private static Vector256<uint> Stays(FillWork* work, long at)
    {
        var number = Vector256<uint>.Indices + Vector256.Create((uint)at);
        var draw = Mixed(Mixed(number ^ Vector256.Create(work->First)) + Vector256.Create(work->Second ^ (uint)(at >> 32)));
        return Vector256.LessThan(draw, Vector256.Create(work->Below));
    }

    /// <summary>A bijection of 32 bits in which each bit of the result depends on all of the number's (multiply and shift, constants found by search for least bias).</summary>
    private static Vector256<uint> Mixed(Vector256<uint> x)
    {
        x = (x ^ (x >>> 16)) * Vector256.Create(0x21F0AAADu);
        x = (x ^ (x >>> 15)) * Vector256.Create(0x735A2D97u);
        return x ^ (x >>> 15);
    }

    private static void Apply(void* state, long from, long to)
    {
        var work = (ApplyWork*)state;
        var scratch = (float*)NativeMemory.Alloc((nuint)(2 * GrainElements), sizeof(float));
        for (var row = from; row < to; row++)
        {
            var start = row * GrainElements;
            var count = (int)Math.Min(GrainElements, work->Count - start);
            var factors = new Span<float>(scratch + GrainElements, count);
            var source = work->Source.Read(row, count, scratch);
            var target = work->Target.IsBFloat16 ? new Span<float>(scratch, count) : new Span<float>(work->Target.Row(row), count);
            Widen(work->Kept + start, factors, work->Scale);
            TensorPrimitives.Multiply(source, factors, target);
            work->Target.Write(row, target);
        }

        NativeMemory.Free(scratch);
    }

    private static void Widen(byte* kept, Span<float> factors, float scale)
    {
        var i = 0;
        fixed (float* factor = factors)
        {
            for (; i + 8 <= factors.Length; i += 8)
            {
                var units = Vector128.WidenLower(Vector128.CreateScalarUnsafe(*(ulong*)(kept + i)).AsByte());
                var (low, high) = Vector128.Widen(units);
                (Vector256.ConvertToSingle(Vector256.Create(low, high).AsInt32()) * scale).Store(factor + i);
            }

            for (; i < factors.Length; i++)
            {
                factor[i] = kept[i] * scale;
            }
        }
    }

    private struct FillWork
    {
        public byte* Kept;
        public long Count;
        public uint Below;
        public uint First;
        public uint Second;
    }

    private struct ApplyWork
    {
        public CpuRows Source;
        public CpuRows Target;
        public byte* Kept;
        public long Count;
        public float Scale;
    }
}
