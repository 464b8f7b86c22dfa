using System.Globalization;
using Peft.Tensors;
using static TorchSharp.torch;

namespace Peft.Models.Placement;

/// <summary>Files made for weights that stay on the disk and aren't there as they are computed with. They go with the model.</summary>
/// <param name="path">The folder that they are put below; null where none may be written.</param>
internal sealed class OffloadFolder(string? path) : IDisposable
{
    private string? _own;
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
            _own ??= Directory.CreateDirectory(Path.Combine(path, $"peft-{Guid.NewGuid():N}")).FullName;
            var file = Path.Combine(_own, string.Create(CultureInfo.InvariantCulture, $"{_count++}.dat"));
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
        try
        {
            if (_own is not null)
            {
                Directory.Delete(_own, recursive: true);
            }
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            // Who looks at them still keeps them; they are only in the way.
        }
    }
}
