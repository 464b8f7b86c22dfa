using System.Text.Json.Nodes;
using Peft.Tensors.Gguf;

namespace Peft.Models.Gguf;

/// <summary>How GGUF files hold the models of a family: llama.cpp's names of what tree and configuration call by transformers', in both directions.</summary>
/// <param name="Architecture"><c>general.architecture</c>, which begins the names of sizes too.</param>
internal sealed record GgufMap(string Architecture)
{
    /// <summary>A key whose value other than 0 tells files from those of another map with the same architecture; null for the one that has none.</summary>
    public string? Marker { get; init; }

    /// <summary>Maps of those models of the family that llama.cpp holds otherwise.</summary>
    public IReadOnlyList<GgufMap> Others { get; init; } = [];

    /// <summary>Which models one of <see cref="Others"/> is for.</summary>
    public Func<ModelConfig, bool>? Serves { get; init; }

    /// <summary>Whether files by this map are read as another family, which their architecture is named after.</summary>
    public bool IsWrittenOnly { get; init; }

    /// <summary>Tensors of files that the family computes nothing with.</summary>
    public Func<string, ModelConfig, bool>? Unused { get; init; }

    /// <summary>Sizes and settings.</summary>
    public required IReadOnlyList<GgufKey> Keys { get; init; }

    /// <summary>What llama.cpp takes for granted.</summary>
    public IReadOnlyList<GgufFixed> Fixed { get; init; } = [];

    /// <summary>What tensors say by being there.</summary>
    public IReadOnlyList<GgufFlag> Flags { get; init; } = [];

    /// <summary>Metadata that every file of the family has.</summary>
    public IReadOnlyList<(string Key, object Value)> Stated { get; init; } = [];

    /// <summary>Further metadata of a model.</summary>
    public Func<PretrainedModel, ModelConfig, IEnumerable<(string Key, object Value)>>? Further { get; init; }

    /// <summary>What else a configuration gets from a file.</summary>
    public Action<JsonObject, GgufFile, GgufMap>? Complete { get; init; }

    /// <summary>Where the blocks stand below the backbone.</summary>
    public string Layers { get; init; } = "layers";

    /// <summary>Key of the number of blocks.</summary>
    public string LayersKey { get; init; } = "num_hidden_layers";

    /// <summary>Names outside the blocks, below the backbone.</summary>
    public IReadOnlyList<GgufName> Whole { get; init; } = [new("embed_tokens", "token_embd"), new("norm", "output_norm")];

    /// <summary>Names inside a block.</summary>
    public required IReadOnlyList<GgufName> InLayer { get; init; }

    /// <summary>Whether llama.cpp wants an output layer of its own where the embedding gives the logits, and takes the embedding for it nowhere.</summary>
    public bool NeedsHead { get; init; }

    /// <summary>Whether llama.cpp takes the embedding for the output layer whatever the file holds.</summary>
    public bool HeadIsEmbedding { get; init; }

    /// <summary>Whether llama.cpp adds what an adapter has for the output layer.</summary>
    public bool HeadHasAdapters { get; init; } = true;

    /// <summary>Rotary positions; null for none.</summary>
    public GgufRotary? Rotary { get; init; } = new();

    /// <summary>Which layers see a window; null where llama.cpp knows none in this architecture.</summary>
    public GgufWindow? Window { get; init; }

    /// <summary>Of each layer whether it recurs, where llama.cpp runs only models that have layers of both kinds; null elsewhere.</summary>
    public Func<ModelConfig, bool[]>? Recurs { get; init; }

    /// <summary>The key of a size in a file.</summary>
    public string Key(string name) => $"{Architecture}.{name}";

    /// <summary>The map of a model of the family.</summary>
    public GgufMap Of(ModelConfig config) => Others.FirstOrDefault(other => other.Serves!(config)) ?? this;
}

/// <summary>Rotary positions in files.</summary>
internal sealed record GgufRotary
{
    /// <summary>The share of a head that turns where a configuration doesn't say; null where all of it does.</summary>
    public double? Share { get; init; }

    /// <summary>Key of the number of elements that turn; null where it follows from the share.</summary>
    public string? SizeKey { get; init; }

    /// <summary>Whether layers with a window turn by a base of their own: the key of it in published configurations, and the base without it.</summary>
    public (string Key, double Otherwise)? LocalBase { get; init; }

    /// <summary>Whether the file states that base; otherwise it is that of all layers, unscaled.</summary>
    public bool StatesLocalBase { get; init; } = true;

    /// <summary>Whether llama.cpp wants a factor for every frequency even where none is slowed down.</summary>
    public bool NeedsFactors { get; init; }

    /// <summary>Whether files state how YaRN's attention factor is divided (<c>mscale_all_dim</c>).</summary>
    public bool StatesDivisor { get; init; }
}

/// <summary>Windows of attention in files.</summary>
/// <param name="Period">Every so many layers one sees everything, where the file doesn't say.</param>
internal sealed record GgufWindow(int Period)
{
    /// <summary>Key of that number in published configurations; null for none.</summary>
    public string? PeriodKey { get; init; }

    /// <summary>Whether llama.cpp reads a number of the file's own.</summary>
    public bool ReadsPeriod { get; init; }

    /// <summary>Whether files list for each layer whether it has a window.</summary>
    public bool ListsLayers { get; init; }

    /// <summary>Whether the last layer sees everything, whatever a configuration says.</summary>
    public bool LastSeesAll { get; init; }
}
