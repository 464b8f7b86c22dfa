using System.Text.Json;
using System.Text.Json.Nodes;
using Peft.Adapters;
using Peft.Adapters.Files;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Methods.Lycoris;
using Peft.Adapters.Targets;
using Peft.Tensors;
using static TorchSharp.torch;

namespace Peft.Diffusion.Adapters;

/// <summary>What an adapter file of a diffusion model holds, matched with a model: modules, tensors, and what belongs to nothing.</summary>
internal sealed class AdapterContents
{
    /// <summary>diffusers' configurations of the components' LoRA, flattened into the header.</summary>
    public const string ConfigurationKey = "lora_adapter_metadata";

    private readonly List<(DiffusionModule Module, string Key, string Name)> _tensors = [];

    private AdapterContents(TensorStore file, DiffusionModules modules)
    {
        File = file;
        Model = modules;
        Metadata = (file as SafetensorsFile)?.Metadata ?? new Dictionary<string, string>();
    }

    /// <summary>The file.</summary>
    public TensorStore File { get; }

    /// <summary>The model's modules.</summary>
    public DiffusionModules Model { get; }

    /// <summary>What the file says beside its tensors.</summary>
    public IReadOnlyDictionary<string, string> Metadata { get; }

    /// <summary>The tensors that belong to a module.</summary>
    public IReadOnlyList<(DiffusionModule Module, string Key, string Name)> Tensors => _tensors;

    /// <summary>Names of tensors that belong to nothing.</summary>
    public IReadOnlyList<string> Unknown { get; private set; } = [];

    /// <summary>How many modules of the file the model hasn't.</summary>
    public int StrangeModules { get; private set; }

    /// <summary>What acts on each module, by its path in the model's tree.</summary>
    public IReadOnlyDictionary<string, LycorisModule> Modules { get; private set; } = new Dictionary<string, LycorisModule>();

    /// <summary>Matches a file with a model.</summary>
    /// <exception cref="PeftException"><c>AdapterTensorInvalid</c>.</exception>
    public static AdapterContents Read(TensorStore file, DiffusionModules modules)
    {
        var contents = new AdapterContents(file, modules);
        var found = new LycorisModules();
        List<(string Name, string Path)> placed = [];
        List<string> unknown = [];
        HashSet<string> strange = new(StringComparer.Ordinal);
        foreach (var name in file.Names)
        {
            if (DiffusionKeys.Split(name) is not var (spelt, key))
            {
                unknown.Add(name);
            }
            else if (modules.Find(spelt) is not { } module)
            {
                unknown.Add(name);
                strange.Add(spelt);
            }
            else
            {
                found.Add(module.TreePath, key, ShapeOf(file.Entry(name)), () => LycorisNetworkConfig.Number(file, name));
                contents._tensors.Add((module, key, name));
            }
        }

        contents.TakeConfigurations(found);
        var built = found.Build();

        // An alpha by itself, or half of a pair, does nothing.
        foreach (var path in built.Where(static entry => !entry.Value.IsKnown).Select(static entry => entry.Key).ToArray())
        {
            built.Remove(path);
            unknown.AddRange(contents._tensors.Where(entry => entry.Module.TreePath == path).Select(static entry => entry.Name));
            contents._tensors.RemoveAll(entry => entry.Module.TreePath == path);
        }

        unknown.Sort(StringComparer.Ordinal);
        (contents.Modules, contents.Unknown, contents.StrangeModules) = (built, unknown, strange.Count);
        return contents;
    }

    /// <summary>The network that the file makes of the model.</summary>
    public LycorisNetworkConfig Config => new()
    {
        Modules = Modules,
        TargetModules = ModuleNames.Of([.. Modules.Keys]),
        Algorithm = AlgorithmOf(),
        Rank = Math.Max(1, (int)(Modules.Values.SelectMany(static module => module.Shapes).Where(static entry => entry.Key is "lora_down.weight" or "hada_w1_b").Select(static entry => entry.Value.FirstOrDefault(1)).DefaultIfEmpty(4).First())),
        FileMetadata = Metadata,
    };

