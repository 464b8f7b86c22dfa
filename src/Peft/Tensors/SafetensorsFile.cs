using System.Buffers.Binary;
using System.Diagnostics.CodeAnalysis;
using Microsoft.Win32.SafeHandles;
using Peft.Files;
using static TorchSharp.torch;

namespace Peft.Tensors;

/// <summary>
/// A safetensors file open for reading. Opening reads and checks the header alone; each tensor's bytes go from the disk straight
/// into the tensor's memory when it is asked for, or stay in the file where <see cref="Map"/> is asked for.
/// </summary>
public sealed class SafetensorsFile : TensorStore
{
    private readonly SafeFileHandle _file;
    private readonly SafetensorsHeader _header;
    private readonly DateTime _written;
    private readonly long _length;
    private readonly Dictionary<ScalarType, Tensor> _mappings = [];
    private bool _isWorthMapping;
    private MappedFile? _mapped;

    private SafetensorsFile(string path, SafeFileHandle file, SafetensorsHeader header, long length)
    {
        Path = path;
        _file = file;
        _header = header;
        _length = length;
        _written = File.GetLastWriteTimeUtc(file);
        _isWorthMapping = MappedFile.IsWorthMapping(path, length);
    }

    /// <inheritdoc/>
    public override string Path { get; }

    /// <inheritdoc/>
    public override IReadOnlyCollection<string> Names => _header.Tensors.Keys;

    /// <summary>Strings that the writer put beside the tensors.</summary>
    public IReadOnlyDictionary<string, string> Metadata => _header.Metadata;

    /// <summary>Opens a file and checks its header.</summary>
    /// <param name="path">The file.</param>
    /// <returns>The open file; the caller disposes of it.</returns>
    /// <exception cref="PeftException">
    /// <c>FileNotFound</c>, <c>FileUnreadable</c>, <c>SafetensorsTruncated</c>, <c>SafetensorsHeaderTooLong</c>, <c>SafetensorsHeaderInvalid</c>,
    /// <c>SafetensorsDuplicateName</c>, <c>SafetensorsShapeInvalid</c>, <c>SafetensorsShapeOverflow</c>, <c>SafetensorsSizeMismatch</c>,
    /// <c>SafetensorsOffsetOutOfFile</c>, <c>SafetensorsOverlap</c>, <c>SafetensorsHole</c> or <c>SafetensorsTrailingData</c>.
    /// </exception>
    /// <exception cref="NotSupportedByPeftException"><c>SafetensorsUnknownType</c>.</exception>
    public static SafetensorsFile Open(string path)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        SafeFileHandle? file = null;
        try
        {
            file = File.OpenHandle(path, FileMode.Open, FileAccess.Read, FileShare.Read, FileOptions.RandomAccess);
            var length = RandomAccess.GetLength(file);
            return new SafetensorsFile(path, file, ReadHeader(file, path, length), length);
        }
        catch (Exception error)
        {
            file?.Dispose();
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
        entry = _header.Tensors.GetValueOrDefault(name)?.Entry;
        return entry is not null;
    }

    /// <inheritdoc/>
    public override Tensor Map(string name, ScalarType? type = null)
    {
        var tensor = Find(Entry(name));
        if (!IsMappable(tensor))
        {
            return Read(name, type);
        }

        var first = tensor.Offset / tensor.Type.Size;
        using var elements = Mapping(tensor.Entry.ScalarType, tensor.Type.Size).narrow(0, first, tensor.Entry.Count);
        var mapped = elements.view([.. tensor.Entry.Shape]);
        if (type is not null && type != mapped.dtype)
        {
            using (mapped)
            {
                return mapped.to(type.Value);
            }
        }

        return mapped;
    }

    /// <inheritdoc/>
    internal override bool StaysInFile(string name) => _header.Tensors.TryGetValue(name, out var tensor) && IsMappable(tensor);

    /// <inheritdoc/>
    internal override Tensor ReadBytes(string name)
    {
        Entry(name);
        var stored = _header.Tensors[name];
        var entry = new TensorEntry(name, ScalarType.Byte, stored.Type.Size == 1 ? stored.Entry.Shape : [.. stored.Entry.Shape, stored.Type.Size], "U8");
        return TensorMemory.Create(entry, tensor =>
            TensorMemory.CopyFrom(tensor, (target, offset) => ReadExactly(_file, Path, target, stored.Offset + offset)));
    }

    /// <inheritdoc/>
    internal override Tensor MapBytes(string name)
    {
        Entry(name);
        return _header.Tensors[name].Type.ScalarType == ScalarType.Byte ? Map(name) : ReadBytes(name);
    }

    /// <inheritdoc/>
    internal override void MapSmallFiles() => _isWorthMapping = MappedFile.IsOnThisMachine(Path);

    /// <inheritdoc/>
    internal override unsafe bool IsMapped(Tensor tensor)
    {
        if (tensor.device_type != TorchSharp.DeviceType.CPU || !tensor.is_contiguous())
        {
            return false;
        }

        var address = TensorMemory.Pointer(tensor);
        lock (_mappings)
        {
            return _mappings.Values.Any(mapping => TensorMemory.Pointer(mapping) is var start && address >= start && address < start + (mapping.NumberOfElements * mapping.ElementSize));
        }
    }

