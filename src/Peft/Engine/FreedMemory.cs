namespace Peft.Engine;

/// <summary>
/// Memory that was freed and that the C library keeps for later. Weights that come plain and stay packed leave holes that no later one fits into, so
/// that it would grow to the size of the plain model.
/// </summary>
internal static unsafe class FreedMemory
{
    /// <summary>Bytes that are freed between two calls of <see cref="GiveBack"/> where many are.</summary>
    public const long WorthBytes = 64L << 20;

    private static readonly delegate* unmanaged<nuint, int> s_trim =
        OperatingSystem.IsLinux() ? (delegate* unmanaged<nuint, int>)LinuxProcess.LoadedFunctionOfAll("malloc_trim") : null;

    private static long s_residentBefore;

    /// <summary>
    /// Gives it back where the process has grown by much since it did so last: between the passes of a model whose many sizes of tensors leave
    /// holes, so that each pass would take some more (glibc's aligned allocations do; half as much again within ten steps of a UNet).
    /// </summary>
    /// <param name="worth">Bytes of growth that are worth the time: pages that were given back have to be cleared before their next use.</param>
    public static void GiveBackGrowth(long worth = WorthBytes)
    {
        if (s_trim is null)
        {
            return;
        }

        var (resident, before) = (ProcessMemory.ResidentBytes, Interlocked.Read(ref s_residentBefore));
        if (resident - before > worth)
        {
            GiveBack();
            Interlocked.Exchange(ref s_residentBefore, ProcessMemory.ResidentBytes);
        }
        else if (resident < before)
        {
            Interlocked.Exchange(ref s_residentBefore, resident);
        }
    }

    /// <summary>Gives it back to the system where the C library can.</summary>
    public static void GiveBack()
    {
        if (s_trim is not null)
        {
            _ = s_trim(0);
        }
    }
}
