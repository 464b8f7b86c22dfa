namespace Peft.Files;

/// <summary>
/// Writes a file whole or not at all: the content goes to a hidden temporary file in the same folder, is flushed to the disk and
/// then takes the target's place in one step. Whatever fails on the way (a full disk, a killed process, an exception of the
/// writer), the old file stays as it was and nothing half-written carries the target's name.
/// </summary>
public static class AtomicFile
{
    private const int BufferSize = 1 << 20;
    private static readonly DateTime Started = System.Diagnostics.Process.GetCurrentProcess().StartTime.ToUniversalTime();

    /// <summary>Writes a file through a stream.</summary>
    /// <param name="path">The file to create or replace; its folder must exist.</param>
    /// <param name="write">Writes the whole content. What it throws is passed on, after cleaning up.</param>
    /// <exception cref="PeftException"><c>FolderNotFound</c>, <c>FileReadOnly</c>, <c>DiskFull</c> or <c>FileWriteFailed</c>.</exception>
    public static void Write(string path, Action<Stream> write)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        ArgumentNullException.ThrowIfNull(write);
        string temporary = WriteBeside(path, write);
        try
        {
            Replace(temporary, path);
        }
        catch
        {
            Discard(temporary);
            throw;
        }
    }

    /// <summary>Writes text as UTF-8 without a byte order mark.</summary>
    /// <param name="path">The file to create or replace.</param>
    /// <param name="text">The whole content.</param>
    public static void WriteText(string path, string text)
    {
        ArgumentNullException.ThrowIfNull(text);
        Write(path, stream => stream.Write(System.Text.Encoding.UTF8.GetBytes(text)));
    }

    /// <summary>Makes a folder for files to come, where it isn't there yet.</summary>
    /// <param name="folder">The folder.</param>
    /// <exception cref="PeftException"><c>FileWriteFailed</c>.</exception>
    internal static void MakeFolder(string folder)
    {
        try
        {
            Directory.CreateDirectory(folder);
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            throw new PeftException("FileWriteFailed", $"The folder '{folder}' could not be made: {error.Message}", error)
            {
                Target = folder,
                RecommendedAction = "Check that you may write there, or save somewhere else.",
            };
        }
    }

    /// <summary>First half of <see cref="Write"/>, for those who write several files and then rename them together.</summary>
    /// <param name="path">The target, whose folder takes the temporary file.</param>
    /// <param name="write">Writes the whole content.</param>
    /// <returns>The temporary file, flushed and closed.</returns>
    internal static string WriteBeside(string path, Action<Stream> write)
    {
        string full = Path.GetFullPath(path);
        RefuseUnwritable(full);
        string folder = Path.GetDirectoryName(full)!;
        Sweep(folder);
        string temporary = Path.Combine(folder, $".peft-{Path.GetRandomFileName()}.partial");
        try
        {
            using var stream = new FileStream(temporary, FileMode.CreateNew, FileAccess.Write, FileShare.None, BufferSize);
            write(stream);
            stream.Flush(flushToDisk: true);
        }
        catch (Exception error)
        {
            Discard(temporary);
            if (error is IOException or UnauthorizedAccessException)
            {
                throw WriteError(full, error);
            }

            throw;
        }

        return temporary;
    }

    /// <summary>Second half of <see cref="Write"/>: the temporary file takes the target's name.</summary>
    /// <param name="temporary">What <see cref="WriteBeside"/> returned.</param>
    /// <param name="path">The target.</param>
    internal static void Replace(string temporary, string path)
    {
        try
        {
            File.Move(temporary, path, overwrite: true);
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            throw WriteError(path, error);
        }
    }

    /// <summary>Deletes a temporary file and keeps silent if even that fails, for an error is already on its way.</summary>
    /// <param name="temporary">What <see cref="WriteBeside"/> returned.</param>
    internal static void Discard(string temporary)
    {
        try
        {
            File.Delete(temporary);
        }
        catch (IOException)
        {
            System.Diagnostics.Trace.TraceWarning($"The temporary file {temporary} could not be deleted.");
        }
        catch (UnauthorizedAccessException)
        {
            System.Diagnostics.Trace.TraceWarning($"The temporary file {temporary} could not be deleted.");
        }
    }

    /// <summary>Deletes what a killed process left: a model's worth of bytes, perhaps. What another process is writing is locked, or newer than this one.</summary>
    private static void Sweep(string folder)
    {
        foreach (string left in Directory.EnumerateFiles(folder, ".peft-*.partial").Where(path => File.GetLastWriteTimeUtc(path) < Started))
        {
            try
            {
                using var deleted = new FileStream(left, FileMode.Open, FileAccess.ReadWrite, FileShare.None, 1, FileOptions.DeleteOnClose);
            }
            catch (Exception error) when (error is IOException or UnauthorizedAccessException)
            {
                System.Diagnostics.Trace.TraceWarning($"The temporary file {left} was left alone: {error.Message}");
            }
        }
    }

    private static void RefuseUnwritable(string path)
    {
        string? folder = Path.GetDirectoryName(path);
        if (folder is null || Directory.Exists(path))
        {
            throw new PeftException("FileWriteFailed", $"'{path}' is a folder; a file was to be written there.") { Target = path };
        }

        if (!Directory.Exists(folder))
        {
            throw new PeftException("FolderNotFound", $"The folder of '{path}' does not exist.")
            {
                Target = path,
                RecommendedAction = "Create the folder first, or choose another one.",
            };
        }

        if (File.Exists(path) && File.GetAttributes(path).HasFlag(FileAttributes.ReadOnly))
        {
            throw new PeftException("FileReadOnly", $"'{path}' is read-only and was left as it is.")
            {
                Target = path,
                RecommendedAction = "Remove the read-only mark, or write to another file.",
            };
        }
    }

    private static PeftException WriteError(string path, Exception error)
    {
        const int NoSpaceOnUnix = 28, DiskFullOnWindows = unchecked((int)0x80070070), HandleDiskFullOnWindows = unchecked((int)0x80070027);
        bool full = error.HResult is NoSpaceOnUnix or DiskFullOnWindows or HandleDiskFullOnWindows;
        return full
            ? new PeftException("DiskFull", $"The disk is full: '{path}' could not be written. What was there before is unchanged.", error)
            {
                Target = path,
                RecommendedAction = "Free some space, or write to another disk.",
            }
            : new PeftException("FileWriteFailed", $"'{path}' could not be written: {error.Message} What was there before is unchanged.", error)
            {
                Target = path,
                RecommendedAction = "Check that the folder can be written to and that no other program holds the file open.",
            };
    }
}
