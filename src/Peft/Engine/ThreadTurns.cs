using System.Runtime.InteropServices;
using System.Runtime.Versioning;

namespace Peft.Engine;

/// <summary>
/// How long a thread's turns on a processor are that others want as well. Linux (6.12 and later) gives a thread that asks for short turns its share
/// in more and shorter ones, and puts it on at once when it wakes up, so that threads of a team, which wait for one another, are on together. Their
/// share stays the same. Older kernels change nothing.
/// </summary>
[SupportedOSPlatform("linux")]
internal static unsafe partial class ThreadTurns
{
    /// <summary>The shortest that the kernel grants.</summary>
    private const ulong ShortNanoseconds = 100_000;

    private const uint Normal = 0;

    // linux/sched/types.h: sched_attr as of its first version.
    private const int AttributeBytes = 48;

    /// <summary>Asks for short turns.</summary>
    /// <param name="thread">The thread's number; nothing happens where it has ended.</param>
    public static void Shorten(int thread) => Set(thread, ShortNanoseconds);

    /// <summary>Asks for the system's own again.</summary>
    /// <param name="thread">The thread's number; nothing happens where it has ended.</param>
    public static void Restore(int thread) => Set(thread, 0);

    /// <summary>The turns of a thread in nanoseconds: 0 on kernels that have none to choose, and where it has ended.</summary>
    internal static ulong Nanoseconds(int thread)
    {
        var attributes = default(Attributes);
        return Numbers is var (get, _) && syscall(get, thread, &attributes, AttributeBytes, 0) == 0 ? attributes.Runtime : 0;
    }

    // What else is set for the thread (its nice value) is read and handed back.
    private static void Set(int thread, ulong nanoseconds)
    {
        var attributes = default(Attributes);
        if (Numbers is var (get, set) && syscall(get, thread, &attributes, AttributeBytes, 0) == 0 && attributes.Policy == Normal)
        {
            attributes.Size = AttributeBytes;
            attributes.Runtime = nanoseconds;
            _ = syscall(set, thread, &attributes, 0, 0);
        }
    }

    /// <summary>The numbers of sched_getattr and sched_setattr, for which older C libraries have no function.</summary>
    private static (nint Get, nint Set)? Numbers => RuntimeInformation.ProcessArchitecture switch
    {
        Architecture.X64 => (315, 314),
        Architecture.Arm64 => (275, 274),
        _ => null,
    };

    [LibraryImport("libc.so.6")]
    private static partial nint syscall(nint number, nint thread, Attributes* attributes, nint third, nint fourth);

    [StructLayout(LayoutKind.Sequential)]
    private struct Attributes
    {
        public uint Size;
        public uint Policy;
        public ulong Flags;
        public int Nice;
        public uint Priority;
        public ulong Runtime;
        public ulong Deadline;
        public ulong Period;
    }
}
