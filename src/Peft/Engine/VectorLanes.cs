using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Peft.Engine;

/// <summary>What is found among a vector's lanes without taking each of them out.</summary>
internal static class VectorLanes
{
    /// <summary>The largest lane.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static float Largest(Vector512<float> values)
    {
        var eight = Vector256.Max(values.GetLower(), values.GetUpper());
        var four = Vector128.Max(eight.GetLower(), eight.GetUpper());
        var two = Vector128.Max(four, Vector128.Shuffle(four, Vector128.Create(2, 3, 0, 1)));
        return MathF.Max(two[0], two[1]);
    }
}
