using System.Buffers.Binary;
using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using Peft.Files;
using static TorchSharp.torch;

namespace Peft.Tensors;

/// <summary>
/// Writes safetensors files, whole or not at all. Tensors lie in the order of the Python package (larger element types first, then
/// by name), so that equal content gives equal bytes there and here.
/// </summary>
public static class SafetensorsWriter
{
    /// <summary>What the Python libraries write into every file of PyTorch tensors and ask for when they read one.</summary>
    public static IReadOnlyDictionary<string, string> PyTorchMetadata { get; } = new Dictionary<string, string> { ["format"] = "pt" };

    /// <summary>Writes one file.</summary>
    /// <param name="path">The file to create or replace.</param>
    /// <param name="tensors">The tensors by name; they may lie on any device and need not be contiguous.</param>
    /// <param name="metadata">Strings to put beside them; null is <see cref="PyTorchMetadata"/>.</param>
    /// <exception cref="PeftException"><c>SafetensorsDuplicateName</c>, or what <see cref="AtomicFile.Write"/> throws.</exception>
    /// <exception cref="NotSupportedByPeftException"><c>SafetensorsTypeNotSupported</c>.</exception>
    public static void Write(string path, IEnumerable<(string Name, Tensor Value)> tensors, IReadOnlyDictionary<string, string>? metadata = null)
    {
        ArgumentNullException.ThrowIfNull(tensors);
        var rows = Order(tensors);
        AtomicFile.Write(path, stream => WriteTo(stream, rows, metadata ?? PyTorchMetadata));
    }

    /// <summary>Writes one file's content to a stream.</summary>
    internal static void Write(Stream stream, IEnumerable<(string Name, Tensor Value)> tensors) => WriteTo(stream, Order(tensors), PyTorchMetadata);

    /// <summary>
    /// Writes a model's weights into a folder: one file, or numbered shards with an index where they are larger than a limit. What an
    /// earlier save left under the same stem is replaced as a whole, after everything new is on the disk.
    /// </summary>
    /// <param name="folder">The folder, which must exist.</param>
    /// <param name="tensors">The tensors by name.</param>
    /// <param name="metadata">Strings to put into each file; null is <see cref="PyTorchMetadata"/>.</param>
    /// <param name="stem">File name without extension.</param>
    /// <param name="maxShardBytes">The most bytes of tensors a file holds, unless a single tensor is larger; default 50 GB as in transformers.</param>
    /// <param name="onTensor">Sees, after each tensor, the bytes of tensors that are written, and how many there are; what it throws ends the writing, and the folder stays as it was.</param>
    /// <param name="documents">JSON files that belong to the weights, by name: they are replaced together with them, and last.</param>
    /// <returns>The paths of the files that were written.</returns>
    public static IReadOnlyList<string> WriteFolder(
        string folder,
        IEnumerable<(string Name, Tensor Value)> tensors,
        IReadOnlyDictionary<string, string>? metadata = null,
        string stem = "model",
        long maxShardBytes = 50_000_000_000,
        Action<long, long>? onTensor = null,
        IEnumerable<(string Name, JsonObject Document)>? documents = null) =>
        WriteFolder(folder, tensors, metadata, stem, maxShardBytes, onTensor, documents, null);

    /// <summary>As the other, with files of any kind that belong to the weights and are replaced together with them beside the documents.</summary>
    internal static IReadOnlyList<string> WriteFolder(
        string folder,
        IEnumerable<(string Name, Tensor Value)> tensors,
        IReadOnlyDictionary<string, string>? metadata,
        string stem,
        long maxShardBytes,
        Action<long, long>? onTensor,
        IEnumerable<(string Name, JsonObject Document)>? documents,
        CompanionFiles? companions)
    {
        ArgumentNullException.ThrowIfNull(tensors);
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(maxShardBytes);
        var shards = Split(tensors, maxShardBytes);
        var total = shards.Sum(shard => shard.Sum(row => row.Length));
        long done = 0;
        Action<Row>? onRow = onTensor is null ? null : row => onTensor(done += row.Length, total);
        metadata ??= PyTorchMetadata;
        if (shards.Count > 1 && !metadata.ContainsKey(SaveId.Key))
        {
            var id = SaveId.Of(shards.SelectMany(static shard => shard).Select(row => (row.Name, row.Value)), () => onTensor?.Invoke(0, total));
            metadata = new Dictionary<string, string>(metadata) { [SaveId.Key] = id };
        }

        List<(string Name, Action<Stream> Write)> files = [];
        for (var i = 0; i < shards.Count; i++)
        {
            var rows = shards[i];
            var name = shards.Count == 1 ? $"{stem}.safetensors" : ShardName(stem, i + 1, shards.Count);
            files.Add((name, stream => WriteTo(stream, rows, metadata, onRow)));
        }

        if (shards.Count > 1)
        {
            files.Add(($"{stem}.safetensors.index.json", stream => WriteIndex(stream, shards, stem, metadata[SaveId.Key])));
        }

        files.AddRange((documents ?? []).Select(static file => (file.Name, (Action<Stream>)(stream => JsonFile.Write(stream, file.Document)))));
        files.AddRange(companions?.Written ?? []);
        var old = Directory.EnumerateFiles(folder).Select(static path => Path.GetFileName(path)).Where(name => IsWeights(name, stem));
        FileSet.Replace(folder, files, [.. old, .. companions?.Stale ?? []]);
        return [.. files.Select(file => Path.Combine(folder, file.Name))];
    }

