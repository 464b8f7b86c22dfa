using Peft.Engine;
using Peft.Models.Gguf;
using Peft.Quantization.Blocks;
using Peft.Tensors;
using Peft.Tensors.Gguf;
using static TorchSharp.torch;

namespace Peft.Quantization.Checkpoints;

/// <summary>
/// Experts as gpt-oss publishes them: four-bit floats in blocks of 32 with a power of two as the scale (OCP Microscaling, MXFP4). <c>NAME_blocks</c> is
/// [experts, outputs, groups, 16], two numbers a byte with the first in the low half, <c>NAME_scales</c> [experts, outputs, groups]. The model's own layout
/// is [experts, inputs, outputs].
/// </summary>
internal static unsafe class Mxfp4Tensors
{
    private const string BlocksEnd = "_blocks";
    private const string ScalesEnd = "_scales";
    private const int HalfBlock = 16;
    private const int Bias = 127;

    /// <summary>E2M1: a sign, two bits of exponent and one of fraction.</summary>
    private static readonly float[] s_values = [0f, 0.5f, 1f, 1.5f, 2f, 3f, 4f, 6f, -0f, -0.5f, -1f, -1.5f, -2f, -3f, -4f, -6f];

    /// <summary>The quantised weights of a file; they are read unpacked, in bfloat16, unless their blocks are to be kept.</summary>
    /// <param name="file">The file.</param>
    /// <param name="keptType">The model's type where blocks are kept; null where they aren't.</param>
    public static IEnumerable<QuantizedTensor> Find(TensorStore file, ScalarType? keptType)
    {
        foreach (var blocks in file.Names.Where(static name => name.EndsWith(BlocksEnd, StringComparison.Ordinal)))
        {
            var name = blocks[..^BlocksEnd.Length];
            if (!file.TryGetEntry(name + ScalesEnd, out var scales))
            {
                continue;
            }

            var given = file.Entry(blocks).Shape;
            if (given.Count < 3 || given[^1] != HalfBlock || !scales.Shape.SequenceEqual(given.SkipLast(1)))
            {
                throw QuantizedTensor.Invalid(file, name, $"its blocks are [{string.Join(", ", given)}], its scales [{string.Join(", ", scales.Shape)}]");
            }

            IReadOnlyList<long> shape = [.. given.SkipLast(3), given[^2] * 2 * HalfBlock, given[^3]];
            yield return new QuantizedTensor(new TensorEntry(name, ScalarType.BFloat16, shape, "MXFP4"), [blocks, name + ScalesEnd])
            {
                Pack = keptType is not { } type || given.Count != 4 ? null
                    : place => BlockWeight.Of(new GgufPacked(GgufType.Named("MXFP4"), Rows(file.ReadBytes(blocks), file.ReadBytes(name + ScalesEnd)), type), place.Buffer, place.IsTransposed, place.Device),
                Dense = () => Unpack(file.ReadBytes(blocks), file.ReadBytes(name + ScalesEnd), shape),
            };
        }
    }

    /// <summary>The blocks as GGUF has them: the scale in front, and in the high halves of the bytes the numbers of the second sixteen.</summary>
    /// <param name="blocks">[experts, outputs, groups, 16], uint8.</param>
    /// <param name="scales">[experts, outputs, groups], uint8.</param>
    /// <returns>[experts, outputs, groups · 17], uint8.</returns>
    private static Tensor Rows(Tensor blocks, Tensor scales)
    {
        const int RowBlock = HalfBlock + 1;
        var shape = scales.shape;
        var rows = empty([shape[0], shape[1], shape[2] * RowBlock], ScalarType.Byte);
        byte* from = TensorMemory.Pointer(blocks), powers = TensorMemory.Pointer(scales), to = TensorMemory.Pointer(rows);
        var groups = shape[2];
        Parallel.For(0, shape[0] * shape[1], row =>
        {
            for (var block = row * groups; block < (row + 1) * groups; block++)
            {
                byte* given = from + (block * HalfBlock), made = to + (block * RowBlock);
                *made++ = powers[block];
                for (var i = 0; i < HalfBlock; i++)
                {
                    var (first, second) = (given[i / 2], given[(HalfBlock + i) / 2]);
                    made[i] = (byte)(i % 2 == 0 ? (first & 15) | (second << 4) : (first >> 4) | (second & 0xF0));
                }
            }
        });
        GC.KeepAlive(blocks);
        GC.KeepAlive(scales);
        return rows;
    }

    /// <summary>The values that blocks stand for.</summary>
    /// <param name="blocks">[…, outputs, groups, 16], uint8.</param>
    /// <param name="scales">[…, outputs, groups], uint8: exponents of two, plus 127.</param>
    /// <param name="shape">[…, inputs, outputs].</param>
    private static Tensor Unpack(Tensor blocks, Tensor scales, IReadOnlyList<long> shape)
    {
        var target = empty([.. shape], ScalarType.BFloat16);
        var rows = empty([shape[^1], shape[^2]], ScalarType.BFloat16);
        var experts = TensorEntry.Product(shape.SkipLast(2));
        var (byExpert, bytes, exponents) = (target.view([experts, shape[^2], shape[^1]]), blocks.view([experts, -1]), scales.view([experts, -1]));
        for (long expert = 0; expert < experts; expert++)
        {
            using var scope = NewDisposeScope();
            var (given, powers) = (bytes[expert], exponents[expert]);
            var work = new Work { Bytes = TensorMemory.Pointer(given), Exponents = TensorMemory.Pointer(powers), Target = (ushort*)TensorMemory.Pointer(rows) };
            RowParallel.Run(powers.NumberOfElements, 1 << 10, &Blocks, &work);
            byExpert[expert].copy_(rows.t());
        }

        GC.KeepAlive(blocks);
        GC.KeepAlive(scales);
        return target;
    }

    private static void Blocks(void* state, long from, long to)
    {
        var work = (Work*)state;
        Span<float> values = stackalloc float[2 * HalfBlock];
        for (var block = from; block < to; block++)
        {
            var scale = MathF.ScaleB(1, work->Exponents[block] - Bias);
            for (var i = 0; i < HalfBlock; i++)
            {
                var pair = work->Bytes[(block * HalfBlock) + i];
                values[2 * i] = s_values[pair & 15] * scale;
                values[(2 * i) + 1] = s_values[pair >> 4] * scale;
            }

            fixed (float* given = values)
            {
                CpuRows.Narrow(given, work->Target + (block * 2 * HalfBlock), values.Length);
            }
        }
    }

    private struct Work
    {
        public byte* Bytes;
        public byte* Exponents;
        public ushort* Target;
    }
}
