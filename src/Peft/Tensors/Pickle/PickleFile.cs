using System.Diagnostics.CodeAnalysis;
using System.Globalization;
using System.Runtime.InteropServices;
using Peft.Files;
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
    private readonly HashSet<PickleDictionary> _walked = [];
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
        var stored = _tensors[entry.Name];
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
        var root = _container.Root;
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
        // One that holds itself many times over would be walked for ever; a dictionary counts where it comes first.
        if (!_walked.Add(dictionary))
        {
            return;
        }

        foreach ((var key, var value) in dictionary.Items)
        {
            var name = prefix + Convert.ToString(key, CultureInfo.InvariantCulture);
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
        if (stored.IsContiguous)
        {
            ReadRun(tensor, stored);
            return;
        }

        using var run = empty([stored.Extent], tensor.dtype);
        ReadRun(run, stored);
        using var view = run.as_strided(stored.Shape, stored.Strides);
        tensor.copy_(view);
    }

    /// <summary>Reads the elements that lie one after another from the view's first to its last one.</summary>
    private void ReadRun(Tensor run, PickleTensor stored)
    {
        var start = stored.Offset * stored.Type.Size;
        TensorMemory.CopyFrom(run, (target, offset) =>
        {
            if (!stored.Type.IsFloat8)
            {
                _container.Read(stored.Storage, start + offset, target);
                return;
            }

            var bytes = new byte[target.Length / sizeof(float)];
            _container.Read(stored.Storage, start + (offset / sizeof(float)), bytes);
            Float8.Decode(stored.Type, bytes, MemoryMarshal.Cast<byte, float>(target));
        });
    }
}
