using System.Globalization;
using Peft.Files;
using Peft.Tensors;
using static TorchSharp.torch;

namespace Peft.Models.Placement;

/// <summary>
/// Files made for weights that stay on the disk and aren't there as they are computed with. They go with the model; those of a process that was killed go when
/// the next one writes below the same folder, which tells by a file that a living process holds.
/// </summary>
/// <param name="path">The folder that they are put below; null where none may be written.</param>
internal sealed class OffloadFolder(string? path) : IDisposable
{
    private const string Prefix = "peft-";
    private const string LockName = ".lock";
    private const string Ending = ".dat";
    private string? _own;
    private HeldFile? _held;
    private int _count;

    /// <summary>Writes a tensor and maps it.</summary>
    /// <param name="name">The weight that it belongs to.</param>
    /// <param name="tensor">On the CPU.</param>
    /// <returns>The same values, in the file; of the caller's dispose scope.</returns>
    /// <exception cref="PeftException"><c>OffloadFolderMissing</c>: nothing may be written. <c>OffloadFailed</c>.</exception>
    public Tensor Write(string name, Tensor tensor)
    {
        if (path is null)
        {
            throw new PeftException("OffloadFolderMissing", $"'{name}' is to stay on the disk, but the model's files don't hold it as it is computed with: it is of another type there, is quantised while it is loaded, or is part of another tensor.")
            {
                Target = name,
                RecommendedAction = "Name a folder with -OffloadFolder (offload_folder) that has room for these weights.",
            };
        }

        try
        {
            if (_own is null)
            {
                Sweep(path);
                _own = Directory.CreateDirectory(Path.Combine(path, $"{Prefix}{Guid.NewGuid():N}")).FullName;
                _held = HeldFile.Make(Path.Combine(_own, LockName));
            }

            var file = Path.Combine(_own, string.Create(CultureInfo.InvariantCulture, $"{_count++}{Ending}"));
            using (var stream = new FileStream(file, FileMode.CreateNew))
            {
                TensorMemory.CopyTo(tensor, stream);
            }

            return from_file(file, shared: false, size: tensor.NumberOfElements, dtype: tensor.dtype).view(tensor.shape);
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            throw new PeftException("OffloadFailed", $"'{name}' can't be written to '{path}': {error.Message}", error)
            {
                Target = path,
                RecommendedAction = "Name a folder with -OffloadFolder that may be written to and has room for the model's weights.",
            };
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _held?.Dispose();
        if (_own is not null)
        {
            // Who looks at them still keeps them; they are only in the way.
            Disk.TryTo(() => Directory.Delete(_own, recursive: true));
        }
    }

    /// <summary>Deletes what killed processes left: files of ours beside a lock that nobody holds. A folder without a lock may be one that another process is just making.</summary>
    private static void Sweep(string path)
    {
        foreach (var left in Directory.Exists(path) ? Directory.GetDirectories(path, Prefix + "*") : [])
        {
            Disk.TryTo(() =>
            {
                bool isDead;
                using (var held = HeldFile.TryHold(Path.Combine(left, LockName)))
                {
                    isDead = held is { Excludes: true };
                }

                if (isDead && Directory.GetFileSystemEntries(left).All(static entry => Path.GetFileName(entry) == LockName || Path.GetExtension(entry) == Ending))
                {
                    Directory.Delete(left, recursive: true);
                }
            });
        }
    }
}
