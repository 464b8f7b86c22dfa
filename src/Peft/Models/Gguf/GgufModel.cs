using System.Diagnostics.CodeAnalysis;
using System.Text.Json.Nodes;
using Peft.Tensors;
using Peft.Tensors.Gguf;
using static TorchSharp.torch;

namespace Peft.Models.Gguf;

/// <summary>
/// A model in a GGUF file as Hugging Face sees it: a configuration, and tensors under the names and in the order of rows that
/// transformers uses. Which families that works for, their rows in <see cref="ArchitectureRegistry"/> say (<see cref="GgufMap"/>).
/// </summary>
public sealed class GgufModel : TensorStore, IPackedStore
{
    private readonly Dictionary<string, (GgufWeight Weight, TensorEntry Entry)> _entries = [];
    private readonly Family _family;
    private readonly GgufMap _map;
    private readonly JsonObject _config;
    private GgufPacking? _packing;

    private GgufModel(GgufFile file)
    {
        File = file;
        (_family, _map) = Find(file);
        _config = ReadConfig();

        // The tree says which parameters there are, and its map what files call them.
        using var structure = ArchitectureRegistry.Create(new ModelConfig((JsonObject)_config.DeepClone()));
        var tree = new GgufTree(structure, _map);
        var read = new HashSet<string>(StringComparer.Ordinal);
        foreach (var (path, parameter, module) in structure.NamedWeights())
        {
            var found = tree.TryFind(path, parameter, module);
            if (new[] { found, found?.Fused }.FirstOrDefault(weight => weight?.Files.All(file.Contains) == true) is { } weight)
            {
                read.UnionWith(weight.Files);
                var first = file.Entry(weight.Files[0]);
                var shape = Fits(weight) ? parameter.Shape : first.Shape;
                _entries.Add(path, (weight, first with { Name = path, Shape = [.. shape] }));
            }
        }

        if (file.Names.FirstOrDefault(name => !read.Contains(name) && !GgufRotaryKeys.Owns(name) && !IsUnused(name, tree)) is { } unknown)
        {
            throw new NotSupportedByPeftException("GgufTensorNotSupported", $"'{Path}' holds the tensor '{unknown}', for which {_family.Stem} has no weight.")
            {
                Target = unknown,
                RecommendedAction = "Use the model's safetensors files.",
            };
        }
    }

    /// <summary>The file underneath, with its own names and the metadata of the tokenizer.</summary>
    public GgufFile File { get; }

    /// <inheritdoc/>
    public override string Path => File.Path;

    /// <inheritdoc/>
    public override IReadOnlyCollection<string> Names => _entries.Keys;

