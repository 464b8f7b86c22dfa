using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Peft.Quantization;

/// <summary>
/// Sums over blocks of four-bit codes by integers of 16 bits, for an input in bfloat16: half of the instructions that float32 takes, which then keep up with the
/// memory. The input is rounded to 15 bits of each block's largest magnitude and the values of the codes to 13, both finer than bfloat16.
/// </summary>
internal static unsafe class FourBitIntegers
{
    // A register of 32 words holds four codes in each; eight products go into one sum, which stays below 2³¹.
    private const int Step = 64;
    private const float LargestInput = short.MaxValue;
    private const float LargestValue = 8191;

    /// <summary>Whether the processor has the instructions.</summary>
    public static bool IsSupported => Avx512BW.IsSupported;

    /// <summary>Numbers of float32 that the table, and a step of the input with its scale take.</summary>
    private const int TableFloats = 16;

    /// <summary>
    /// The table of values, then the input in the order in which codes come out of words, then each block's factor, in eight lanes: of two blocks all that stand in the lowest
    /// four bits of a word, then in the next four, and so on. The first of two codes is in the upper half of its byte.
    /// </summary>
    /// <param name="x">[width], a multiple of 64.</param>
    /// <param name="width">Its width.</param>
    /// <param name="table">The values of the sixteen codes.</param>
    /// <param name="to">Takes them: as many floats as the width and 128 more.</param>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Arrange(float* x, long width, float* table, float* to)
    {
        var largest = 0f;
        for (var code = 0; code < 16; code++)
        {
            largest = MathF.Max(largest, MathF.Abs(table[code]));
        }

        var words = (short*)to;
        for (var code = 0; code < 32; code++)
        {
            // Twice: a look-up takes five bits of an index.
            words[code] = (short)MathF.Round(table[code % 16] * (LargestValue / largest));
        }

        var (lowest, highest) = Orders();
        var steps = width / Step;
        var row = words + (2 * TableFloats);
        var factors = Factors(to, steps);
        for (long step = 0; step < steps; step++)
        {
            var (a, b, c, d) = (Vector512.Load(x), Vector512.Load(x + 16), Vector512.Load(x + 32), Vector512.Load(x + 48));
            var most = Vector512.Max(Vector512.Max(Vector512.Abs(a), Vector512.Abs(b)), Vector512.Max(Vector512.Abs(c), Vector512.Abs(d)));
            var magnitude = 0f;
            for (var lane = 0; lane < Vector512<float>.Count; lane++)
            {
                magnitude = MathF.Max(magnitude, most[lane]);
            }

            var factor = Vector512.Create(magnitude == 0 ? 0 : LargestInput / magnitude);
            Vector256.Create(magnitude * largest / (LargestInput * LargestValue)).Store(factors + (8 * step));
            var first = Vector512.Create(Rounded(a * factor), Rounded(b * factor));
            var second = Vector512.Create(Rounded(c * factor), Rounded(d * factor));
            var half = row + ((step / 2) * 2 * Step) + ((step % 2) * 16);
            Put(Avx512BW.PermuteVar32x16x2(first, lowest, second), half);
            Put(Avx512BW.PermuteVar32x16x2(first, highest, second), half + 64);
            x += Step;
        }

        if (steps % 2 == 1)
        {
            for (var place = 0; place < 4; place++)
            {
                Vector256<short>.Zero.Store(row + ((steps / 2) * 2 * Step) + (32 * place) + 16);
            }
        }
    }

    /// <summary>The product of a row.</summary>
    /// <param name="codes">Its codes.</param>
    /// <param name="scales">The scale of each block of 64.</param>
    /// <param name="arranged">What <see cref="Arrange"/> put in order.</param>
    /// <param name="steps">Blocks of 64.</param>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static float Dot(byte* codes, float* scales, float* arranged, long steps)
    {
        var factors = Factors(arranged, steps);
        var (values, x, sum) = (Vector512.Load((short*)arranged), (nint)(arranged + TableFloats), Vector512<float>.Zero);
        long step = 0;
        for (; step <= steps - 2; step += 2)
        {
            var scale = Vector512.Create(Vector256.Create(scales[step]), Vector256.Create(scales[step + 1])) * Vector512.Load(factors + (8 * step));
            sum = Vector512.FusedMultiplyAdd(Words(Vector512.Load((short*)(codes + (step * Step / 2))), values, (short*)x + (step * Step)), scale, sum);
        }

        if (step < steps)
        {
            var words = Vector512.Create(Vector256.Load((short*)(codes + (step * Step / 2))), Vector256<short>.Zero);
            sum = Vector512.FusedMultiplyAdd(Words(words, values, (short*)x + (step * Step)), Vector512.Create(scales[step] * factors[8 * step]), sum);
        }

        return Vector512.Sum(sum);
    }

    private static float* Factors(float* arranged, long steps) => arranged + TableFloats + ((steps + 1) / 2 * Step);

    private static (Vector512<short> Lowest, Vector512<short> Highest) Orders()
    {
        Span<short> lowest = stackalloc short[32];
        Span<short> highest = stackalloc short[32];
        for (var lane = 0; lane < 16; lane++)
        {
            (lowest[lane], lowest[lane + 16]) = ((short)((4 * lane) + 1), (short)(4 * lane));
            (highest[lane], highest[lane + 16]) = ((short)((4 * lane) + 3), (short)((4 * lane) + 2));
        }

        return (Vector512.Create<short>(lowest), Vector512.Create<short>(highest));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<short> Rounded(Vector512<float> values) => Avx512F.ConvertToVector256Int16WithSaturation(Avx512F.ConvertToVector512Int32(values));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Put(Vector512<short> values, short* to)
    {
        values.GetLower().Store(to);
        values.GetUpper().Store(to + 32);
    }

    /// <summary>Sums of the products of the words' codes; a look-up takes the lowest five bits of an index.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> Words(Vector512<short> words, Vector512<short> values, short* x)
    {
        var a = Avx512BW.MultiplyAddAdjacent(Avx512BW.PermuteVar32x16(values, words), Vector512.Load(x));
        var b = Avx512BW.MultiplyAddAdjacent(Avx512BW.PermuteVar32x16(values, Vector512.ShiftRightLogical(words, 4)), Vector512.Load(x + 32));
        a += Avx512BW.MultiplyAddAdjacent(Avx512BW.PermuteVar32x16(values, Vector512.ShiftRightLogical(words, 8)), Vector512.Load(x + 64));
        b += Avx512BW.MultiplyAddAdjacent(Avx512BW.PermuteVar32x16(values, Vector512.ShiftRightLogical(words, 12)), Vector512.Load(x + 96));
        return Vector512.ConvertToSingle(a + b);
    }
}
