using System.Diagnostics;

namespace Peft.Files;

/// <summary>
/// Replaces several files of one folder together. The new ones are written into a hidden folder inside it; when all of them and a list are on
/// the disk, the old ones are moved out of the way and the new ones in. A process killed before that point leaves the old files, one killed
/// after it the new: whoever next reads or writes the folder with Peft finishes the move (<see cref="Complete"/>). Other programs find files
/// missing in between, never a mixture. Where a step fails while the process lives, the old files are put back.
/// </summary>
internal sealed class FileSet : IDisposable
{
    private const string Prefix = ".peft-save-";
    private const string LockName = "lock";
    private const string ListName = "commit";
    private const string Replaced = "=";
    private const string Removed = "-";
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(20);

    private readonly string _folder;
    private readonly string _place;
    private readonly HeldFile _held;

    private FileSet(string folder, string place, HeldFile held)
    {
        _folder = folder;
        _place = place;
        _held = held;
    }

    private string New => Path.Combine(_place, "new");

    private string Old => Path.Combine(_place, "old");

    private string List => Path.Combine(_place, ListName);

    /// <summary>Writes files and lets them take the place of those with their names.</summary>
    /// <param name="folder">The folder, which must exist.</param>
    /// <param name="files">Names, which may have a folder in front, and what writes the content.</param>
    /// <param name="stale">Names of files that go when the new ones come, unless they are among them.</param>
    /// <exception cref="PeftException"><c>FolderNotFound</c>, <c>FileReadOnly</c>, <c>DiskFull</c>, <c>FileWriteFailed</c>; what was there is unchanged.</exception>
    public static void Replace(string folder, IReadOnlyList<(string Name, Action<Stream> Write)> files, IEnumerable<string>? stale = null)
    {
        folder = Path.GetFullPath(folder);
        foreach ((var name, _) in files)
        {
            var target = Path.Combine(folder, name);
            AtomicFile.MakeFolder(Path.GetDirectoryName(target)!);
            AtomicFile.RefuseUnwritable(target);
        }

        Complete(folder);
        var current = folder;
        try
        {
            Sweep(folder);
            using var set = Begin(folder);
            foreach ((var name, var write) in files)
            {
                current = Path.Combine(folder, name);
                set.Add(name, write);
            }

            current = folder;
            set.Commit([.. files.Select(static file => file.Name)], Except(stale ?? [], files));
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            throw AtomicFile.WriteError(current, error);
        }
    }

    /// <summary>Finishes what a killed process had promised, and waits for a living one that is about to. Anything that reads several files of a folder begins with it.</summary>
    /// <exception cref="PeftException"><c>SaveUnfinished</c>: it can't be finished here and now.</exception>
    public static void Complete(string folder)
    {
        foreach (var place in Places(folder))
        {
            var list = Path.Combine(place, ListName);
            for (var waited = Stopwatch.StartNew(); File.Exists(list); Thread.Sleep(20))
            {
                if (TryFinish(Path.GetFullPath(folder), place))
                {
                    break;
                }

                if (waited.Elapsed > s_patience)
                {
                    throw Unfinished(folder, place, null);
                }
            }
        }
    }

    /// <summary>Lets go of the hidden folder, which is gone then unless the move is still to be finished.</summary>
    public void Dispose()
    {
        if (File.Exists(List))
        {
            _held.Dispose();
            return;
        }

        // The lock goes last: a folder without one is empty.
        Disk.TryTo(() => DeleteIfThere(New));
        Disk.TryTo(() => DeleteIfThere(Old));
        _held.Dispose();
        Disk.TryTo(() => Directory.Delete(_place, recursive: true));
    }

    /// <summary>A name in another case may be the same file, so it is none of those that go.</summary>
    private static string[] Except(IEnumerable<string> stale, IEnumerable<(string Name, Action<Stream> Write)> files) =>
        [.. stale.Except(files.Select(static file => file.Name), StringComparer.OrdinalIgnoreCase)];

    private static string[] Places(string folder) => Directory.Exists(folder) ? Directory.GetDirectories(folder, Prefix + "*") : [];

    /// <summary>Finishes what a process that is dead has promised.</summary>
    /// <returns>False where it lives, or that can't be told.</returns>
    private static bool TryFinish(string folder, string place)
    {
        try
        {
            var held = HeldFile.TryHold(Path.Combine(place, LockName));
            if (held is not { Excludes: true })
            {
                held?.Dispose();
                return false;
            }

            using var set = new FileSet(folder, place, held);
            set.Finish();
            return true;
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            throw Unfinished(folder, place, error);
        }
    }

