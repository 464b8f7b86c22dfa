namespace Peft.Files;

/// <summary>
/// Writes a file whole or not at all: the content goes to a hidden temporary file in the same folder, is flushed to the disk and
/// then takes the target's place in one step. Whatever fails on the way (a full disk, a killed process, an exception of the
/// writer), the old file stays as it was and nothing half-written carries the target's name.
/// </summary>
public static class AtomicFile
{
    private const int BufferSize = 1 << 20;
    private const string Prefix = ".peft-";
    private const string Ending = ".partial";
    private static readonly TimeSpan s_youngest = TimeSpan.FromMinutes(1);

    /// <summary>Writes a file through a stream.</summary>
    /// <param name="path">The file to create or replace; its folder must exist.</param>
    /// <param name="write">Writes the whole content. What it throws is passed on, after cleaning up.</param>
    /// <exception cref="PeftException"><c>FolderNotFound</c>, <c>FileReadOnly</c>, <c>DiskFull</c> or <c>FileWriteFailed</c>.</exception>
    public static void Write(string path, Action<Stream> write)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        ArgumentNullException.ThrowIfNull(write);
        string full = Path.GetFullPath(path), folder = Path.GetDirectoryName(full) ?? full;
        RefuseUnwritable(full);
        Sweep(folder);
        var temporary = Path.Combine(folder, $"{Prefix}{Path.GetRandomFileName()}{Ending}");
        try
        {
            // Open, and with it locked, until it has its name: nobody's sweep takes it for litter.
            using var stream = Create(temporary, write);
            Disk.Move(temporary, full);
            Disk.SyncFolder(folder);
        }
        catch (Exception error)
        {
            Disk.TryTo(() => File.Delete(temporary));
            if (error is IOException or UnauthorizedAccessException)
            {
                throw WriteError(full, error);
            }

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

    /// <summary>Whether a name is one of those under which files are written before they have their own: litter, where nothing is being written.</summary>
    internal static bool IsTemporary(string name) => name.StartsWith(Prefix, StringComparison.Ordinal);

    /// <summary>Makes a folder for files to come, where it isn't there yet.</summary>
    /// <param name="folder">The folder.</param>
    /// <exception cref="PeftException"><c>FileWriteFailed</c>.</exception>
    internal static void MakeFolder(string folder)
    {
        try
        {
            var full = Path.GetFullPath(folder);
            List<string> missing = [];
            for (var each = full; each is not null && !Directory.Exists(each); each = Path.GetDirectoryName(each))
            {
                missing.Add(each);
            }

            Directory.CreateDirectory(full);
            foreach (var made in missing)
            {
                Disk.SyncFolder(Path.GetDirectoryName(made)!);
            }
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

    /// <summary>Creates a file and puts its content on the disk.</summary>
    /// <param name="path">The file, which must not be there.</param>
    /// <param name="write">Writes the whole content.</param>
    /// <returns>The file, still open; another may rename it, but not open it for itself alone.</returns>
    internal static FileStream Create(string path, Action<Stream> write)
    {
        var stream = new FileStream(path, FileMode.CreateNew, FileAccess.Write, FileShare.Delete, BufferSize);
        try
        {
            write(stream);
            Disk.Sync(stream);
            return stream;
        }
        catch
        {
            stream.Dispose();
            throw;
        }
    }

    /// <summary>
    /// Deletes what a killed process left: a model's worth of bytes, perhaps. What is being written is held open by who writes it; what can't
    /// be told so, since the file system knows no locks, stays.
    /// </summary>
    private static void Sweep(string folder)
    {
        foreach (var left in Directory.EnumerateFiles(folder, Prefix + "*" + Ending).Where(IsOld))
        {
            Disk.TryTo(() =>
            {
                bool isDead;
                using (var held = HeldFile.TryHold(left))
                {
                    isDead = held is { Excludes: true };
                }

                if (isDead)
                {
                    File.Delete(left);
                }
            });
        }
    }

    /// <summary>Between the moment that a file appears and the one that it is locked it is young, by whatever clock.</summary>
    private static bool IsOld(string path) => (DateTime.UtcNow - File.GetLastWriteTimeUtc(path)).Duration() > s_youngest;

    /// <summary>Refuses a target that can't be written, before anything is.</summary>
    internal static void RefuseUnwritable(string path)
    {
        var folder = Path.GetDirectoryName(path);
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

    /// <summary>The error of a file that could not be written.</summary>
    internal static PeftException WriteError(string path, Exception error)
    {
        const int NoSpaceOnUnix = 28, DiskFullOnWindows = unchecked((int)0x80070070), HandleDiskFullOnWindows = unchecked((int)0x80070027);
        const int SharingViolation = unchecked((int)0x80070020), LockViolation = unchecked((int)0x80070021), UserMappedFile = unchecked((int)0x800704C8);
        if (error.HResult is SharingViolation or LockViolation or UserMappedFile)
        {
            return new PeftException(
                "FileInUse",
                $"'{path}' could not be written: Windows keeps a file from being replaced while a model that was loaded from it holds its weights there, "
                + $"or while another program has it open ({error.Message}). What was there before is unchanged.",
                error)
            {
                Target = path,
                RecommendedAction = "Remove the model that was loaded from it (Get-PeftModel lists them, Remove-PeftModel), close the other program, or save to another folder.",
            };
        }

        var full = error.HResult is NoSpaceOnUnix or DiskFullOnWindows or HandleDiskFullOnWindows;
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
