using System.Diagnostics.CodeAnalysis;
using Peft.Engine;
using Peft.Files;
using Peft.Tensors.Gguf;
using Peft.Tensors.Pickle;
using static TorchSharp.torch;

namespace Peft.Tensors;

/// <summary>What a file says about a tensor before it is read.</summary>
/// <param name="Name">The tensor's name.</param>
/// <param name="ScalarType">The type <see cref="TensorStore.Read"/> gives unless told otherwise.</param>
/// <param name="Shape">The sizes, outermost first.</param>
/// <param name="StoredType">The file's own name of the type in which the values are stored, such as <c>BF16</c> or <c>Q4_1</c>.</param>
public sealed record TensorEntry(string Name, ScalarType ScalarType, IReadOnlyList<long> Shape, string StoredType)
{
    /// <summary>The number of elements.</summary>
    public long Count { get; } = Product(Shape);

    /// <summary>The product of sizes, times the bytes of an element or whatever is asked for.</summary>
    /// <exception cref="OverflowException">It takes more than 64 bits.</exception>
    internal static long Product(IEnumerable<long> shape, long unit = 1) => shape.Aggregate(unit, static (product, size) => checked(product * size));
}

/// <summary>
/// Named tensors in one or several files, read one by one: a safetensors file, its shards, a PyTorch pickle, a GGUF file.
/// Reading may happen on several threads at once.
/// </summary>
public abstract class TensorStore : IDisposable
{
    /// <summary>The names of all tensors, in the file's order.</summary>
    public abstract IReadOnlyCollection<string> Names { get; }

    /// <summary>What messages call this store: its path.</summary>
    public abstract string Path { get; }

    /// <summary>Looks a tensor up without reading it.</summary>
    /// <param name="name">The tensor's name.</param>
    /// <param name="entry">Its type and shape.</param>
    /// <returns>Whether the store holds it.</returns>
    public abstract bool TryGetEntry(string name, [NotNullWhen(true)] out TensorEntry? entry);

    /// <summary>Type and shape of a tensor.</summary>
    /// <param name="name">The tensor's name.</param>
    /// <returns>The entry.</returns>
    /// <exception cref="PeftException"><c>TensorNotFound</c>.</exception>
    public TensorEntry Entry(string name) => TryGetEntry(name, out var entry)
        ? entry
        : throw new PeftException("TensorNotFound", $"'{Path}' holds no tensor '{name}'.") { Target = name };

    /// <summary>Whether the store holds a tensor.</summary>
    /// <param name="name">The tensor's name.</param>
    /// <returns>True if so.</returns>
    public bool Contains(string name) => TryGetEntry(name, out _);

    /// <summary>Reads a tensor into memory of its own.</summary>
    /// <param name="name">The tensor's name.</param>
    /// <param name="type">The type to convert to; null keeps the entry's.</param>
    /// <returns>A contiguous tensor on the CPU that the caller owns.</returns>
    /// <exception cref="PeftException"><c>TensorNotFound</c>, or what the format says about damaged data.</exception>
    public Tensor Read(string name, ScalarType? type = null)
    {
        var stored = ReadStored(Entry(name));
        if (type is null || type == stored.dtype)
        {
            return stored;
        }

        using (stored)
        {
            return stored.to(type.Value);
        }
    }

    /// <summary>
    /// Gives a tensor whose memory is the file itself, mapped and copied page by page where someone writes to it; the file is
    /// never changed. Where the format doesn't allow that, or the file is small or on another machine, it is read as <see cref="Read"/> does.
    /// The tensor outlives this store; who keeps it takes <see cref="TakeMappedFiles"/> as well.
    /// </summary>
    /// <param name="name">The tensor's name.</param>
    /// <param name="type">The type to convert to, which takes memory of its own unless it is the stored one.</param>
    /// <returns>A contiguous tensor on the CPU that the caller owns.</returns>
    public virtual Tensor Map(string name, ScalarType? type = null) => Read(name, type);

    /// <summary>Whether <see cref="Map"/> gives a tensor in its stored type without a copy.</summary>
    /// <param name="name">The tensor's name.</param>
    internal virtual bool StaysInFile(string name) => false;

    /// <summary>Reads the bytes of a tensor as they are stored, also those of types that the engine doesn't have.</summary>
    /// <param name="name">The tensor's name.</param>
    /// <returns>uint8, of the tensor's shape with the bytes of an element as another size where it has several.</returns>
    internal virtual Tensor ReadBytes(string name)
    {
        using var values = Read(name);
        var bytes = empty([.. values.shape, values.ElementSize], ScalarType.Byte);
        TensorMemory.CopyFrom(bytes, (target, offset) => TensorMemory.CopyTo(values, target, offset));
        return bytes;
    }

    /// <summary>The files that tensors from <see cref="Map"/> lie in, which the caller looks at before it uses them, and disposes of.</summary>
    internal virtual IEnumerable<MappedFile> TakeMappedFiles() => [];

