using System.Diagnostics.CodeAnalysis;
using System.IO.MemoryMappedFiles;
using System.Numerics;
using Peft.Files;
using static TorchSharp.torch;

namespace Peft.Tensors.Gguf;

/// <summary>One tensor of a GGUF file: where its blocks lie.</summary>
/// <param name="Entry">Name, type and shape.</param>
/// <param name="Type">The stored type.</param>
/// <param name="Offset">Its first byte, counted from the start of the file.</param>
/// <param name="Length">Its bytes.</param>
internal sealed record GgufTensor(TensorEntry Entry, GgufType Type, long Offset, long Length);

/// <summary>
/// A GGUF file (version 2 or 3) open for reading, with its own tensor names; a model's family gives Hugging Face's. The file is
/// mapped; quantised tensors are dequantised to float32 while they are read.
/// </summary>
public sealed unsafe class GgufFile : TensorStore
{
    private const int MaxDimensions = 8;
    private const int MaxArrayDepth = 4;
    private const int DefaultAlignment = 32;
    private readonly FileStream _file;
    private readonly MemoryMappedFile _map;
    private readonly MemoryMappedViewAccessor _view;
    private readonly byte* _start;
    private readonly long _length;
    private readonly Dictionary<string, GgufTensor> _tensors = [];
    private bool _disposed;

    private GgufFile(string path, FileStream file)
    {
        Path = path;
        _file = file;
        _length = file.Length;
        _map = MemoryMappedFile.CreateFromFile(file, null, 0, MemoryMappedFileAccess.Read, HandleInheritability.None, leaveOpen: true);
        _view = _map.CreateViewAccessor(0, 0, MemoryMappedFileAccess.Read);
        _view.SafeMemoryMappedViewHandle.AcquirePointer(ref _start);
        Metadata = new GgufMetadata(path);
    }

    /// <inheritdoc/>
    public override string Path { get; }

    /// <inheritdoc/>
    public override IReadOnlyCollection<string> Names => _tensors.Keys;

    /// <summary>What the file says about its model and tokenizer.</summary>
    public GgufMetadata Metadata { get; }

    /// <summary>The version of the format.</summary>
    public int Version { get; private set; }

    /// <summary>The tensors in the file's order.</summary>
    internal IReadOnlyDictionary<string, GgufTensor> Tensors => _tensors;

    /// <summary>Opens a file and checks its header.</summary>
    /// <param name="path">The file.</param>
    /// <returns>The open file; the caller disposes of it.</returns>
    /// <exception cref="PeftException">
    /// <c>FileNotFound</c>, <c>FileUnreadable</c>, <c>GgufNoMagic</c>, <c>GgufTruncated</c>, <c>GgufStringTooLong</c>, <c>GgufTypeInvalid</c>,
    /// <c>GgufDuplicateName</c>, <c>GgufAlignmentInvalid</c>, <c>GgufShapeInvalid</c>, <c>GgufOffsetInvalid</c> or <c>GgufOverlap</c>.
    /// </exception>
    /// <exception cref="NotSupportedByPeftException"><c>GgufVersionNotSupported</c> or <c>GgufTypeNotSupported</c>.</exception>
    public static GgufFile Open(string path)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        FileStream? stream = null;
        GgufFile? file = null;
        try
        {
            stream = new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.Read, 1, FileOptions.RandomAccess);
            if (stream.Length < 24)
            {
                throw Damaged("GgufTruncated", path, $"it has only {stream.Length} bytes");
            }

