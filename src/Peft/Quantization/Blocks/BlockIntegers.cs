using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using Peft.Engine;

namespace Peft.Quantization.Blocks;

/// <summary>
/// Sums over GGUF's blocks by integers of 16 bits, for an input in bfloat16: half of the instructions that float32 takes, and half of the memory for the input,
/// which then stays in the innermost cache. The input is rounded to 15 bits of each block's largest magnitude, finer than bfloat16.
/// </summary>
internal static unsafe class BlockIntegers
{
    private const float LargestInput = short.MaxValue;

    /// <summary>The integers of an input, then the sum of each sixteen of its values, then the factor of each block.</summary>
    /// <param name="x">[1, width].</param>
    /// <param name="width">A multiple of the block's.</param>
    /// <param name="blockWidth">Numbers of a block.</param>
    /// <param name="to">Takes them: as many floats as the width and a sixteenth of it.</param>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Arrange(CpuRows x, long width, long blockWidth, float* to)
    {
        var scratch = stackalloc float[(int)blockWidth];
        var integers = (short*)to;
        var sums = Sums(to, width);
        var factors = Factors(to, width);
        for (long start = 0; start < width; start += blockWidth, factors++)
        {
            fixed (float* values = x.ReadAt(start, (int)blockWidth, scratch))
            {
                var most = Vector512<float>.Zero;
                for (long i = 0; i < blockWidth; i += 16, sums++)
                {
                    var sixteen = Vector512.Load(values + i);
                    most = Vector512.Max(most, Vector512.Abs(sixteen));
                    *sums = Vector512.Sum(sixteen);
                }

                var magnitude = VectorLanes.Largest(most);
                *factors = magnitude / LargestInput;
                var inverse = magnitude == 0 ? 0 : LargestInput / magnitude;
                if (Avx512F.IsSupported)
                {
                    for (long i = 0; i < blockWidth; i += 16)
                    {
                        var rounded = Avx512F.ConvertToVector512Int32(Vector512.Load(values + i) * Vector512.Create(inverse));
                        Avx512F.ConvertToVector256Int16WithSaturation(rounded).Store(integers + start + i);
                    }

                    continue;
                }

                for (long i = 0; i < blockWidth; i++)
                {
                    integers[start + i] = (short)MathF.Round(values[i] * inverse);
                }
            }
        }
    }

    /// <summary>The product of a row.</summary>
    /// <param name="block">Its blocks.</param>
    /// <param name="arranged">What <see cref="Arrange"/> gave.</param>
    /// <param name="width">Numbers of the row.</param>
    /// <remarks>A call of its own: inside of a larger method the compiler ceases to put the codes' own methods into the loop.</remarks>
    [MethodImpl(MethodImplOptions.AggressiveOptimization | MethodImplOptions.NoInlining)]
    public static float Dot<T>(byte* block, float* arranged, long width)
        where T : struct, IBlockCodes
    {
        var x = (short*)arranged;
        var sums = Sums(arranged, width);
        var factors = Factors(arranged, width);
        return T.Groups == 2 ? DotOfPairs<T>(block, x, sums, factors, width / 32) : DotOfSixteens<T>(block, x, sums, factors, width / 256);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static float* Sums(float* arranged, long width) => arranged + (width / 2);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static float* Factors(float* arranged, long width) => arranged + (width / 2) + (width / 16);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static float DotOfPairs<T>(byte* block, short* x, float* sums, float* factors, long blocks)
        where T : struct, IBlockCodes
    {
        var (a, b, taken) = (Vector512<float>.Zero, Vector512<float>.Zero, 0f);
        long i = 0;
        for (; i <= blocks - 2; i += 2)
        {
            Pair<T>(block + (i * T.Bytes), x + (32 * i), sums + (2 * i), factors[i], ref a, ref taken);
            Pair<T>(block + ((i + 1) * T.Bytes), x + (32 * i) + 32, sums + (2 * i) + 2, factors[i + 1], ref b, ref taken);
        }

        if (i < blocks)
        {
            Pair<T>(block + (i * T.Bytes), x + (32 * i), sums + (2 * i), factors[i], ref a, ref taken);
        }

        return Vector512.Sum(a + b) - taken;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Pair<T>(byte* block, short* x, float* sums, float factor, ref Vector512<float> sum, ref float taken)
        where T : struct, IBlockCodes
    {
        var (scale, offset) = T.Scale(block);
        sum = Vector512.FusedMultiplyAdd(Products(T.Codes(block, 0), x), Vector512.Create(scale * factor), sum);
        if (T.HasOffsets)
        {
            taken += offset * (sums[0] + sums[1]);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static float DotOfSixteens<T>(byte* block, short* x, float* sums, float* factors, long blocks)
        where T : struct, IBlockCodes
    {
        var scales = stackalloc float[32];
        var offsets = scales + 16;
        var (sum, taken) = (Vector512<float>.Zero, Vector512<float>.Zero);
        for (; blocks > 0; blocks--, block += T.Bytes, x += 256, sums += 16, factors++)
        {
            T.Scales(block, scales, offsets);
            var (a, b) = (Vector512<float>.Zero, Vector512<float>.Zero);
            Add<T>(block, 0, x, scales, ref a);
            Add<T>(block, 1, x, scales, ref b);
            Add<T>(block, 2, x, scales, ref a);
            Add<T>(block, 3, x, scales, ref b);
            Add<T>(block, 4, x, scales, ref a);
            Add<T>(block, 5, x, scales, ref b);
            Add<T>(block, 6, x, scales, ref a);
            Add<T>(block, 7, x, scales, ref b);
            sum = Vector512.FusedMultiplyAdd(a + b, Vector512.Create(*factors), sum);
            if (T.HasOffsets)
            {
                taken = Vector512.FusedMultiplyAdd(Vector512.Load(offsets), Vector512.Load(sums), taken);
            }
        }

        return Vector512.Sum(sum - taken);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Add<T>(byte* block, int pair, short* x, float* scales, ref Vector512<float> sum)
        where T : struct, IBlockCodes
    {
        var scale = T.HasScalesOfSixteen
            ? VectorLanes.Pair(scales + (2 * pair))
            : Vector512.Create(scales[2 * pair]);
        sum = Vector512.FusedMultiplyAdd(Products(T.Codes(block, pair), x + (32 * pair)), scale, sum);
    }

    /// <summary>Sums of two products each; the first half of them is of the first sixteen codes.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> Products(Vector512<short> codes, short* x) => Vector512.ConvertToSingle(Avx512BW.IsSupported
        ? Avx512BW.MultiplyAddAdjacent(codes, Vector512.Load(x))
        : Vector512.Create(Avx2.MultiplyAddAdjacent(codes.GetLower(), Vector256.Load(x)), Avx2.MultiplyAddAdjacent(codes.GetUpper(), Vector256.Load(x + 16))));
}
