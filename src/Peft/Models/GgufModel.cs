using System.Diagnostics.CodeAnalysis;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using Peft.Tensors;
using Peft.Tensors.Gguf;
using static TorchSharp.torch;

namespace Peft.Models;

/// <summary>
/// A model in a GGUF file as Hugging Face sees it: a configuration, and tensors under the names and in the order of rows that
/// transformers uses. Which families that works for, their rows in <see cref="ArchitectureRegistry"/> say (<see cref="GgufMap"/>).
/// </summary>
public sealed partial class GgufModel : TensorStore
{
    /// <summary>What each inverse frequency of the rotary positions is divided by; every Llama 3 file has it, for its scaling is nowhere else.</summary>
    private const string RopeFactors = "rope_freqs.weight";

    private readonly Dictionary<string, TensorEntry> _entries = [];
    private readonly Dictionary<string, string> _fileNames = [];
    private readonly Family _family;
    private readonly GgufMap _map;
    private readonly long _heads;
    private readonly long _keyValueHeads;

    private GgufModel(GgufFile file)
    {
        File = file;
        var architecture = file.Metadata.GetText("general.architecture") ?? "(none)";
        Family[] readable = [.. ArchitectureRegistry.Families.Where(static family => family.Gguf is not null)];
        _family = Array.Find(readable, family => family.Gguf!.Architecture == architecture) ?? throw new NotSupportedByPeftException(
            "GgufArchitectureNotSupported",
            $"'{file.Path}' holds a model of the architecture '{architecture}'; Peft reads {string.Join(", ", readable.Select(static family => $"'{family.Gguf!.Architecture}'"))}.")
        {
            Target = file.Path,
            RecommendedAction = "Use the model's safetensors files.",
        };
        _map = _family.Gguf!;
        _heads = file.Metadata.GetInteger(Key("attention.head_count"));
        _keyValueHeads = file.Metadata.GetInteger(Key("attention.head_count_kv"), _heads);
        if (_heads <= 0 || _keyValueHeads <= 0)
        {
            throw new PeftException("GgufHeadsInvalid", $"'{file.Path}' claims {_heads} attention heads and {_keyValueHeads} for keys and values.") { Target = file.Path };
        }

        foreach (var name in file.Names.Where(static name => name != RopeFactors))
        {
            var translated = Translate(name);
            _fileNames.Add(translated, name);
            _entries.Add(translated, file.Entry(name) with { Name = translated });
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
    public JsonObject CreateConfig()
    {
        var metadata = File.Metadata;
        var hidden = metadata.GetInteger(Key("embedding_length"));
        var headSize = metadata.GetInteger(Key("attention.key_length"), metadata.GetInteger(Key("rope.dimension_count"), hidden / _heads));
        var rope = RopeParameters(metadata);
        var config = new JsonObject
        {
            ["architectures"] = new JsonArray(_family.Stem + _family.Heads[0].Suffix),
            ["model_type"] = _family.ModelType,
            ["vocab_size"] = Entry("model.embed_tokens.weight").Shape is [var vocabulary, _] ? vocabulary : throw NotAMatrix("token_embd"),
            ["hidden_size"] = hidden,
            ["intermediate_size"] = metadata.GetInteger(Key("feed_forward_length")),
            ["num_hidden_layers"] = metadata.GetInteger(Key("block_count")),
            ["num_attention_heads"] = _heads,
            ["num_key_value_heads"] = _keyValueHeads,
            ["head_dim"] = headSize,
            ["hidden_act"] = _map.Activation,
            ["max_position_embeddings"] = metadata.GetInteger(Key("context_length")),
            ["rms_norm_eps"] = metadata.GetNumber(Key("attention.layer_norm_rms_epsilon")),
            ["rope_parameters"] = rope,

            // What reads the files of older releases looks for these two.
            ["rope_theta"] = rope["rope_theta"]!.DeepClone(),
            ["rope_scaling"] = (string)rope["rope_type"]! == "default" ? null : rope.DeepClone(),
            ["attention_bias"] = Contains("model.layers.0.self_attn.o_proj.bias"),
            ["mlp_bias"] = Contains("model.layers.0.mlp.up_proj.bias"),
            ["tie_word_embeddings"] = !Contains("lm_head.weight"),
        };
        foreach (var (tree, file) in _map.Numbers.Where(number => metadata.ContainsKey(Key(number.File))))
        {
            config[tree] = metadata.GetNumber(Key(file));
        }

        foreach (var token in (string[])["bos", "eos", "pad", "unk"])
        {
            var key = $"tokenizer.ggml.{(token == "pad" ? "padding" : token == "unk" ? "unknown" : token)}_token_id";
            if (metadata.ContainsKey(key))
            {
                config[$"{token}_token_id"] = metadata.GetInteger(key);
            }
        }

        return config;
    }

    /// <inheritdoc/>
    public override bool TryGetEntry(string name, [NotNullWhen(true)] out TensorEntry? entry) => _entries.TryGetValue(name, out entry);

    /// <inheritdoc/>
    protected override Tensor ReadStored(TensorEntry entry)
    {
        var stored = File.Read(_fileNames[entry.Name]);
        var heads = entry.Name.Contains(".q_proj.", StringComparison.Ordinal) ? _heads
            : entry.Name.Contains(".k_proj.", StringComparison.Ordinal) ? _keyValueHeads : 0;
        if (_map.AddsOneToNorms && entry.Name.EndsWith("norm.weight", StringComparison.Ordinal))
        {
            return stored.sub_(1);
        }

        if (heads == 0 || !_map.PairsNeighbours)
        {
            return stored;
        }

        using (stored)
        {
            return WithoutInterleaving(stored, heads);
        }
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        if (disposing)
        {
            File.Dispose();
        }
    }

    [GeneratedRegex(@"^blk\.(?<layer>[0-9]{1,6})\.(?<part>[a-z_]+)\.(?<kind>weight|bias)$", RegexOptions.CultureInvariant, matchTimeoutMilliseconds: 1000)]
    private static partial Regex LayerName();

    private string Key(string name) => $"{_map.Architecture}.{name}";

    private JsonObject RopeParameters(GgufMetadata metadata)
    {
        var rope = new JsonObject { ["rope_theta"] = metadata.GetNumber(Key("rope.freq_base"), 10000), ["rope_type"] = "default" };
        var scaling = metadata.GetText(Key("rope.scaling.type"));
        if (scaling is not (null or "none"))
        {
            rope["rope_type"] = scaling;
            rope["factor"] = metadata.GetNumber(Key("rope.scaling.factor"), 1);
            if (metadata.ContainsKey(Key("rope.scaling.original_context_length")))
            {
                rope["original_max_position_embeddings"] = metadata.GetInteger(Key("rope.scaling.original_context_length"));
            }

            if (scaling == "yarn" && metadata.ContainsKey(_map.Architecture + GgufMap.YarnAttentionKey))
            {
                rope["attention_factor"] = metadata.GetNumber(_map.Architecture + GgufMap.YarnAttentionKey) * GgufMap.YarnAttention((double)rope["factor"]!);
            }

            foreach (var (tree, file) in GgufMap.YarnNumbers.Where(key => metadata.ContainsKey(_map.Architecture + key.File)))
            {
                rope[tree] = metadata.GetNumber(_map.Architecture + file);
            }
        }

        if (Factors() is { } factors)
        {
            // The one scaling of transformers that names a factor for each frequency; with equal lists it is the same at every length.
            rope["rope_type"] = "longrope";
            rope["long_factor"] = factors;
            rope["short_factor"] = factors.DeepClone();
            rope["attention_factor"] = 1.0;
            rope["factor"] = 1.0;
            rope["original_max_position_embeddings"] = metadata.GetInteger(Key("context_length"));
        }

        return rope;
    }

    private JsonArray? Factors()
    {
        if (!File.Names.Contains(RopeFactors))
        {
            return null;
        }

        using var stored = File.Read(RopeFactors);
        using var values = stored.to(ScalarType.Float32);
        var factors = values.data<float>().ToArray();
        return factors.All(static factor => factor == 1) ? null : new JsonArray([.. factors.Select(static factor => JsonValue.Create((double)factor))]);
    }

    /// <summary>
    /// Files of Llama pair neighbouring rows of a head in the rotation; transformers pairs row i with row i + half.
    /// </summary>
    private Tensor WithoutInterleaving(Tensor weight, long heads)
    {
        if (weight.shape is not [var rows, ..])
        {
            throw NotAMatrix("attn_q or attn_k");
        }

        if (rows == 0 || rows % (2 * heads) != 0)
        {
            throw new PeftException("GgufHeadsInvalid", $"'{Path}' has query or key weights of {rows} rows, which {heads} heads can't share.") { Target = Path };
        }

        var width = weight.NumberOfElements / rows;
        using var pairs = weight.view(heads, rows / heads / 2, 2, width);
        using var halves = pairs.transpose(1, 2);
        using var contiguous = halves.contiguous();
        return contiguous.view(weight.shape);
    }

    private PeftException NotAMatrix(string name) =>
        new("GgufShapeInvalid", $"'{Path}' has a tensor {name} that is no matrix.") { Target = Path, RecommendedAction = "Fetch the file again." };

    private string Translate(string name)
    {
        var dot = name.LastIndexOf('.');
        if (dot > 0 && _map.Whole.TryGetValue(name[..dot], out var whole))
        {
            return whole + name[dot..];
        }

        var match = LayerName().Match(name);
        return match.Success && _map.InLayer.TryGetValue(match.Groups["part"].Value, out var inLayer)
            ? $"model.layers.{match.Groups["layer"].Value}.{inLayer}.{match.Groups["kind"].Value}"
            : throw new NotSupportedByPeftException("GgufTensorNotSupported", $"'{Path}' holds the tensor '{name}', which a plain {_family.Stem} does not have (experts, for instance).")
            {
                Target = name,
                RecommendedAction = "Use the model's safetensors files.",
            };
    }
}