    /// <inheritdoc/>
    internal override IEnumerable<MappedFile> TakeMappedFiles()
    {
        MappedFile[] taken = _mapped is null ? [] : [_mapped];
        _mapped = null;
        return taken;
    }

    /// <summary>The error of a damaged file.</summary>
    /// <param name="errorId">Which lie it tells.</param>
    /// <param name="path">The file.</param>
    /// <param name="what">The lie in words.</param>
    /// <param name="error">What was thrown underneath.</param>
    /// <returns>The error.</returns>
    internal static PeftException Damaged(string errorId, string path, string what, Exception? error = null) =>
        new(errorId, $"'{path}' is not a sound safetensors file: {what}.", error)
        {
            Target = path,
            RecommendedAction = "The file is cut off or damaged; fetch or write it again.",
        };

    /// <inheritdoc/>
    protected override Tensor ReadStored(TensorEntry entry)
    {
        var stored = Find(entry);
        return TensorMemory.Create(entry, tensor =>
        {
            if (stored.Type.IsFloat8)
            {
                ReadFloat8(stored, tensor);
            }
            else
            {
                TensorMemory.CopyFrom(tensor, (target, offset) => ReadExactly(_file, Path, target, stored.Offset + offset));
            }
        });
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        if (disposing)
        {
            _file.Dispose();
            _mapped?.Dispose();
            foreach (var mapping in _mappings.Values)
            {
                mapping.Dispose();
            }

            _mappings.Clear();
        }
    }

    private static SafetensorsHeader ReadHeader(SafeFileHandle file, string path, long fileLength)
    {
        if (fileLength < 8)
        {
            throw Damaged("SafetensorsTruncated", path, $"it has {fileLength} bytes, fewer than the length of the header takes");
        }

        Span<byte> prefix = stackalloc byte[8];
        ReadExactly(file, path, prefix, 0);
        var length = BinaryPrimitives.ReadUInt64LittleEndian(prefix);
        if (length > SafetensorsHeader.MaxLength)
        {
            throw Damaged("SafetensorsHeaderTooLong", path, $"its header claims {length} bytes, more than the format's {SafetensorsHeader.MaxLength}");
        }

        if ((long)length > fileLength - 8)
        {
            throw Damaged("SafetensorsTruncated", path, $"its header claims {length} bytes, but only {fileLength - 8} follow");
        }

        var json = new byte[length];
        ReadExactly(file, path, json, 8);
        return SafetensorsHeader.Parse(json, path, fileLength);
    }

    private static void ReadExactly(SafeFileHandle file, string path, Span<byte> target, long offset)
    {
        while (target.Length > 0)
        {
            int count;
            try
            {
                count = RandomAccess.Read(file, target, offset);
            }
            catch (IOException error)
            {
                throw FileErrors.Unreadable(path, error);
            }

            if (count == 0)
            {
                throw Damaged("SafetensorsTruncated", path, "it became shorter while it was read");
            }

            target = target[count..];
            offset += count;
        }
    }

    private void ReadFloat8(SafetensorsTensor stored, Tensor tensor)
    {
        var bytes = new byte[Math.Min(stored.Length, 1 << 16)];
        TensorMemory.CopyFrom(tensor, (target, offset) =>
        {
            var values = System.Runtime.InteropServices.MemoryMarshal.Cast<byte, float>(target);
            for (var done = 0; done < values.Length; done += bytes.Length)
            {
                var piece = bytes.AsSpan(0, Math.Min(bytes.Length, values.Length - done));
                ReadExactly(_file, Path, piece, stored.Offset + (offset / sizeof(float)) + done);
                Float8.Decode(stored.Type, piece, values[done..]);
            }
        });
    }

    private bool IsMappable(SafetensorsTensor tensor) =>
        _isWorthMapping && tensor.Type is { ScalarType: not null, IsFloat8: false } && tensor.Length > 0 && tensor.Offset % tensor.Type.Size == 0;

    private SafetensorsTensor Find(TensorEntry entry)
    {
        var tensor = _header.Tensors[entry.Name];
        return tensor.Type.ScalarType is not null
            ? tensor
            : throw new NotSupportedByPeftException("SafetensorsTypeNotSupported", $"Tensor '{entry.Name}' of '{Path}' has type {tensor.Type.Name}, which Peft does not read.")
            {
                Target = entry.Name,
            };
    }

    /// <summary>The whole file as elements of one type; copies share it, so it lives as long as any tensor made of it.</summary>
    private Tensor Mapping(ScalarType type, int size)
    {
        lock (_mappings)
        {
            if (!_mappings.TryGetValue(type, out var mapping))
            {
                // The engine opens the file by name, so the name has to mean the file whose header was checked before, and afterwards still.
                _mapped ??= new MappedFile(Path, _length, _written);
                mapping = from_file(Path, shared: false, size: _length / size, dtype: type).DetachFromDisposeScope();
                using var still = new MappedFile(Path, _length, _written);
                _mappings.Add(type, mapping);
            }

            return mapping;
        }
    }
}
