using Microsoft.Win32.SafeHandles;

namespace Peft.Tensors;

/// <summary>
/// A weight file whose pages are a model's memory. A file that takes its name leaves it alone, but who writes into it changes the weights, and
/// who shortens it makes the system end the process at the next look behind its new end. So it is looked at before it is used.
/// </summary>
internal sealed class MappedFile : IDisposable
{
    /// <summary>Files up to this size are read into memory instead, in bytes.</summary>
    public const long SmallestBytes = 64L << 20;

    private readonly SafeFileHandle _file;
    private readonly long _length;
    private readonly DateTime _written;

    /// <summary>Opens a file once more; the handle follows the file, not its name.</summary>
    /// <exception cref="PeftException"><c>FileChanged</c>: it isn't the one that was opened before.</exception>
    public MappedFile(string path, long length, DateTime written)
    {
        Path = path;
        _length = length;
        _written = written;
        try
        {
            _file = File.OpenHandle(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite | FileShare.Delete);
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            throw Changed($"'{path}' was replaced or changed while it was read.");
        }

        try
        {
            RefuseChange();
        }
        catch
        {
            _file.Dispose();
            throw;
        }
    }

    /// <summary>Where it was when it was opened.</summary>
    public string Path { get; }

    /// <summary>Whether a file is large, and on a disk of this machine: a share may go away, and with it the memory.</summary>
    public static bool IsWorthMapping(string path, long length)
    {
        return length > SmallestBytes && IsOnThisMachine(path);
    }

    /// <summary>Whether a file is on a disk of this machine.</summary>
    public static bool IsOnThisMachine(string path)
    {
        try
        {
            var drive = new DriveInfo(System.IO.Path.GetFullPath(path));
            return drive.DriveType != DriveType.Network && !IsForeign(drive.DriveFormat);
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException or ArgumentException)
        {
            return false;
        }
    }

    /// <summary>Refuses to go on with weights that someone has written over.</summary>
    /// <exception cref="PeftException"><c>FileChanged</c>.</exception>
    public void RefuseChange()
    {
        if (RandomAccess.GetLength(_file) != _length || File.GetLastWriteTimeUtc(_file) != _written)
        {
            throw Changed($"'{Path}' was written over while a model is loaded from it, so its weights are no longer what they were.");
        }
    }

    /// <inheritdoc/>
    public void Dispose() => _file.Dispose();

    /// <summary>What another machine or program serves looks like a file system of this one.</summary>
    private static bool IsForeign(string format) =>
        format.StartsWith("fuse", StringComparison.OrdinalIgnoreCase) || format is "9p" or "v9fs" or "virtiofs" or "vboxsf" or "vmhgfs" or "prl_fs" or "afs" or "ceph";

    private PeftException Changed(string what) => new("FileChanged", what)
    {
        Target = Path,
        RecommendedAction = "Import the model again. To put other weights into a folder whose model is loaded, use Export-PeftModel, or move files there instead of copying over them.",
    };
}