    /// <summary>Has <see cref="Map"/> map files of any size from now on, where the format allows it and the file is on this machine.</summary>
    internal virtual void MapSmallFiles()
    {
    }

    /// <summary>Takes a tensor's pages out of this process's memory where they are a file's; who looks at it reads them again.</summary>
    /// <param name="tensor">A tensor of this store, which nobody wrote to, or a view of one; or null.</param>
    internal void DropPages(Tensor? tensor)
    {
        if (tensor is not null && IsMapped(tensor))
        {
            MappedPages.Drop(TensorMemory.Address(tensor), tensor.NumberOfElements * tensor.ElementSize);
        }
    }

    /// <summary>Whether a tensor's memory is one of the store's files.</summary>
    /// <param name="tensor">A tensor of this store, or a view of one.</param>
    internal virtual bool IsMapped(Tensor tensor) => false;

    /// <summary>As <see cref="ReadBytes"/>, of the file itself where <see cref="Map"/> is.</summary>
    /// <param name="name">The tensor's name.</param>
    internal virtual Tensor MapBytes(string name) => ReadBytes(name);

    /// <summary>Opens the tensors of a folder in Hugging Face layout.</summary>
    /// <param name="folder">The folder.</param>
    /// <param name="stem">File name without extension: <c>model</c>, <c>adapter_model</c>, <c>diffusion_pytorch_model</c>.</param>
    /// <param name="pickleStem">The same for pickles; null is <c>pytorch_model</c> beside <c>model</c>, else the stem itself.</param>
    /// <returns>
    /// The first of <c>STEM.safetensors</c>, <c>STEM.safetensors.index.json</c>, <c>PICKLESTEM.bin</c>, <c>PICKLESTEM.bin.index.json</c>.
    /// </returns>
    /// <exception cref="PeftException"><c>WeightsNotFound</c>, <c>FolderNotFound</c>, <c>SaveUnfinished</c>, or what opening the file throws.</exception>
    public static TensorStore OpenFolder(string folder, string stem = "model", string? pickleStem = null)
    {
        ArgumentException.ThrowIfNullOrEmpty(folder);
        if (!Directory.Exists(folder))
        {
            throw new PeftException("FolderNotFound", $"There is no folder '{folder}'.") { Target = folder };
        }

        FileSet.Complete(folder);
        pickleStem ??= stem == "model" ? "pytorch_model" : stem;
        string[] candidates = [$"{stem}.safetensors", $"{stem}.safetensors.index.json", $"{pickleStem}.bin", $"{pickleStem}.bin.index.json"];
        var found = candidates.Select(name => System.IO.Path.Combine(folder, name)).FirstOrDefault(File.Exists);
        return found is not null
            ? OpenFile(found)
            : throw new PeftException("WeightsNotFound", $"The folder '{folder}' holds no weights: none of {string.Join(", ", candidates)}.")
            {
                Target = folder,
                RecommendedAction = "Point to the folder that holds the weight files, or fetch them first.",
            };
    }

    /// <summary>Opens one file by what it is called and how it begins.</summary>
    /// <param name="path">A safetensors file, a pickle (.bin, .pt, .pth, .ckpt), a GGUF file, or the index of shards (.index.json).</param>
    /// <returns>The store; a GGUF file's tensors have its own names.</returns>
    /// <exception cref="PeftException"><c>FileNotFound</c>, or what the format says.</exception>
    /// <exception cref="NotSupportedByPeftException"><c>WeightFormatNotSupported</c>.</exception>
    public static TensorStore OpenFile(string path)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        var name = System.IO.Path.GetFileName(path);
        if (name.EndsWith(ShardedTensorStore.IndexEnding, StringComparison.OrdinalIgnoreCase))
        {
            return ShardedTensorStore.Open(path);
        }

        return System.IO.Path.GetExtension(name).ToUpperInvariant() switch
        {
            ".SAFETENSORS" => SafetensorsFile.Open(path),
            ".GGUF" => GgufFile.Open(path),
            ".BIN" or ".PT" or ".PTH" or ".CKPT" => PickleFile.Open(path),
            _ => throw new NotSupportedByPeftException("WeightFormatNotSupported", $"'{path}' has no known weight format.")
            {
                Target = path,
                RecommendedAction = "Peft reads safetensors files, PyTorch pickles (.bin, .pt, .pth, .ckpt) and GGUF files.",
            },
        };
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        Dispose(disposing: true);
        GC.SuppressFinalize(this);
    }

    /// <summary>Reads a tensor in the entry's type.</summary>
    /// <param name="entry">An entry of this store.</param>
    /// <returns>A contiguous tensor on the CPU that the caller owns.</returns>
    protected abstract Tensor ReadStored(TensorEntry entry);

    /// <summary>Closes the file.</summary>
    /// <param name="disposing">Whether managed resources are to be released as well.</param>
    protected abstract void Dispose(bool disposing);
}
