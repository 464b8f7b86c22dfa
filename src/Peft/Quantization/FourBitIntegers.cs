using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using Peft.Engine;

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
            var magnitude = VectorLanes.Largest(most);
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

    /// <summary>Rows whose products <see cref="Dots"/> forms.</summary>
    public const int RowsAtOnce = 4;

    /// <summary>The products of four rows, which read the input together.</summary>
    /// <param name="codes">Their codes.</param>
    /// <param name="scales">The scale of each block of 64.</param>
    /// <param name="arranged">What <see cref="Arrange"/> put in order.</param>
    /// <param name="steps">Blocks of 64 of a row.</param>
    /// <param name="sums">Takes the products.</param>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Dots(byte* codes, float* scales, float* arranged, long steps, float* sums)
    {
        var values = Vector512.Load((short*)arranged);
        var x = (short*)(arranged + TableFloats);
        var factors = Factors(arranged, steps);
        var (a, b, c, d) = (Vector512<float>.Zero, Vector512<float>.Zero, Vector512<float>.Zero, Vector512<float>.Zero);
        var bytes = steps * (Step / 2);

        // Some fours of rows ahead, for what lies nearer is read by the others of the four.
        var ahead = codes + ((ReadAhead.Bytes + (4 * bytes) - 1) / (4 * bytes) * 4 * bytes);
        long step = 0;
        for (; step <= steps - 2; step += 2, x += 2 * Step, codes += Step, ahead += Step, scales += 2)
        {
            ReadAhead.At(ahead);
            ReadAhead.At(ahead + bytes);
            ReadAhead.At(ahead + (2 * bytes));
            ReadAhead.At(ahead + (3 * bytes));
            var factor = Vector512.Load(factors + (8 * step));
            a = Vector512.FusedMultiplyAdd(Words(Vector512.Load((short*)codes), values, x), VectorLanes.Pair(scales) * factor, a);
            b = Vector512.FusedMultiplyAdd(Words(Vector512.Load((short*)(codes + bytes)), values, x), VectorLanes.Pair(scales + steps) * factor, b);
            c = Vector512.FusedMultiplyAdd(Words(Vector512.Load((short*)(codes + (2 * bytes))), values, x), VectorLanes.Pair(scales + (2 * steps)) * factor, c);
            d = Vector512.FusedMultiplyAdd(Words(Vector512.Load((short*)(codes + (3 * bytes))), values, x), VectorLanes.Pair(scales + (3 * steps)) * factor, d);
        }

        if (step < steps)
        {
            a = Last(codes, values, x, scales[0] * factors[8 * step], a);
            b = Last(codes + bytes, values, x, scales[steps] * factors[8 * step], b);
            c = Last(codes + (2 * bytes), values, x, scales[2 * steps] * factors[8 * step], c);
            d = Last(codes + (3 * bytes), values, x, scales[3 * steps] * factors[8 * step], d);
        }

        VectorLanes.Sums(a, b, c, d).Store(sums);
    }

    /// <summary>The product of a row, bit for bit as among four.</summary>
    /// <param name="codes">Its codes.</param>
    /// <param name="scales">The scale of each block of 64.</param>
    /// <param name="arranged">What <see cref="Arrange"/> put in order.</param>
    /// <param name="steps">Blocks of 64.</param>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static float Dot(byte* codes, float* scales, float* arranged, long steps)
    {
        var (values, sum) = (Vector512.Load((short*)arranged), Vector512<float>.Zero);
        var x = (short*)(arranged + TableFloats);
        var factors = Factors(arranged, steps);
        long step = 0;
        for (; step <= steps - 2; step += 2, x += 2 * Step, codes += Step, scales += 2)
        {
            ReadAhead.Of(codes);
            sum = Vector512.FusedMultiplyAdd(Words(Vector512.Load((short*)codes), values, x), VectorLanes.Pair(scales) * Vector512.Load(factors + (8 * step)), sum);
        }

        sum = step < steps ? Last(codes, values, x, scales[0] * factors[8 * step], sum) : sum;
        return VectorLanes.Sums(sum, Vector512<float>.Zero, Vector512<float>.Zero, Vector512<float>.Zero)[0];
    }

    /// <summary>A block without another beside it.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> Last(byte* codes, Vector512<short> values, short* x, float scale, Vector512<float> sum) =>
        Vector512.FusedMultiplyAdd(Words(VectorLanes.Joined(Vector256.Load((short*)codes), Vector256<short>.Zero), values, x), Vector512.Create(scale), sum);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
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
