using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics.X86;

namespace Peft.Engine;

/// <summary>
/// Calls weights into the cache that a kernel will read soon. A processor does so by itself within a page of 4 KB only, and begins anew with each:
/// a stream of weights that is called two pages ahead comes by a third faster.
/// </summary>
internal static unsafe class ReadAhead
{
    /// <summary>How far ahead of what is read.</summary>
    public const int Bytes = 8192;

    /// <summary>Bytes that one call brings.</summary>
    public const int Line = 64;

    /// <summary>Calls the line that lies ahead of what is read now.</summary>
    /// <param name="at">What is read now.</param>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Of(void* at) => At((byte*)at + Bytes);

    /// <summary>Calls a line. No address is wrong: what isn't there isn't brought.</summary>
    /// <param name="at">Where it lies.</param>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void At(void* at)
    {
        if (Sse.IsSupported)
        {
            Sse.Prefetch0(at);
        }
    }
}