    /// <summary>The tensors under PEFT's keys, each in the shape that the model's module asks for where that is the file's but for ones at its end.</summary>
    /// <param name="shapes">The shapes, by key.</param>
    public TensorStore Renamed(IReadOnlyDictionary<string, IReadOnlyList<long>> shapes)
    {
        Dictionary<string, FormedTensor> formed = new(StringComparer.Ordinal);
        foreach (var (module, key, name) in _tensors)
        {
            var full = KeyOf(module, key);

            // An alpha is one number, whatever ones stand around it.
            var shape = key == LycorisModule.AlphaKey ? [] : shapes.GetValueOrDefault(full) ?? File.Entry(name).Shape;
            formed.TryAdd(full, new FormedTensor(shape, () => Form(name, shape)));
            if (Modules[module.TreePath].Alpha is { } alpha)
            {
                // Said by the header, or by a tensor that takes this one's place.
                formed.TryAdd(KeyOf(module, LycorisModule.AlphaKey), new FormedTensor([], () => tensor((float)alpha)));
            }
        }

        return new FormedTensors(File, _tensors.Select(static entry => entry.Name).ToHashSet(StringComparer.Ordinal), formed);
    }

    /// <summary>PEFT's key of a tensor.</summary>
    public static string KeyOf(DiffusionModule module, string key) => $"{AdapterFile.Prefix}{module.TreePath}.{key}";

    /// <summary>Whether two shapes differ by ones alone: the matrix of a convolution of one tap, a vector that spreads.</summary>
    public static bool IsSame(IReadOnlyList<long> one, IReadOnlyList<long> other) => one.Where(static size => size != 1).SequenceEqual(other.Where(static size => size != 1));

    /// <summary>PEFT's lengths are the outputs', whatever ones stand around them.</summary>
    private static IReadOnlyList<long> ShapeOf(TensorEntry entry) => entry.Name.Contains(DiffusionKeys.Magnitude, StringComparison.Ordinal) ? [entry.Count] : entry.Shape;

    private Tensor Form(string name, IReadOnlyList<long> shape)
    {
        using var stored = File.Read(name, ScalarType.Float32);
        return stored.reshape([.. shape]).clone();
    }

    private string AlgorithmOf()
    {
        var usual = Modules.Values.GroupBy(static module => module.Algorithm).OrderByDescending(static group => group.Count()).FirstOrDefault()?.Key;
        return usual is "loha" or "lokr" or "ia3" or "full" or "diag-oft" or "boft" or "glora" or "tlora" ? usual : "locon";
    }

    /// <summary>Alphas that diffusers keeps in the header, in a configuration for each component. Without it alpha is the rank.</summary>
    private void TakeConfigurations(LycorisModules found)
    {
        if (!Metadata.TryGetValue(ConfigurationKey, out var text) || Parse(text) is not { } all)
        {
            return;
        }

        foreach (var group in _tensors.Where(static entry => entry.Key == "lora_down.weight").GroupBy(static entry => entry.Module.Component))
        {
            var own = new JsonObject(all.Where(entry => entry.Key.StartsWith(group.Key + ".", StringComparison.Ordinal))
                .Select(entry => KeyValuePair.Create(entry.Key[(group.Key.Length + 1)..], entry.Value?.DeepClone())));
            if (own.Count == 0)
            {
                continue;
            }

            own["peft_type"] = "LORA";
            var config = (LoraConfig)AdapterConfig.FromJson(own, $"{File.Path}, {ConfigurationKey}");
            foreach (var (module, _, name) in group)
            {
                var rank = (int)File.Entry(name).Shape.FirstOrDefault(1);
                found.SetAlpha(module.TreePath, config.Scale(TargetMatcher.Lookup(config.AlphaPattern, module.Path, config.Alpha), rank) * rank);
            }
        }
    }

    private JsonObject? Parse(string text)
    {
        try
        {
            return JsonNode.Parse(text) as JsonObject;
        }
        catch (JsonException error)
        {
            throw new PeftException("AdapterConfigInvalid", $"'{File.Path}': {ConfigurationKey} in its header is no JSON: {error.Message}", error)
            {
                Target = File.Path,
                RecommendedAction = "Fetch the file again.",
            };
        }
    }
}