    /// <summary>As <see cref="WriteFolder(string, IEnumerable{ValueTuple{string, Tensor}}, IReadOnlyDictionary{string, string}?, string, long, Action{long, long}?, IEnumerable{ValueTuple{string, JsonObject}}?)"/>, each file's tensors made when it is written and let go of before the next.</summary>
    /// <param name="folder">The folder, which must exist.</param>
    /// <param name="count">Number of files.</param>
    /// <param name="make">Gives the tensors of a file, counted from 0, in the dispose scope of the call.</param>
    /// <param name="saveId">Tells this save's files from another's.</param>
    /// <param name="onTensor">Called after each; what it throws ends the writing, and the folder stays as it was.</param>
    /// <param name="documents">JSON files that belong to the weights.</param>
    /// <param name="companions">Other files that do.</param>
    internal static IReadOnlyList<string> WriteFolder(
        string folder, int count, Func<int, IReadOnlyList<(string Name, Tensor Value)>> make, string saveId, Action onTensor, IEnumerable<(string Name, JsonObject Document)> documents, CompanionFiles companions)
    {
        const string Stem = "model";
        var metadata = new Dictionary<string, string>(PyTorchMetadata) { [SaveId.Key] = saveId };
        List<List<Row>> written = [];
        var files = Enumerable.Range(0, count).Select(index => (Name: count == 1 ? $"{Stem}.safetensors" : ShardName(Stem, index + 1, count), Write: (Action<Stream>)(stream =>
        {
            using var scope = NewDisposeScope();
            var rows = Order(make(index));
            WriteTo(stream, rows, metadata, _ => onTensor());
            written.Add(rows);
        }))).ToList();
        if (count > 1)
        {
            files.Add(($"{Stem}.safetensors.index.json", stream => WriteIndex(stream, written, Stem, saveId)));
        }

        files.AddRange(documents.Select(static file => (file.Name, (Action<Stream>)(stream => JsonFile.Write(stream, file.Document)))));
        files.AddRange(companions.Written);
        var old = Directory.EnumerateFiles(folder).Select(static path => Path.GetFileName(path)).Where(static name => IsWeights(name, Stem));
        FileSet.Replace(folder, files, [.. old, .. companions.Stale]);
        return [.. files.Select(file => Path.Combine(folder, file.Name))];
    }

    /// <summary>Readers take the single file before the index, so leftovers of another save would be read instead of what was written.</summary>
    private static bool IsWeights(string name, string stem) => name == $"{stem}.safetensors" || name == $"{stem}.safetensors.index.json"
        || System.IO.Enumeration.FileSystemName.MatchesSimpleExpression($"{stem}-*-of-*.safetensors", name, ignoreCase: false);

    private static string ShardName(string stem, int number, int count) =>
        string.Create(CultureInfo.InvariantCulture, $"{stem}-{number:D5}-of-{count:D5}.safetensors");

    private static void WriteIndex(Stream stream, List<List<Row>> shards, string stem, string saveId)
    {
        var map = new SortedDictionary<string, string>(StringComparer.Ordinal);
        for (var i = 0; i < shards.Count; i++)
        {
            foreach (var row in shards[i])
            {
                map.Add(row.Name, ShardName(stem, i + 1, shards.Count));
            }
        }

        var total = shards.Sum(shard => shard.Sum(row => row.Length));
        JsonFile.Write(stream, new { metadata = new SortedDictionary<string, object>(StringComparer.Ordinal) { ["total_size"] = total, [SaveId.Key] = saveId }, weight_map = map });
    }

