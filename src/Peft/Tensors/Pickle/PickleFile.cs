using System.Diagnostics.CodeAnalysis;
using System.Globalization;
using static TorchSharp.torch;

namespace Peft.Tensors.Pickle;

/// <summary>
/// A file that <c>torch.save</c> wrote (<c>.bin</c>, <c>.pt</c>, <c>.pth</c>), open for reading: the zip container since PyTorch 1.6 and
/// the plain sequence of pickles before it. Only tensors, numbers, strings and containers come out of it; anything else is refused by
/// name and nothing is run. Nested dictionaries give dotted names, and a lone <c>state_dict</c> stands for the file.
/// </summary>
public sealed class PickleFile : TensorStore
{
    private const int MaxDepth = 8;
    private const int MaxTensors = 1_000_000;
    private readonly IPickleContainer _container;
    private readonly Dictionary<string, PickleTensor> _tensors = [];
    private readonly Dictionary<string, TensorEntry> _entries = [];

    private PickleFile(string path, IPickleContainer container)
    {
        Path = path;
        _container = container;
    }

    /// <inheritdoc/>
    public override string Path { get; }

    /// <inheritdoc/>
    public override IReadOnlyCollection<string> Names => _entries.Keys;

    /// <summary>Opens a file and reads everything but the tensors' elements.</summary>
    /// <param name="path">The file.</param>
    /// <returns>The open file; the caller disposes of it.</returns>
    /// <exception cref="PeftException">
    /// <c>FileNotFound</c>, <c>FileUnreadable</c>, <c>PickleRefused</c>, <c>PickleInvalid</c>, <c>PickleTruncated</c> or <c>PickleNoTensors</c>.
    /// </exception>
    /// <exception cref="NotSupportedByPeftException"><c>PickleFormatNotSupported</c>.</exception>
    public static PickleFile Open(string path)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        FileStream? stream = null;
        try
        {
            stream = new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.Read, 1 << 16);
            IPickleContainer container = ZipPickle.IsZip(stream) ? new ZipPickle(stream, path) : new LegacyPickle(stream, path);
            var file = new PickleFile(path, container);
            file.AddRoot();
            return file;
        }
        catch (Exception error)
        {
            stream?.Dispose();
            if (error is IOException or UnauthorizedAccessException)
            {
                throw FileErrors.Unreadable(path, error);
            }

            throw;
        }
    }

    /// <inheritdoc/>
    public override bool TryGetEntry(string name, [NotNullWhen(true)] out TensorEntry? entry) => _entries.TryGetValue(name, out entry);

    /// <inheritdoc/>
    protected override Tensor ReadStored(TensorEntry entry)
    {
        PickleTensor stored = _tensors[entry.Name];
        lock (_container)
        {
            // Before memory is asked for: a pickle may claim any length.
            _container.Demand(stored.Storage, (stored.Offset + stored.Extent) * stored.Type.Size);
            return TensorMemory.Create(entry, tensor => Fill(tensor, stored));
        }
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        if (disposing)
        {
            _container.Dispose();
        }
    }

    private void AddRoot()
    {
        object? root = _container.Root;
        if (root is PickleDictionary dictionary)
        {
            AddTensors(dictionary.Get("state_dict") as PickleDictionary ?? dictionary, string.Empty, 0);
        }
        else if (root is PickleTensor tensor)
        {
            Add("tensor", tensor);
        }
        else
        {
            throw new PeftException("PickleNoTensors", $"'{Path}' holds neither a dictionary of tensors nor a tensor.") { Target = Path };
        }
    }

    private void AddTensors(PickleDictionary dictionary, string prefix, int depth)
    {
        foreach ((object? key, object? value) in dictionary.Items)
        {
            string name = prefix + Convert.ToString(key, CultureInfo.InvariantCulture);
            if (value is PickleTensor tensor)
            {
                Add(name, tensor);
            }
            else if (value is PickleDictionary inner && depth < MaxDepth)
            {
                AddTensors(inner, name + ".", depth + 1);
            }
        }
    }

    private void Add(string name, PickleTensor tensor)
    {
        if (_entries.Count == MaxTensors)
        {
            throw PickleMachine.Invalid(Path, $"it holds more than {MaxTensors} tensors.");
        }

        _tensors[name] = tensor;
        _entries[name] = new TensorEntry(name, tensor.Type.ScalarType!.Value, tensor.Shape, tensor.Type.Name);
    }

    private void Fill(Tensor tensor, PickleTensor stored)
    {
        long start = stored.Offset * stored.Type.Size;
        if (stored.IsContiguous && !stored.Type.IsFloat8)
        {
            TensorMemory.CopyFrom(tensor, (target, offset) => _container.Read(stored.Storage, start + offset, target));
            return;
        }

        byte[] bytes = new byte[checked(stored.Extent * stored.Type.Size)];
        _container.Read(stored.Storage, start, bytes);
        bytes = stored.IsContiguous ? bytes : Gathered(stored, bytes);
        if (stored.Type.IsFloat8)
        {
            Float8.Decode(stored.Type, bytes, TensorMemory.Span<float>(tensor));
        }
        else
        {
            TensorMemory.CopyFrom(tensor, (target, offset) => bytes.AsSpan((int)offset, target.Length).CopyTo(target));
        }
    }

    private static byte[] Gathered(PickleTensor stored, byte[] bytes)
    {
        int size = stored.Type.Size;
        var result = new byte[stored.Count * size];
        var index = new long[stored.Shape.Length];
        for (long at = 0; at < result.Length; at += size)
        {
            long from = 0;
            for (int i = 0; i < index.Length; i++)
            {
                from += index[i] * stored.Strides[i];
            }

            bytes.AsSpan((int)(from * size), size).CopyTo(result.AsSpan((int)at));
            for (int i = index.Length - 1; i >= 0 && ++index[i] == stored.Shape[i]; i--)
            {
                index[i] = 0;
            }
        }

        return result;
    }
}
