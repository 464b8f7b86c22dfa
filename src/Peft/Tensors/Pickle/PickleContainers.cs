using System.Buffers.Binary;
using System.IO.Compression;
using System.Numerics;
using System.Text;

namespace Peft.Tensors.Pickle;

/// <summary>Where a pickle and the storages it names lie.</summary>
internal interface IPickleContainer : IDisposable
{
    /// <summary>What the pickle holds.</summary>
    object? Root { get; }

    /// <summary>Makes sure that a storage is there and long enough.</summary>
    /// <param name="storage">The storage.</param>
    /// <param name="length">The bytes it must hold.</param>
    /// <exception cref="PeftException"><c>PickleInvalid</c>.</exception>
    void Demand(PickleStorage storage, long length);

    /// <summary>Reads bytes of a storage, which <see cref="Demand"/> allowed.</summary>
    /// <param name="storage">The storage.</param>
    /// <param name="offset">The first byte.</param>
    /// <param name="target">What to fill.</param>
    void Read(PickleStorage storage, long offset, Span<byte> target);
}

/// <summary>The container since PyTorch 1.6: a zip file with <c>data.pkl</c> and a file for each storage.</summary>
internal sealed class ZipPickle : IPickleContainer
{
    private const long MaxPickleBytes = 1 << 26;

    // Weights pack badly, and PyTorch doesn't pack them at all: a file that asks for more than this of memory was made to.
    private const long MaxGrowth = 64;
    private const long GrowthThatDoesNoHarm = 1 << 28;
    private readonly string _path;
    private readonly ZipArchive _zip;
    private readonly string _prefix;
    private readonly long _length;
    private readonly double _unpacked;

    /// <summary>Opens the container and reads its pickle.</summary>
    public ZipPickle(FileStream stream, string path)
    {
        _path = path;
        _length = stream.Length;
        try
        {
            _zip = new ZipArchive(stream, ZipArchiveMode.Read);
            _unpacked = _zip.Entries.Sum(static entry => (double)entry.Length);
        }
        catch (InvalidDataException error)
        {
            throw new PeftException("PickleTruncated", $"'{path}' is a zip container that is cut off or damaged: {error.Message}", error) { Target = path };
        }

        var pickle = _zip.Entries.FirstOrDefault(entry => entry.Name == "data.pkl")
            ?? throw PickleMachine.Invalid(path, "the zip container holds no data.pkl.");
        _prefix = pickle.FullName[..^pickle.Name.Length];
        if (_zip.GetEntry(_prefix + "constants.pkl") is not null)
        {
            throw NotSupported(path, "a TorchScript program");
        }

        if (_zip.GetEntry(_prefix + "byteorder") is { } order && Encoding.ASCII.GetString(Whole(order, 16)) != "little")
        {
            throw NotSupported(path, "a file with big-endian numbers");
        }

        using var bytes = new MemoryStream(Whole(pickle, MaxPickleBytes));
        Root = PickleMachine.Load(bytes, path);
    }

    /// <inheritdoc/>
    public object? Root { get; }

    /// <summary>Whether a stream begins like a zip file; its position is left at the start.</summary>
    public static bool IsZip(Stream stream)
    {
        Span<byte> magic = stackalloc byte[4];
        var count = stream.ReadAtLeast(magic, 4, throwOnEndOfStream: false);
        stream.Position = 0;
        return count == 4 && magic.SequenceEqual("PK\x03\x04"u8);
    }

    /// <summary>The error of a container that is known but not read.</summary>
    public static NotSupportedByPeftException NotSupported(string path, string what) =>
        new("PickleFormatNotSupported", $"'{path}' is {what}, which Peft does not read.") { Target = path, RecommendedAction = "Use the model's safetensors files." };

    /// <inheritdoc/>
    public void Demand(PickleStorage storage, long length)
    {
        if (Entry(storage).Length < length)
        {
            throw PickleMachine.Invalid(_path, $"storage '{storage.Key}' has {Entry(storage).Length} bytes, but {length} are asked for.");
        }
    }

    /// <inheritdoc/>
    public void Read(PickleStorage storage, long offset, Span<byte> target)
    {
        try
        {
            using var stream = Entry(storage).Open();
            if (stream.CanSeek)
            {
                stream.Position = offset;
                offset = 0;
            }

            var skipped = new byte[Math.Min(offset, 1 << 16)];
            for (var left = offset; left > 0; left -= Math.Min(left, skipped.Length))
            {
                stream.ReadExactly(skipped.AsSpan(0, (int)Math.Min(left, skipped.Length)));
            }

            stream.ReadExactly(target);
        }
        catch (Exception error) when (error is InvalidDataException or EndOfStreamException)
        {
            throw PickleMachine.Invalid(_path, $"storage '{storage.Key}' is damaged: {error.Message}", error);
        }
    }

    /// <inheritdoc/>
    public void Dispose() => _zip.Dispose();

