using System.Text;
using System.Text.Json;

namespace Peft.Tensors;

/// <summary>One tensor of a safetensors file: where its bytes lie.</summary>
/// <param name="Entry">Name, type and shape.</param>
/// <param name="Type">The stored type.</param>
/// <param name="Offset">Its first byte, counted from the start of the file.</param>
/// <param name="Length">Its bytes.</param>
internal sealed record SafetensorsTensor(TensorEntry Entry, ElementType Type, long Offset, long Length);

/// <summary>
/// The header of a safetensors file, believed only after it was checked: every byte of the file belongs to the header or to
/// exactly one tensor.
/// </summary>
internal sealed class SafetensorsHeader
{
    /// <summary>The format's own bound on the header's length.</summary>
    public const long MaxLength = 100_000_000;

    private const int MaxDimensions = 64;
    private readonly string _path;
    private readonly long _dataStart;
    private readonly long _dataLength;

    private SafetensorsHeader(string path, long dataStart, long dataLength)
    {
        _path = path;
        _dataStart = dataStart;
        _dataLength = dataLength;
    }

    /// <summary>The tensors in the order of their bytes.</summary>
    public Dictionary<string, SafetensorsTensor> Tensors { get; } = [];

    /// <summary>The strings under <c>__metadata__</c>.</summary>
    public Dictionary<string, string> Metadata { get; } = [];

    /// <summary>Parses and checks a header.</summary>
    /// <param name="json">The header's bytes, without the length in front.</param>
    /// <param name="path">The file, for messages.</param>
    /// <param name="fileLength">The file's length in bytes.</param>
    /// <returns>The header.</returns>
    /// <exception cref="PeftException">One error id for each way in which the file can lie.</exception>
    public static SafetensorsHeader Parse(ReadOnlySpan<byte> json, string path, long fileLength)
    {
        var header = new SafetensorsHeader(path, 8 + json.Length, fileLength - 8 - json.Length);
        var reader = new Utf8JsonReader(json, new JsonReaderOptions { MaxDepth = 16 });
        try
        {
            header.ReadEntries(ref reader);
        }
        catch (Exception error) when (error is JsonException or InvalidOperationException or FormatException or DecoderFallbackException)
        {
            throw header.Lie("SafetensorsHeaderInvalid", $"its header is not the JSON it should be: {error.Message}", error);
        }

        header.CheckCoverage();
        return header;
    }

    private void ReadEntries(ref Utf8JsonReader reader)
    {
        Expect(ref reader, JsonTokenType.StartObject);
        var metadataSeen = false;
        while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
        {
            var name = reader.GetString()!;
            if (name == "__metadata__")
            {
                if (metadataSeen)
                {
                    throw Lie("SafetensorsDuplicateName", "its header gives '__metadata__' twice");
                }

                metadataSeen = true;
                ReadMetadata(ref reader);
            }
            else if (!Tensors.TryAdd(name, ReadTensor(ref reader, name)))
            {
                throw Lie("SafetensorsDuplicateName", $"its header names tensor '{name}' twice");
            }
        }

        if (reader.Read())
        {
            throw new JsonException("something follows the object.");
        }
    }

    private void ReadMetadata(ref Utf8JsonReader reader)
    {
        // The format's own library takes null for no metadata.
        var ahead = reader;
        if (ahead.Read() && ahead.TokenType == JsonTokenType.Null)
        {
            reader = ahead;
            return;
        }

        Expect(ref reader, JsonTokenType.StartObject);
        while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
        {
            var key = reader.GetString()!;
            Expect(ref reader, JsonTokenType.String);
            if (!Metadata.TryAdd(key, reader.GetString()!))
            {
                throw Lie("SafetensorsDuplicateName", $"its metadata gives '{key}' twice");
            }
        }
    }

    private SafetensorsTensor ReadTensor(ref Utf8JsonReader reader, string name)
    {
        string? typeName = null;
        long[]? shape = null, offsets = null;
        Expect(ref reader, JsonTokenType.StartObject);
        while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
        {
            var field = reader.GetString()!;
            var repeated = field switch
            {
                "dtype" => typeName is not null,
                "shape" => shape is not null,
                "data_offsets" => offsets is not null,
                _ => throw new JsonException($"tensor '{name}' has an unknown field '{field}'."),
            };
            if (repeated)
            {
                throw Lie("SafetensorsDuplicateName", $"tensor '{name}' has the field '{field}' twice");
            }

            if (field == "dtype")
            {
                Expect(ref reader, JsonTokenType.String);
                typeName = reader.GetString();
            }
            else if (field == "shape")
            {
                shape = ReadSizes(ref reader, name, field);
            }
            else
            {
                offsets = ReadSizes(ref reader, name, field);
            }
        }

        if (typeName is null || shape is null || offsets is null)
        {
            throw new JsonException($"tensor '{name}' lacks dtype, shape or data_offsets.");
        }

        return CheckTensor(name, typeName, shape, offsets);
    }