    private static FileSet Begin(string folder)
    {
        while (true)
        {
            var place = Path.Combine(folder, Prefix + Path.GetRandomFileName());
            Directory.CreateDirectory(place);
            try
            {
                return new FileSet(folder, place, HeldFile.Make(Path.Combine(place, LockName)));
            }
            catch (DirectoryNotFoundException)
            {
                // Another's sweep took the empty folder for litter.
            }
        }
    }

    /// <summary>Deletes what killed processes left before they had promised anything.</summary>
    private static void Sweep(string folder)
    {
        foreach (var place in Places(folder))
        {
            Disk.TryTo(() =>
            {
                var lockFile = Path.Combine(place, LockName);
                if (!File.Exists(lockFile))
                {
                    Directory.Delete(place);
                }
                else if (HeldFile.TryHold(lockFile) is { } held)
                {
                    if (held.Excludes)
                    {
                        new FileSet(folder, place, held).Dispose();
                    }

                    held.Dispose();
                }
            });
        }
    }

    private static void DeleteIfThere(string folder)
    {
        if (Directory.Exists(folder))
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    private static PeftException Unfinished(string folder, string place, Exception? error) => new(
        "SaveUnfinished", $"A save into '{folder}' is under way or was broken off, and its files in '{place}' could not be put in place{(error is null ? "." : $": {error.Message}")}", error)
    {
        Target = folder,
        RecommendedAction = "Wait for the program that writes there. Where none does, make the folder writable and try again.",
    };

    private void Add(string name, Action<Stream> write)
    {
        var path = Path.Combine(New, name);
        Directory.CreateDirectory(Path.GetDirectoryName(path)!);
        AtomicFile.Create(path, write).Dispose();
    }

    /// <summary>The list is the promise: with it on the disk, the new files are the folder's.</summary>
    private void Commit(string[] written, string[] stale)
    {
        foreach (var inside in Directory.GetDirectories(New, "*", SearchOption.AllDirectories).Append(New))
        {
            Disk.SyncFolder(inside);
        }

        var unfinished = List + ".partial";
        var lines = written.Select(static name => Replaced + name).Concat(stale.Select(static name => Removed + name));
        AtomicFile.Create(unfinished, stream => stream.Write(System.Text.Encoding.UTF8.GetBytes(string.Join('\n', lines)))).Dispose();
        Disk.SyncFolder(_place);
        Disk.SyncFolder(_folder);
        Disk.Move(unfinished, List);
        try
        {
            Disk.SyncFolder(_place);
            Move(written, stale);
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            PutBack(written, stale);
            throw;
        }

        Disk.TryTo(Forget);
    }

    private void Finish()
    {
        var lines = File.ReadAllLines(List);
        Move(Names(lines, Replaced), Names(lines, Removed));
        Forget();

        static string[] Names(string[] lines, string kind) => [.. lines.Where(line => line.StartsWith(kind, StringComparison.Ordinal)).Select(static line => line[1..])];
    }

    private void Forget()
    {
        Disk.Delete(List);
        Disk.SyncFolder(_place);
    }

    /// <summary>Can be taken up again wherever it was broken off.</summary>
    private void Move(string[] written, string[] stale)
    {
        foreach (var name in written.Where(name => File.Exists(Path.Combine(New, name))).Concat(stale).Where(name => File.Exists(Path.Combine(_folder, name))))
        {
            MoveFile(Path.Combine(_folder, name), Path.Combine(Old, name));
        }

        foreach (var name in written.Where(name => File.Exists(Path.Combine(New, name))))
        {
            MoveFile(Path.Combine(New, name), Path.Combine(_folder, name));
        }

        foreach (var target in written.Select(name => Path.GetDirectoryName(Path.Combine(_folder, name))!).Append(_folder).Distinct())
        {
            Disk.SyncFolder(target);
        }
    }

    /// <summary>The old files again, after a step has failed. Where that fails as well, the list stays, and the next who comes tries to finish.</summary>
    private void PutBack(string[] written, string[] stale) => Disk.TryTo(() =>
    {
        foreach (var name in written.Where(name => !File.Exists(Path.Combine(New, name))))
        {
            MoveFile(Path.Combine(_folder, name), Path.Combine(New, name));
        }

        foreach (var name in written.Concat(stale).Where(name => File.Exists(Path.Combine(Old, name))))
        {
            MoveFile(Path.Combine(Old, name), Path.Combine(_folder, name));
        }

        Forget();
    });

    private static void MoveFile(string from, string to)
    {
        Directory.CreateDirectory(Path.GetDirectoryName(to)!);
        Disk.Move(from, to);
    }
}
