using System.Globalization;
using System.Text.Json.Nodes;
using Peft.Adapters.Methods.Lycoris;
using Peft.Tensors;
using static TorchSharp.torch;

namespace Peft.Diffusion.Adapters;

/// <summary>Writes what acts on modules in one of the formats, whole or not at all.</summary>
/// <param name="modules">The model's modules.</param>
/// <param name="format">The format.</param>
/// <param name="dataType">Type of the tensors; null for what each has.</param>
internal sealed class DiffusionAdapterWriter(DiffusionModules modules, DiffusionAdapterFormat format, ScalarType? dataType)
{
    private const string ModuleKey = "ss_network_module";
    private const string ArgumentsKey = "ss_network_args";
    private readonly List<(string Name, Tensor Value)> _tensors = [];
    private readonly List<AdapterFormatLoss> _lost = [];
    private readonly SortedSet<string> _messages = new(StringComparer.Ordinal);
    private readonly List<AdapterEntry> _held = [];

    /// <summary>What the format can't hold, so far.</summary>
    public ICollection<AdapterFormatLoss> Lost => _lost;

    /// <summary>Takes what acts on a module.</summary>
    public void Add(AdapterEntry entry)
    {
        if (Obstacle(entry) is { } reason)
        {
            _lost.Add(new AdapterFormatLoss(entry.Module.TreePath, reason));
            return;
        }

        _held.Add(entry);
        if (format == DiffusionAdapterFormat.Diffusers)
        {
            AddForDiffusers(entry);
        }
        else
        {
            AddByKohyaNames(entry);
        }
    }

    /// <summary>Takes a tensor that belongs to nothing: a format of loose names keeps it.</summary>
    public void AddUnknown(string name, Func<Tensor> read)
    {
        if (format == DiffusionAdapterFormat.Diffusers)
        {
            _lost.Add(new AdapterFormatLoss(name, "it belongs to no module of the model"));
        }
        else
        {
            _tensors.Add((name, read()));
            _messages.Add("Tensors that belong to no module of the model were kept under their names.");
        }
    }

    /// <summary>Writes the file.</summary>
    /// <param name="path">The file; replaced where it is there.</param>
    /// <param name="metadata">What the source said beside its tensors.</param>
    /// <exception cref="PeftException"><c>AdapterFormatLosesAll</c>: the format holds nothing of the adapter; or what writing throws.</exception>
    public AdapterFormatReport Write(string path, IReadOnlyDictionary<string, string> metadata)
    {
        if (_held.Count == 0)
        {
            throw new PeftException("AdapterFormatLosesAll", $"A file in the format {format} holds nothing of this adapter: {string.Join("; ", _lost.Select(static loss => loss.Reason).Distinct())}. Nothing was written.")
            {
                Target = path,
                RecommendedAction = format == DiffusionAdapterFormat.LyCORIS ? "Make LoRA of it with ConvertTo-LoraAdapter first." : "Write it in the format LyCORIS, or make LoRA of it with ConvertTo-LoraAdapter first.",
            };
        }

        SafetensorsWriter.Write(path, _tensors, MetadataOf(metadata));
        return new AdapterFormatReport(path, format, _held.Count, Values.Of(_lost), Values.Of(_messages));
    }

    private string? Obstacle(AdapterEntry entry) => format switch
    {
        DiffusionAdapterFormat.LyCORIS => null,
        _ when !entry.IsLora => $"{entry.What.Algorithm} is no LoRA",
        DiffusionAdapterFormat.Diffusers when entry.Tensors.TryGetValue("dora_scale", out var lengths) && !IsByOutput(lengths, entry) => "diffusers has DoRA by outputs alone",
        _ => null,
    };

    private static bool IsByOutput(Tensor lengths, AdapterEntry entry) => lengths.dim() == 1 || lengths.size(0) == entry.Module.Layer.Outputs;

    private void AddByKohyaNames(AdapterEntry entry)
    {
        var name = modules.KohyaName(entry.Module, original: format == DiffusionAdapterFormat.Kohya && modules.HasTwoTextEncoders);
        foreach (var (key, value) in entry.Tensors)
        {
            _tensors.Add(($"{name}.{key}", Typed(key == "lora_up.weight" && entry.Module.Layer.Kernel.Count > 0 && value.dim() == 2 ? value.view([.. value.shape, .. entry.Module.Layer.Kernel.Select(static _ => 1L)]) : value)));
        }

        if (entry.What.Alpha is { } alpha)
        {
            _tensors.Add(($"{name}.{LycorisModule.AlphaKey}", Typed(tensor((float)alpha))));
        }
    }

    private void AddForDiffusers(AdapterEntry entry)
    {
        var name = $"{entry.Module.Component}.{entry.Module.Path}";
        var (down, up) = entry.Factors();
        _tensors.Add(($"{name}.lora_A.weight", Typed(down)));
        _tensors.Add(($"{name}.lora_B.weight", Typed(up)));
        if (entry.Tensors.TryGetValue("dora_scale", out var lengths))
        {
            _tensors.Add(($"{name}.{DiffusionKeys.Magnitude}", Typed(lengths.view([.. entry.Module.Layer.OutputShape]))));
        }

        if (entry.What.Alpha is { } alpha && alpha != entry.Tensors["lora_down.weight"].size(0))
        {
            _messages.Add("Alphas that aren't the rank were multiplied into the factors.");
        }

        if (entry.Tensors.ContainsKey("lora_mid.weight"))
        {
            _messages.Add("Cores of convolutions were multiplied into their factors.");
        }
    }

    private Tensor Typed(Tensor value) => dataType is { } type && value.is_floating_point() ? value.to(type) : value;

    private Dictionary<string, string> MetadataOf(IReadOnlyDictionary<string, string> source)
    {
        Dictionary<string, string> metadata = new(SafetensorsWriter.PyTorchMetadata, StringComparer.Ordinal);
        if (format == DiffusionAdapterFormat.Diffusers)
        {
            return metadata;
        }

        // Digests of what is no longer there are left out.
        foreach (var (key, value) in source.Where(static entry => entry.Key.StartsWith("ss_", StringComparison.Ordinal) || entry.Key.StartsWith("modelspec.", StringComparison.Ordinal)))
        {
            metadata[key] = value;
        }

        var first = _held.FirstOrDefault(static entry => entry.IsLora);
        metadata[ModuleKey] = format == DiffusionAdapterFormat.Kohya ? "networks.lora" : "lycoris.kohya";
        if (format == DiffusionAdapterFormat.LyCORIS)
        {
            metadata[ArgumentsKey] = new JsonObject { ["algo"] = _held.GroupBy(static entry => entry.What.Algorithm).MaxBy(static group => group.Count())!.Key.Split(' ')[0] }.ToJsonString();
        }

        if (first is not null)
        {
            var rank = first.Tensors["lora_down.weight"].size(0);
            metadata.TryAdd("ss_network_dim", rank.ToString(CultureInfo.InvariantCulture));
            metadata.TryAdd("ss_network_alpha", (first.What.Alpha ?? rank).ToString(CultureInfo.InvariantCulture));
        }

        if (BaseModelKind.VersionOf(modules) is { } version)
        {
            metadata.TryAdd("ss_base_model_version", version);
        }

        return metadata;
    }
}