    private long[] ReadSizes(ref Utf8JsonReader reader, string name, string field)
    {
        Expect(ref reader, JsonTokenType.StartArray);
        var sizes = new List<long>();
        while (reader.Read() && reader.TokenType != JsonTokenType.EndArray)
        {
            if (reader.TokenType != JsonTokenType.Number)
            {
                throw new JsonException($"tensor '{name}' has something other than numbers in its {field}.");
            }

            var isSize = reader.TryGetInt64(out var size) && size >= 0;
            if (!isSize)
            {
                var id = field == "shape" ? "SafetensorsShapeInvalid" : "SafetensorsOffsetOutOfFile";
                throw Lie(id, $"tensor '{name}' has {Encoding.UTF8.GetString(reader.ValueSpan)} in its {field}");
            }

            sizes.Add(size);
            if (sizes.Count > MaxDimensions)
            {
                throw Lie("SafetensorsShapeInvalid", $"tensor '{name}' has more than {MaxDimensions} numbers in its {field}");
            }
        }

        return [.. sizes];
    }

    private SafetensorsTensor CheckTensor(string name, string typeName, long[] shape, long[] offsets)
    {
        var type = ElementType.Find(typeName)
            ?? throw new NotSupportedByPeftException("SafetensorsUnknownType", $"Tensor '{name}' of '{_path}' has the unknown type '{typeName}'.") { Target = _path };
        if (offsets.Length != 2)
        {
            throw Lie("SafetensorsOffsetOutOfFile", $"tensor '{name}' has {offsets.Length} data_offsets instead of two");
        }

        (var begin, var end) = (offsets[0], offsets[1]);
        if (begin > end || end > _dataLength)
        {
            var id = begin <= end ? "SafetensorsTruncated" : "SafetensorsOffsetOutOfFile";
            throw Lie(id, $"tensor '{name}' lies at bytes {begin} to {end}, but the file holds {_dataLength} bytes of data");
        }

        long length;
        try
        {
            length = TensorEntry.Product(shape, type.Size);
        }
        catch (OverflowException error)
        {
            throw Lie("SafetensorsShapeOverflow", $"tensor '{name}' has a shape whose product overflows: [{string.Join(", ", shape)}]", error);
        }

        if (length != end - begin)
        {
            throw Lie("SafetensorsSizeMismatch", $"tensor '{name}' of type {typeName} and shape [{string.Join(", ", shape)}] needs {length} bytes but is given {end - begin}");
        }

        var entry = new TensorEntry(name, type.ScalarType ?? TorchSharp.torch.ScalarType.Byte, shape, typeName);
        return new SafetensorsTensor(entry, type, _dataStart + begin, length);
    }

    private void CheckCoverage()
    {
        List<SafetensorsTensor> ordered = [.. Tensors.Values.OrderBy(tensor => tensor.Offset).ThenBy(tensor => tensor.Length)];
        var reached = _dataStart;
        foreach (var tensor in ordered)
        {
            if (tensor.Offset != reached)
            {
                (var id, var what) = tensor.Offset < reached ? ("SafetensorsOverlap", "overlaps the one before it") : ("SafetensorsHole", "has unused bytes in front of it");
                throw Lie(id, $"tensor '{tensor.Entry.Name}' {what}");
            }

            reached += tensor.Length;
        }

        if (reached != _dataStart + _dataLength)
        {
            throw Lie("SafetensorsTrailingData", $"{_dataStart + _dataLength - reached} bytes follow the last tensor");
        }

        Tensors.Clear();
        foreach (var tensor in ordered)
        {
            Tensors.Add(tensor.Entry.Name, tensor);
        }
    }

    private static void Expect(ref Utf8JsonReader reader, JsonTokenType type)
    {
        if (!reader.Read() || reader.TokenType != type)
        {
            throw new JsonException($"{type} was expected at byte {reader.TokenStartIndex} but {reader.TokenType} is there.");
        }
    }

    private PeftException Lie(string errorId, string what, Exception? error = null) => SafetensorsFile.Damaged(errorId, _path, what, error);
}