    /// <summary>Opens a file.</summary>
    /// <param name="path">The file.</param>
    /// <returns>The model; the caller disposes of it.</returns>
    /// <exception cref="PeftException">As <see cref="GgufFile.Open"/>, <c>GgufKeyMissing</c> or <c>GgufHeadsInvalid</c>.</exception>
    /// <exception cref="NotSupportedByPeftException"><c>GgufArchitectureNotSupported</c> or <c>GgufTensorNotSupported</c>.</exception>
    public static GgufModel Open(string path)
    {
        var file = GgufFile.Open(path);
        try
        {
            return new GgufModel(file);
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    /// <summary>What the model's <c>config.json</c> would say.</summary>
    /// <returns>A new object in the layout of transformers.</returns>
    public JsonObject CreateConfig() => (JsonObject)_config.DeepClone();

    /// <summary>Gives quantised weights of linear layers and experts as the blocks that they are, from now on.</summary>
    internal void KeepBlocks(GgufPacking packing) => _packing = packing;

    /// <inheritdoc/>
    public bool IsPacked(string name) => _packing is not null && _entries.TryGetValue(name, out var known)
        && known.Weight is { Row: null, Name.Layout.HoldsRows: true } weight
        && Fits(weight)
        && weight.Files.All(file => File.Tensors[file] is { Entry.Shape: [> 0, > 0] or [> 0, > 0, > 0], Type.Reader: not null })
        && (IsOfOneType(weight) || weight.Name.Layout.Pairs is not null);

    /// <inheritdoc/>
    public long PackedBytes(string name) => _entries[name].Weight.Files.Sum(file => File.Tensors[file].Length);

    /// <inheritdoc/>
    public PackedWeight ReadPacked(string name, UnpackBuffer buffer, bool isTransposed, Device device)
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        var weight = _entries[name].Weight;
        return IsOfOneType(weight)
            ? Make(weight.Files[0], weight.RowsToTree([.. weight.Files.Select(File.ReadBlocks)]))
            : PairedWeight.Of(Make(weight.Files[0], File.ReadBlocks(weight.Files[0])), Make(weight.Files[1], File.ReadBlocks(weight.Files[1])), weight.Name.Layout.Pairs == GgufPairs.InTurn, buffer);

        PackedWeight Make(string file, Tensor blocks) => _packing!.Make(new GgufPacked(File.Tensors[file].Type, blocks.contiguous(), _packing.DataType), buffer, isTransposed, device);
    }

    /// <inheritdoc/>
    public override bool TryGetEntry(string name, [NotNullWhen(true)] out TensorEntry? entry)
    {
        var found = _entries.TryGetValue(name, out var known);
        entry = known.Entry;
        return found;
    }

    /// <inheritdoc/>
    protected override Tensor ReadStored(TensorEntry entry)
    {
        var weight = _entries[entry.Name].Weight;
        if (!Fits(weight))
        {
            return File.Read(weight.Files[0]);
        }

        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        return weight.ToTree([.. weight.Files.Select(file => File.Read(file))]).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        if (disposing)
        {
            File.Dispose();
        }
    }

    private static (Family Family, GgufMap Map) Find(GgufFile file)
    {
        var architecture = file.Metadata.GetText("general.architecture") ?? "(none)";
        (Family Family, GgufMap Map)[] readable =
        [
            .. from family in ArchitectureRegistry.Families
               where family.Gguf is not null
               from map in (GgufMap[])[family.Gguf!, .. family.Gguf!.Others]
               where !map.IsWrittenOnly
               select (family, map),
        ];
        var found = readable.Where(entry => entry.Map.Architecture == architecture).OrderBy(static entry => entry.Map.Marker is null)
            .Where(entry => entry.Map.Marker is not { } marker || (file.Metadata.TryGetValue(entry.Map.Key(marker), out var value) && value is not (0u or 0 or 0ul or 0L)));
        foreach (var entry in found)
        {
            return entry;
        }

        throw new NotSupportedByPeftException(
            "GgufArchitectureNotSupported",
            $"'{file.Path}' holds a model of the architecture '{architecture}'; Peft reads {string.Join(", ", readable.Select(static entry => $"'{entry.Map.Architecture}'").Distinct())}.")
        {
            Target = file.Path,
            RecommendedAction = "Use the model's safetensors files.",
        };
    }

    /// <summary>What the family computes nothing with, and the layers behind the last one that only foretell further tokens.</summary>
    private bool IsUnused(string name, GgufTree tree) => _map.Unused?.Invoke(name, tree.Config) == true
        || (Foretelling > 0 && GgufName.Layer(name) is { } layer && layer >= tree.Layers && layer < tree.Layers + Foretelling);

    private long Foretelling => File.Metadata.GetInteger(_map.Key("nextn_predict_layers"), 0);

    private bool IsOfOneType(GgufWeight weight) => weight.Files.All(file => File.Tensors[file].Type == File.Tensors[weight.Files[0]].Type);

    private bool Fits(GgufWeight weight) => weight.Files.Zip(weight.Shapes).All(pair =>
        File.Entry(pair.First).Shape is var stored && (weight.Row is { } row ? stored.Count > 0 && row < stored[0] && stored.Skip(1).SequenceEqual(pair.Second) : stored.SequenceEqual(pair.Second)));

    private JsonObject ReadConfig()
    {
        var metadata = File.Metadata;
        var config = new JsonObject
        {
            ["architectures"] = new JsonArray(_family.Stem + _family.Heads[0].Suffix),
            ["model_type"] = _family.ModelType,
            ["vocab_size"] = File.Entry("token_embd.weight").Shape is [var vocabulary, _] ? vocabulary : throw NotAMatrix("token_embd"),
        };
        var (heads, width) = (metadata.GetInteger(_map.Key("attention.head_count")), metadata.GetInteger(_map.Key("embedding_length")));
        var shared = metadata.TryGetValue(_map.Key("attention.head_count_kv"), out var value) && value is Array ? heads : metadata.GetInteger(_map.Key("attention.head_count_kv"), heads);
        if (heads <= 0 || shared <= 0)
        {
            throw new PeftException("GgufHeadsInvalid", $"'{Path}' claims {heads} attention heads and {shared} for keys and values.") { Target = Path };
        }

        var size = metadata.GetInteger(_map.Key("attention.key_length"), _map.Rotary?.Share is null ? metadata.GetInteger(_map.Key("rope.dimension_count"), width / heads) : width / heads);
        AddKeys(config, size, shared);
        if (Foretelling > 0)
        {
            config[_map.LayersKey] = metadata.GetInteger(_map.Key("block_count")) - Foretelling;
        }

        foreach (var setting in _map.Fixed.Where(static setting => !setting.Key.Contains('.', StringComparison.Ordinal) && setting.Accepted[0] is not null))
        {
            config[setting.Key] = setting.Accepted[0] is double number && Math.Truncate(number) == number ? JsonValue.Create((long)number) : JsonValue.Create(setting.Accepted[0]);
        }

        foreach (var flag in _map.Flags)
        {
            config[flag.Key] = flag.Of(File.Contains);
        }

        AddWindow(config);
        GgufRotaryKeys.Read(config, File, _map, size);
        config["tie_word_embeddings"] = !File.Contains("output.weight");
        AddTokens(config, metadata);
        _map.Complete?.Invoke(config, File, _map);
        return config;
    }

    /// <summary>What the map's keys say; of sizes of heads that the file leaves out, what follows from others.</summary>
    private void AddKeys(JsonObject config, long headSize, long sharedHeads)
    {
        foreach (var key in _map.Keys.Where(static key => key.Tree is not null))
        {
            if (key.IsRequired || File.Metadata.ContainsKey(_map.Key(key.File)))
            {
                config[key.Tree!] = Read(File.Metadata, key);
            }
            else if (key.File == "attention.key_length")
            {
                config[key.Tree!] = headSize;
            }
            else if (key.File == "attention.head_count_kv")
            {
                config[key.Tree!] = sharedHeads;
            }
        }
    }

    private void AddWindow(JsonObject config)
    {
        if (_map.Window is not { } window)
        {
            return;
        }

        var (metadata, length, pattern) = (File.Metadata, _map.Key("attention.sliding_window"), _map.Key("attention.sliding_window_pattern"));
        config["sliding_window"] = metadata.ContainsKey(length) ? metadata.GetInteger(length) : null;
        if (window.ListsLayers)
        {
            config["layer_types"] = new JsonArray([.. (metadata.GetArray<bool>(pattern) ?? []).Select(static slides => JsonValue.Create(slides ? "sliding_attention" : "full_attention"))]);
        }

        if (window.PeriodKey is { } period && metadata.TryGetValue(pattern, out var value) && value is not Array)
        {
            config[period] = metadata.GetInteger(pattern);
        }
    }

    private JsonNode Read(GgufMetadata metadata, GgufKey key) => key.Kind switch
    {
        GgufKind.Whole => metadata.GetInteger(_map.Key(key.File)),
        GgufKind.Number => metadata.GetNumber(_map.Key(key.File)),
        _ => metadata.GetBoolean(_map.Key(key.File)),
    };

    private static void AddTokens(JsonObject config, GgufMetadata metadata)
    {
        foreach (var token in (string[])["bos", "eos", "pad", "unk"])
        {
            var key = $"tokenizer.ggml.{(token == "pad" ? "padding" : token == "unk" ? "unknown" : token)}_token_id";
            if (metadata.ContainsKey(key))
            {
                config[$"{token}_token_id"] = metadata.GetInteger(key);
            }
        }
    }

    private PeftException NotAMatrix(string name) =>
        new("GgufShapeInvalid", $"'{Path}' has a tensor {name} that is no matrix.") { Target = Path, RecommendedAction = "Fetch the file again." };
}
