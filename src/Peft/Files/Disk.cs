using System.Runtime.InteropServices;

namespace Peft.Files;

/// <summary>
/// The steps by which files reach the disk and take their names. They are in one place so that what must hold at each of them (the old
/// content or the new one, whole) can be tried by making any of them the last.
/// </summary>
internal static partial class Disk
{
    private static readonly AsyncLocal<Action<string, string>?> s_observer = new();

    /// <summary>Sees each step and its path before it is made, on this thread and those it starts; what it throws is the step's error. For tests.</summary>
    public static Action<string, string>? Observer
    {
        get => s_observer.Value;
        set => s_observer.Value = value;
    }

    /// <summary>Waits until what was written is on the disk.</summary>
    /// <exception cref="IOException">The system could not put it there.</exception>
    public static void Sync(FileStream stream)
    {
        stream.Flush();
        Observer?.Invoke("sync", stream.Name);
        if (!OperatingSystem.IsLinux())
        {
            stream.Flush(flushToDisk: true);
        }
        else
        {
            SyncHandle(stream.SafeFileHandle, stream.Name);
        }
    }

    /// <summary>Waits until the names in a folder are on the disk, where the system tells folders and their files apart.</summary>
    /// <exception cref="IOException">The system could not put them there.</exception>
    public static void SyncFolder(string folder)
    {
        Observer?.Invoke("sync folder", folder);
        if (!OperatingSystem.IsLinux())
        {
            return;
        }

        using var handle = Linux.Open(folder, Linux.ReadOnly);
        if (handle.IsInvalid)
        {
            ThrowUnlessUnsupported(folder, Marshal.GetLastPInvokeError());
            return;
        }

        SyncHandle(handle, folder);
    }

    /// <summary>Writes into an open file.</summary>
    public static void Write(FileStream stream, ReadOnlySpan<byte> bytes)
    {
        Observer?.Invoke("write", stream.Name);
        stream.Write(bytes);
        stream.Flush();
    }

    /// <summary>Gives a file another name on the same disk, in place of the file that has it.</summary>
    public static void Move(string from, string to)
    {
        Observer?.Invoke("move", to);
        File.Move(from, to, overwrite: true);
    }

    /// <summary>Gives a folder another name, which nothing may have.</summary>
    public static void MoveFolder(string from, string to)
    {
        Observer?.Invoke("move folder", to);
        Directory.Move(from, to);
    }

    /// <summary>Deletes a file.</summary>
    public static void Delete(string path)
    {
        Observer?.Invoke("delete", path);
        File.Delete(path);
    }

    /// <summary>Deletes a folder with all that is in it.</summary>
    public static void DeleteFolder(string folder)
    {
        Observer?.Invoke("delete folder", folder);
        Directory.Delete(folder, recursive: true);
    }

    /// <summary>Runs a step that leaves only litter where it fails, and says so in the trace.</summary>
    /// <returns>Whether it succeeded.</returns>
    public static bool TryTo(Action step)
    {
        try
        {
            step();
            return true;
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            System.Diagnostics.Trace.TraceWarning($"Cleaning up: {error.Message}");
            return false;
        }
    }

    private static unsafe void SyncHandle(SafeHandle handle, string path)
    {
        const int Interrupted = 4;
        int code;
        do
        {
            code = ((delegate* unmanaged[Cdecl]<int, int>)Linux.Fsync)((int)handle.DangerousGetHandle()) == 0 ? 0 : Marshal.GetLastSystemError();
        }
        while (code == Interrupted);
        if (code != 0)
        {
            ThrowUnlessUnsupported(path, code);
        }
    }

    /// <summary>File systems that have no such step say so, and folders may be writable but unreadable; anything else is a disk that failed.</summary>
    private static void ThrowUnlessUnsupported(string path, int code)
    {
        const int NotPermitted = 1, AccessDenied = 13, InvalidArgument = 22, ReadOnlyFileSystem = 30, NotImplemented = 38, NotSupported = 95;
        if (code is not (NotPermitted or AccessDenied or InvalidArgument or ReadOnlyFileSystem or NotImplemented or NotSupported))
        {
            throw new IOException($"'{path}' could not be put on the disk: {Marshal.GetPInvokeErrorMessage(code)}.", code);
        }
    }

    private static partial class Linux
    {
        /// <summary>O_RDONLY and O_CLOEXEC.</summary>
        public const int ReadOnly = 0x80000;

        [LibraryImport("libc", EntryPoint = "open", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
        public static partial Microsoft.Win32.SafeHandles.SafeFileHandle Open(string path, int flags);

        /// <summary>As the whole process has it, so that what is loaded before libc may stand in for it.</summary>
        public static readonly nint Fsync = NativeLibrary.GetExport(NativeLibrary.GetMainProgramHandle(), "fsync");
    }
}