            file = new GgufFile(path, stream);
            file.ReadHeader();
            return file;
        }
        catch (Exception error)
        {
            file?.Dispose();
            stream?.Dispose();
            if (error is IOException or UnauthorizedAccessException)
            {
                throw FileErrors.Unreadable(path, error);
            }

            throw;
        }
    }

    /// <inheritdoc/>
    public override bool TryGetEntry(string name, [NotNullWhen(true)] out TensorEntry? entry)
    {
        entry = _tensors.GetValueOrDefault(name)?.Entry;
        return entry is not null;
    }

    /// <summary>The error of a damaged file.</summary>
    internal static PeftException Damaged(string errorId, string path, string what) => new(errorId, $"'{path}' is not a sound GGUF file: {what}.")
    {
        Target = path,
        RecommendedAction = "The file is cut off or damaged; fetch it again.",
    };

    /// <inheritdoc/>
    protected override Tensor ReadStored(TensorEntry entry)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        var stored = _tensors[entry.Name];
        return TensorMemory.Create(entry, tensor =>
        {
            var target = TensorMemory.Pointer(tensor);
            if (stored.Type.Reader is { } reader)
            {
                Dequantise(stored, reader, (float*)target);
            }
            else
            {
                Buffer.MemoryCopy(_start + stored.Offset, target, stored.Length, stored.Length);
            }
        });
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        if (disposing && !_disposed)
        {
            _disposed = true;
            _view.SafeMemoryMappedViewHandle.ReleasePointer();
            _view.Dispose();
            _map.Dispose();
            _file.Dispose();
        }
    }

    /// <summary>A quantised matrix as it is stored.</summary>
    /// <param name="name">Its name.</param>
    /// <returns>uint8, [rows, bytes of a row].</returns>
    internal Tensor ReadBlocks(string name)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        var stored = _tensors[name];
        var sizes = stored.Entry.Shape.SkipLast(1);
        var blocks = empty([.. sizes, stored.Length / TensorEntry.Product(sizes)], ScalarType.Byte);
        Buffer.MemoryCopy(_start + stored.Offset, TensorMemory.Pointer(blocks), stored.Length, stored.Length);
        return blocks;
    }

    private void Dequantise(GgufTensor stored, GgufBlockReader reader, float* target)
    {
        const int BlocksAPiece = 4096;
        (var blockBytes, var blockValues) = (stored.Type.BlockBytes, stored.Type.BlockValues);
        var blocks = stored.Length / blockBytes;
        var source = _start + stored.Offset;
        Parallel.For(0, (blocks + BlocksAPiece - 1) / BlocksAPiece, piece =>
        {
            var end = Math.Min(blocks, (piece + 1) * BlocksAPiece);
            for (var block = piece * BlocksAPiece; block < end; block++)
            {
                reader(new ReadOnlySpan<byte>(source + (block * blockBytes), blockBytes), new Span<float>(target + (block * blockValues), blockValues));
            }
        });
    }

    private void ReadHeader()
    {
        var cursor = new GgufCursor(_start, _length, 0, Path);
        if (!cursor.Take(4, "the magic").SequenceEqual("GGUF"u8))
        {
            throw Damaged("GgufNoMagic", Path, "it does not begin with 'GGUF'");
        }

        var version = cursor.UInt32("the version");
        if (version is not (2 or 3))
        {
            var what = (version & 0xFFFF) == 0 ? "big-endian numbers" : $"version {version}";
            throw new NotSupportedByPeftException("GgufVersionNotSupported", $"'{Path}' is a GGUF file with {what}; Peft reads versions 2 and 3 with little-endian numbers.") { Target = Path };
        }

        Version = (int)version;
        var tensors = cursor.UInt64("the number of tensors");
        var values = cursor.UInt64("the number of metadata values");
        cursor.Demand(values, 13, $"a list of {values} metadata values");
        for (ulong i = 0; i < values; i++)
        {
            ReadMetadata(ref cursor);
        }

        cursor.Demand(tensors, 24, $"a list of {tensors} tensors");
        var infos = new List<(string Name, long[] Shape, GgufType Type, ulong Offset)>();
        for (ulong i = 0; i < tensors; i++)
        {
            infos.Add(ReadTensorInfo(ref cursor));
        }

        var alignment = Alignment();
        var dataStart = (cursor.Position + alignment - 1) / alignment * alignment;
        foreach ((var name, var shape, var type, var offset) in infos)
        {
            AddTensor(name, shape, type, offset, alignment, dataStart);
        }

        CheckOverlap();
    }

    private void ReadMetadata(ref GgufCursor cursor)
    {
        var key = cursor.Text("a metadata key");
        var type = ValueType(ref cursor, key);
        var position = cursor.Position;
        SkipValue(ref cursor, type, key, 0);
        object Read()
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            var at = new GgufCursor(_start, _length, position, Path);
            return GgufMetadata.Read(ref at, type);
        }

        if (!Metadata.TryAdd(key, type, Read))
        {
            throw Damaged("GgufDuplicateName", Path, $"it gives the metadata '{key}' twice");
        }

        if (type != GgufValueType.Array)
        {
            // Small values are taken at once, so that they outlive the file.
            _ = Metadata[key];
        }
    }

    private GgufValueType ValueType(ref GgufCursor cursor, string key)
    {
        var type = cursor.UInt32($"the type of '{key}'");
        return type <= (uint)GgufValueType.Float64
            ? (GgufValueType)type
            : throw Damaged("GgufTypeInvalid", Path, $"the metadata '{key}' has the unknown type {type}");
    }

    private void SkipValue(ref GgufCursor cursor, GgufValueType type, string key, int depth)
    {
        if (type == GgufValueType.String)
        {
            cursor.SkipText($"the metadata '{key}'");
        }
        else if (type != GgufValueType.Array)
        {
            cursor.Skip(1, GgufMetadata.SizeOf(type), $"the metadata '{key}'");
        }
        else if (depth == MaxArrayDepth)
        {
            throw Damaged("GgufTypeInvalid", Path, $"the metadata '{key}' has arrays nested more than {MaxArrayDepth} deep");
        }
        else
        {
            var elementType = ValueType(ref cursor, key);
            var count = cursor.UInt64($"the length of '{key}'");
            var size = GgufMetadata.SizeOf(elementType);
            cursor.Demand(count, size > 0 ? size : 8, $"the array '{key}' of {count} values");
            if (size > 0)
            {
                cursor.Skip(count, size, key);
                return;
            }

            for (ulong i = 0; i < count; i++)
            {
                SkipValue(ref cursor, elementType, key, depth + 1);
            }
        }
    }

    private (string Name, long[] Shape, GgufType Type, ulong Offset) ReadTensorInfo(ref GgufCursor cursor)
    {
        var name = cursor.Text("a tensor's name");
        var dimensions = cursor.UInt32($"the number of dimensions of '{name}'");
        if (dimensions > MaxDimensions)
        {
            throw Damaged("GgufShapeInvalid", Path, $"tensor '{name}' claims {dimensions} dimensions");
        }

        // Innermost first in the file.
        var shape = new long[dimensions];
        for (var i = shape.Length - 1; i >= 0; i--)
        {
            var size = cursor.UInt64($"the shape of '{name}'");
            shape[i] = size <= long.MaxValue ? (long)size : throw Damaged("GgufShapeInvalid", Path, $"tensor '{name}' claims a size of {size}");
        }

        var number = cursor.UInt32($"the type of '{name}'");
        var type = GgufType.Find(number)
            ?? throw new NotSupportedByPeftException("GgufTypeNotSupported", $"Tensor '{name}' of '{Path}' has the GGUF type {number}, which Peft does not read.") { Target = name };
        return (name, shape, type, cursor.UInt64($"the offset of '{name}'"));
    }

    private long Alignment()
    {
        var alignment = Metadata.GetInteger("general.alignment", DefaultAlignment);
        return alignment is > 0 and <= 1 << 20 && BitOperations.IsPow2(alignment)
            ? alignment
            : throw Damaged("GgufAlignmentInvalid", Path, $"its alignment is {alignment}, not a power of two");
    }

    private void AddTensor(string name, long[] shape, GgufType type, ulong offset, long alignment, long dataStart)
    {
        if (type.BlockValues > 1 && (shape.Length == 0 || shape[^1] % type.BlockValues != 0))
        {
            throw Damaged("GgufShapeInvalid", Path, $"tensor '{name}' has rows that are no multiple of the {type.BlockValues} values of a {type.Name} block");
        }

        long length;
        try
        {
            length = checked(TensorEntry.Product(shape) / type.BlockValues * type.BlockBytes);
            _ = TensorEntry.Product(shape, sizeof(double));
        }
        catch (OverflowException)
        {
            throw Damaged("GgufShapeInvalid", Path, $"tensor '{name}' has a shape whose product overflows: [{string.Join(", ", shape)}]");
        }

        if (offset % (ulong)alignment != 0)
        {
            throw Damaged("GgufOffsetInvalid", Path, $"tensor '{name}' begins at {offset}, which is no multiple of {alignment}");
        }

        if (dataStart > _length || offset > (ulong)(_length - dataStart) || length > _length - dataStart - (long)offset)
        {
            throw Damaged("GgufTruncated", Path, $"tensor '{name}' reaches beyond its end");
        }

        var entry = new TensorEntry(name, type.ScalarType, shape, type.Name);
        if (!_tensors.TryAdd(name, new GgufTensor(entry, type, dataStart + (long)offset, length)))
        {
            throw Damaged("GgufDuplicateName", Path, $"it names tensor '{name}' twice");
        }
    }

    private void CheckOverlap()
    {
        long reached = 0;
        foreach (var tensor in _tensors.Values.Where(tensor => tensor.Length > 0).OrderBy(tensor => tensor.Offset))
        {
            if (tensor.Offset < reached)
            {
                throw Damaged("GgufOverlap", Path, $"tensor '{tensor.Entry.Name}' overlaps the one before it");
            }

            reached = tensor.Offset + tensor.Length;
        }
    }
}
