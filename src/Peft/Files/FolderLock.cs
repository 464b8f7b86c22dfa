using System.Diagnostics;
using System.Globalization;

namespace Peft.Files;

/// <summary>
/// Keeps a folder for one user at a time: a hidden file in it is held open, whose end the system sees to, and another one says who holds it.
/// </summary>
internal sealed class FolderLock : IDisposable
{
    private const string LockName = ".lock";
    private const string OwnerName = ".lock.owner";
    private readonly string _folder;
    private readonly HeldFile _held;

    private FolderLock(string folder, HeldFile held)
    {
        _folder = folder;
        _held = held;
        Excludes = held.Excludes;
    }

    /// <summary>Whether others are really kept out; a few network file systems know no locks.</summary>
    public bool Excludes { get; }

    /// <summary>Names of the files a lock has in its folder.</summary>
    public static IReadOnlyList<string> FileNames { get; } = [LockName, OwnerName];

    /// <summary>Takes a folder, which is made where it isn't there.</summary>
    /// <param name="folder">The folder.</param>
    /// <param name="use">What for, as <c>trains the adapter 'x'</c>.</param>
    /// <exception cref="PeftException"><c>OutputBusy</c>, naming who has it; or what making the folder throws.</exception>
    public static FolderLock Take(string folder, string use)
    {
        AtomicFile.MakeFolder(folder);
        try
        {
            if (HeldFile.TryHold(Path.Combine(folder, LockName), FileMode.OpenOrCreate) is { } held)
            {
                var taken = new FolderLock(folder, held);
                Disk.TryTo(() => File.WriteAllText(Path.Combine(folder, OwnerName), Describe(use)));
                return taken;
            }
        }
        catch (UnauthorizedAccessException error)
        {
            throw AtomicFile.WriteError(Path.Combine(folder, LockName), error);
        }

        throw new PeftException("OutputBusy", $"'{folder}' is in use: {Owner(folder)}.")
        {
            Target = folder,
            RecommendedAction = "Wait for it to end or stop it, or choose another output path.",
        };
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        Disk.TryTo(() => File.Delete(Path.Combine(_folder, OwnerName)));
        if (!OperatingSystem.IsWindows())
        {
            Disk.TryTo(() => File.Delete(Path.Combine(_folder, LockName)));
            _held.Dispose();
            return;
        }

        _held.Dispose();
        Disk.TryTo(() => File.Delete(Path.Combine(_folder, LockName)));
    }

    private static string Describe(string use)
    {
        using var process = Process.GetCurrentProcess();
        return string.Create(CultureInfo.InvariantCulture, $"process {process.Id} ({process.ProcessName}) on {Environment.MachineName} {use} since {DateTime.UtcNow:yyyy-MM-dd HH:mm:ss} UTC");
    }

    private static string Owner(string folder)
    {
        try
        {
            return File.ReadAllText(Path.Combine(folder, OwnerName)).Trim() is { Length: > 0 and < 500 } text ? text : "another process holds it";
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            return "another process holds it";
        }
    }
}