    private static List<List<Row>> Split(IEnumerable<(string Name, Tensor Value)> tensors, long maxShardBytes)
    {
        List<List<Row>> shards = [[]];
        long filled = 0;
        foreach ((var name, var value) in tensors)
        {
            var row = Row.Of(name, value);
            if (filled > 0 && filled + row.Length > maxShardBytes)
            {
                shards.Add([]);
                filled = 0;
            }

            shards[^1].Add(row);
            filled += row.Length;
        }

        RefuseDuplicates(shards.SelectMany(shard => shard));
        return [.. shards.Select(shard => shard.Order().ToList())];
    }

    private static List<Row> Order(IEnumerable<(string Name, Tensor Value)> tensors)
    {
        List<Row> rows = [.. tensors.Select(tensor => Row.Of(tensor.Name, tensor.Value))];
        RefuseDuplicates(rows);
        rows.Sort();
        return rows;
    }

    private static void RefuseDuplicates(IEnumerable<Row> rows)
    {
        var seen = new HashSet<string>();
        var twice = rows.FirstOrDefault(row => !seen.Add(row.Name))?.Name;
        if (twice is not null || seen.Contains("__metadata__"))
        {
            throw new PeftException("SafetensorsDuplicateName", $"The tensor name '{twice ?? "__metadata__"}' can't be written: it is taken already.") { Target = twice };
        }
    }

    private static void WriteTo(Stream stream, List<Row> rows, IReadOnlyDictionary<string, string> metadata, Action<Row>? onRow = null)
    {
        var header = Header(rows, metadata);
        Span<byte> length = stackalloc byte[8];
        BinaryPrimitives.WriteInt64LittleEndian(length, header.Length);
        stream.Write(length);
        stream.Write(header);
        foreach (var row in rows)
        {
            TensorMemory.CopyTo(row.Value, stream);
            onRow?.Invoke(row);
        }
    }

    private static byte[] Header(List<Row> rows, IReadOnlyDictionary<string, string> metadata)
    {
        using var buffer = new MemoryStream();
        using (var writer = new Utf8JsonWriter(buffer, new JsonWriterOptions { Encoder = JsonFile.WriteOptions.Encoder }))
        {
            writer.WriteStartObject();
            if (metadata.Count > 0)
            {
                writer.WriteStartObject("__metadata__");
                foreach ((var key, var value) in metadata.OrderBy(pair => pair.Key, StringComparer.Ordinal))
                {
                    writer.WriteString(key, value);
                }

                writer.WriteEndObject();
            }

            long offset = 0;
            foreach (var row in rows)
            {
                WriteEntry(writer, row, offset);
                offset += row.Length;
            }

            writer.WriteEndObject();
        }

        // Padded with spaces, so that the data begins at a multiple of eight and can be mapped.
        while (buffer.Length % 8 != 0)
        {
            buffer.WriteByte((byte)' ');
        }

        return buffer.ToArray();
    }

    private static void WriteEntry(Utf8JsonWriter writer, Row row, long offset)
    {
        writer.WriteStartObject(row.Name);
        writer.WriteString("dtype", row.Type.Name);
        writer.WriteStartArray("shape");
        foreach (var size in row.Value.shape)
        {
            writer.WriteNumberValue(size);
        }

        writer.WriteEndArray();
        writer.WriteStartArray("data_offsets");
        writer.WriteNumberValue(offset);
        writer.WriteNumberValue(offset + row.Length);
        writer.WriteEndArray();
        writer.WriteEndObject();
    }

    private sealed record Row(string Name, Tensor Value, ElementType Type, long Length) : IComparable<Row>
    {
        public static Row Of(string name, Tensor value)
        {
            var type = ElementType.For(value.dtype, name);
            return new Row(name, value, type, value.NumberOfElements * type.Size);
        }

        public int CompareTo(Row? other)
        {
            var byType = other!.Type.Rank.CompareTo(Type.Rank);
            return byType != 0 ? byType : string.CompareOrdinal(Name, other.Name);
        }
    }
}

/// <summary>Files of another kind that are saved together with weights: a tokenizer's.</summary>
/// <param name="Written">Names and what writes the content.</param>
/// <param name="Stale">Names of those that another save left and that go.</param>
internal sealed record CompanionFiles(IReadOnlyList<(string Name, Action<Stream> Write)> Written, IReadOnlyList<string> Stale);
