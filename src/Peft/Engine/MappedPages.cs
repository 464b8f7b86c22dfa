namespace Peft.Engine;

/// <summary>
/// Which pages of mapped files are in this process's memory. Linux alone; elsewhere the system decides by itself. Pages that are dropped stay in the system's
/// cache as long as it has room, and are read again when someone looks at them.
/// </summary>
internal static class MappedPages
{
    private static readonly nint s_page = Environment.SystemPageSize;

    /// <summary>Has the system read memory that is looked at soon. Doesn't fail, whatever lies there, and may take as long as the reading.</summary>
    /// <param name="start">Where it begins.</param>
    /// <param name="bytes">Its length.</param>
    public static void ReadAhead(nint start, long bytes)
    {
        if (OperatingSystem.IsLinux() && bytes > 0)
        {
            var first = start / s_page * s_page;
            LinuxProcess.ReadAhead(first, start + (nint)bytes - first);
        }
    }

    /// <summary>
    /// Takes pages out of this process's memory. What was written to them is lost, so that it is called on memory that only files are the origin of; pages
    /// that lie only partly in the memory named are left, for they are others' too.
    /// </summary>
    /// <param name="start">Where it begins.</param>
    /// <param name="bytes">Its length.</param>
    public static void Drop(nint start, long bytes)
    {
        var first = (start + s_page - 1) / s_page * s_page;
        var end = (start + (nint)bytes) / s_page * s_page;
        if (OperatingSystem.IsLinux() && end > first)
        {
            LinuxProcess.Drop(first, end - first);
        }
    }
}
