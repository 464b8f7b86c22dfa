namespace Peft.Files;

/// <summary>
/// A file held open for as long as something lasts, so that others see whether it still does: the system lets go of it when the process
/// ends, however it ends. No clock and no process number is asked.
/// </summary>
internal sealed class HeldFile : IDisposable
{
    private readonly FileStream _stream;

    private HeldFile(FileStream stream) => _stream = stream;

    /// <summary>Whether holding keeps others out here. A few network file systems know no locks.</summary>
    public bool Excludes
    {
        get
        {
            using var other = TryHold(_stream.Name);
            return other is null;
        }
    }

    /// <summary>Makes a file and holds it.</summary>
    /// <exception cref="IOException">It can't be made.</exception>
    public static HeldFile Make(string path) => new(new FileStream(path, FileMode.CreateNew, FileAccess.ReadWrite, FileShare.None, 1));

    /// <summary>Holds a file unless someone else does.</summary>
    /// <param name="path">The file.</param>
    /// <param name="mode">How it is opened: an existing one, unless said otherwise.</param>
    /// <returns>The file, or null where someone else holds or writes it, or it isn't there.</returns>
    /// <exception cref="UnauthorizedAccessException">It can't be written.</exception>
    public static HeldFile? TryHold(string path, FileMode mode = FileMode.Open)
    {
        try
        {
            return new HeldFile(new FileStream(path, mode, FileAccess.ReadWrite, FileShare.None, 1));
        }
        catch (IOException)
        {
            return null;
        }
    }

    /// <inheritdoc/>
    public void Dispose() => _stream.Dispose();
}