    private ZipArchiveEntry Entry(PickleStorage storage)
    {
        var entry = Believable(_zip.GetEntry($"{_prefix}data/{storage.Key}") ?? throw PickleMachine.Invalid(_path, $"storage '{storage.Key}' is missing."));
        return _unpacked > Math.Max(MaxGrowth * _length, GrowthThatDoesNoHarm)
            ? throw PickleMachine.Invalid(_path, FormattableString.Invariant($"its parts claim {_unpacked:F0} bytes unpacked in a file of {_length}."))
            : entry;
    }

    /// <summary>The container's table of contents may claim any length; what is packed can't grow by more than a known ratio.</summary>
    private ZipArchiveEntry Believable(ZipArchiveEntry entry)
    {
        const int MaxDeflateRatio = 1032;
        return entry.CompressedLength > _length || entry.Length / MaxDeflateRatio > entry.CompressedLength
            ? throw PickleMachine.Invalid(_path, $"'{entry.Name}' claims {entry.Length} bytes in a file of {_length}.")
            : entry;
    }

    private byte[] Whole(ZipArchiveEntry entry, long limit)
    {
        if (Believable(entry).Length > limit)
        {
            throw PickleMachine.Invalid(_path, $"'{entry.Name}' claims {entry.Length} bytes.");
        }

        try
        {
            using var stream = entry.Open();
            var bytes = new byte[entry.Length];
            stream.ReadExactly(bytes);
            return bytes;
        }
        catch (Exception error) when (error is InvalidDataException or EndOfStreamException)
        {
            throw PickleMachine.Invalid(_path, $"'{entry.Name}' is damaged: {error.Message}", error);
        }
    }
}

/// <summary>
/// The format before PyTorch 1.6: pickles of a magic number, a version, the system, the object and the storages' names, then for each
/// storage its number of elements and the elements.
/// </summary>
internal sealed class LegacyPickle : IPickleContainer
{
    private const long Version = 1001;
    private static readonly BigInteger s_magic = BigInteger.Parse("1950a86a20f9469cfc6c", System.Globalization.NumberStyles.HexNumber, System.Globalization.CultureInfo.InvariantCulture);
    private readonly string _path;
    private readonly FileStream _stream;
    private readonly Dictionary<string, (long Position, long Length)> _storages = [];

    /// <summary>Reads the pickles and finds the storages.</summary>
    public LegacyPickle(FileStream stream, string path)
    {
        _path = path;
        _stream = stream;
        var isPickle = stream.ReadByte() == 0x80;
        stream.Position = 0;
        if (!isPickle || PickleMachine.Load(stream, path) is not BigInteger magic || magic != s_magic)
        {
            throw PickleMachine.Invalid(path, "it does not begin like a file that torch.save wrote.");
        }

        if (PickleMachine.Load(stream, path) is not Version)
        {
            throw ZipPickle.NotSupported(path, "a PyTorch pickle of an unknown version");
        }

        if (PickleMachine.Load(stream, path) is PickleDictionary system && system.Get("little_endian") is false)
        {
            throw ZipPickle.NotSupported(path, "a file with big-endian numbers");
        }

        var named = new Dictionary<string, PickleStorage>();
        Root = PickleMachine.Load(stream, path, named);
        if (PickleMachine.Load(stream, path) is not List<object?> keys)
        {
            throw PickleMachine.Invalid(path, "the list of storages is missing.");
        }

        FindStorages(keys, named);
    }

    /// <inheritdoc/>
    public object? Root { get; }

    /// <inheritdoc/>
    public void Demand(PickleStorage storage, long length)
    {
        var available = _storages.GetValueOrDefault(storage.Key).Length;
        if (available < length)
        {
            throw PickleMachine.Invalid(_path, $"storage '{storage.Key}' has {available} bytes, but {length} are asked for.");
        }
    }

    /// <inheritdoc/>
    public void Read(PickleStorage storage, long offset, Span<byte> target)
    {
        _stream.Position = _storages[storage.Key].Position + offset;
        _stream.ReadExactly(target);
    }

    /// <inheritdoc/>
    public void Dispose() => _stream.Dispose();

    /// <summary>A storage's element size stands in the pickle, not where its elements lie.</summary>
    private void FindStorages(List<object?> keys, Dictionary<string, PickleStorage> named)
    {
        Span<byte> count = stackalloc byte[8];
        foreach (var item in keys)
        {
            if (item is not string key || !named.TryGetValue(key, out var storage) || _stream.Length - _stream.Position < 8)
            {
                throw PickleMachine.Invalid(_path, $"storage '{item}' is used by no tensor, or cut off.");
            }

            var size = storage.Type.Size;
            _stream.ReadExactly(count);
            var elements = BinaryPrimitives.ReadInt64LittleEndian(count);
            var position = _stream.Position;
            if (elements < 0 || elements > (_stream.Length - position) / size)
            {
                throw new PeftException("PickleTruncated", $"'{_path}' is cut off: storage '{key}' claims {elements} elements.") { Target = _path };
            }

            _storages[key] = (position, elements * size);
            _stream.Position = position + (elements * size);
        }
    }
}
