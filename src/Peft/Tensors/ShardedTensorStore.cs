using System.Diagnostics.CodeAnalysis;
using System.Text.Json;
using Peft.Files;
using static TorchSharp.torch;

namespace Peft.Tensors;

/// <summary>Tensors spread over several files, with an index (<c>model.safetensors.index.json</c>) that says which file holds which.</summary>
public sealed class ShardedTensorStore : TensorStore
{
    /// <summary>How the name of an index ends.</summary>
    internal const string IndexEnding = ".index.json";

    private readonly Dictionary<string, TensorStore> _stores = [];
    private readonly Dictionary<string, TensorStore> _storeOf = [];

    private ShardedTensorStore(string path) => Path = path;

    /// <inheritdoc/>
    public override string Path { get; }

    /// <inheritdoc/>
    public override IReadOnlyCollection<string> Names => _storeOf.Keys;

    /// <summary>Opens an index and all files it names.</summary>
    /// <param name="path">The index file.</param>
    /// <returns>The store; the caller disposes of it.</returns>
    /// <exception cref="PeftException">
    /// <c>ShardIndexInvalid</c>, <c>ShardOutsideFolder</c>, <c>ShardMissing</c>, <c>ShardLacksTensor</c>, or what opening a shard throws.
    /// </exception>
    public static ShardedTensorStore Open(string path)
    {
        var index = JsonFile.ReadObject(path);
        if (!index.TryGetProperty("weight_map", out var map) || map.ValueKind != JsonValueKind.Object)
        {
            throw new PeftException("ShardIndexInvalid", $"'{path}' has no object 'weight_map' that says which file holds which tensor.") { Target = path };
        }

        var store = new ShardedTensorStore(path);
        try
        {
            foreach (var row in map.EnumerateObject())
            {
                store.Add(row.Name, row.Value.ValueKind == JsonValueKind.String ? row.Value.GetString()! : string.Empty);
            }

            store.RefuseMixture(index);
        }
        catch
        {
            store.Dispose();
            throw;
        }

        return store;
    }

    /// <inheritdoc/>
    public override bool TryGetEntry(string name, [NotNullWhen(true)] out TensorEntry? entry)
    {
        entry = null;
        return _storeOf.TryGetValue(name, out var store) && store.TryGetEntry(name, out entry);
    }

    /// <inheritdoc/>
    public override Tensor Map(string name, ScalarType? type = null)
    {
        Entry(name);
        return _storeOf[name].Map(name, type);
    }

    /// <inheritdoc/>
    internal override bool StaysInFile(string name) => _storeOf.TryGetValue(name, out var store) && store.StaysInFile(name);

    /// <inheritdoc/>
    internal override Tensor ReadBytes(string name)
    {
        Entry(name);
        return _storeOf[name].ReadBytes(name);
    }

    /// <inheritdoc/>
    internal override Tensor MapBytes(string name)
    {
        Entry(name);
        return _storeOf[name].MapBytes(name);
    }

    /// <inheritdoc/>
    internal override void MapSmallFiles()
    {
        foreach (var store in _stores.Values)
        {
            store.MapSmallFiles();
        }
    }

    /// <inheritdoc/>
    internal override bool IsMapped(Tensor tensor) => _stores.Values.Any(store => store.IsMapped(tensor));

    /// <inheritdoc/>
    internal override IEnumerable<MappedFile> TakeMappedFiles() => [.. _stores.Values.SelectMany(static store => store.TakeMappedFiles())];

    /// <inheritdoc/>
    protected override Tensor ReadStored(TensorEntry entry) => _storeOf[entry.Name].Read(entry.Name);

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        if (disposing)
        {
            foreach (var store in _stores.Values)
            {
                store.Dispose();
            }
        }
    }

    /// <summary>
    /// All shards are of the save that the index names, or of one that it doesn't know. What wrote no ids, as other programs do, can't be told apart.
    /// </summary>
    private void RefuseMixture(JsonElement index)
    {
        var ofIndex = index.TryGetProperty("metadata", out var metadata) && metadata.ValueKind == JsonValueKind.Object
            && metadata.TryGetProperty(SaveId.Key, out var id) && id.ValueKind == JsonValueKind.String
            ? id.GetString()
            : null;
        string[] files = [.. _stores.Keys];
        string?[] ids = [.. _stores.Values.Select(static store => (store as SafetensorsFile)?.Metadata.GetValueOrDefault(SaveId.Key))];
        var expected = ofIndex ?? ids.FirstOrDefault();
        if (Array.FindIndex(ids, other => other != expected) is >= 0 and var odd)
        {
            throw SaveId.Mixture(Path, $"'{files[odd]}' is of another save than {(ofIndex is null ? $"'{files[0]}'" : "the index")}");
        }
    }

    private void Add(string tensorName, string fileName)
    {
        if (fileName.Length == 0 || fileName != System.IO.Path.GetFileName(fileName))
        {
            throw new PeftException("ShardOutsideFolder", $"'{Path}' says that tensor '{tensorName}' lies in '{fileName}', which is no file name of its own folder.") { Target = Path };
        }

        // An index may name itself, or another one that names it.
        if (fileName.EndsWith(IndexEnding, StringComparison.OrdinalIgnoreCase))
        {
            throw new PeftException("ShardIndexInvalid", $"'{Path}' says that tensor '{tensorName}' lies in '{fileName}', which is an index itself.")
            {
                Target = Path,
                RecommendedAction = "Fetch the index again: it names weight files only.",
            };
        }

        if (!_stores.TryGetValue(fileName, out var store))
        {
            var shard = System.IO.Path.Combine(System.IO.Path.GetDirectoryName(System.IO.Path.GetFullPath(Path))!, fileName);
            if (!File.Exists(shard))
            {
                throw new PeftException("ShardMissing", $"'{Path}' names the file '{fileName}', which is not there.")
                {
                    Target = shard,
                    RecommendedAction = "Fetch the missing part of the model.",
                };
            }

            store = OpenFile(shard);
            _stores.Add(fileName, store);
        }

        if (!store.Contains(tensorName))
        {
            throw new PeftException("ShardLacksTensor", $"'{Path}' says that '{fileName}' holds tensor '{tensorName}', but it does not.") { Target = tensorName };
        }

        _storeOf[tensorName] = store;
    }
}
