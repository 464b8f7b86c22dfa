using System.Globalization;
using System.Text.Json.Nodes;
using Peft.Adapters.Configuration;
using Peft.Adapters.Files;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Slots;
using Peft.Models;
using Peft.Tensors;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.XLora;

/// <summary>X-LoRA (Buehler and Buehler 2024): a small network reads the base's last hidden states and mixes trained LoRA adapters, the experts, token by token. Defaults are PEFT's.</summary>
public sealed record XLoraConfig : AdapterConfig
{
    /// <inheritdoc/>
    public override string PeftType => "XLORA";

    /// <summary>The experts: a table of name to folder. Folders are looked for beside the adapter's files first, where saving puts the experts.</summary>
    [ConfigField("adapters", Parameter = "Expert")]
    public JsonNode? Experts { get; init; } = new JsonObject();

    /// <summary>Width of the base's hidden states; taken from the model.</summary>
    [ConfigField("hidden_size", Minimum = 1)]
    public int? HiddenSize { get; init; }

    /// <summary>Whether the shares of the experts are made to sum to one.</summary>
    [ConfigField("enable_softmax", Parameter = "Softmax")]
    public bool Softmax { get; init; } = true;

    /// <summary>Whether the shares that <c>-TopCount</c> leaves are made to sum to one again.</summary>
    [ConfigField("enable_softmax_topk", Parameter = "SoftmaxOfTop")]
    public bool SoftmaxOfTop { get; init; }

    /// <summary>Divides what the network says before it becomes shares; a lower one chooses more sharply.</summary>
    [ConfigField("softmax_temperature", Parameter = "Temperature", IsReal = true)]
    public double Temperature { get; init; } = 1;

    /// <summary>Whether each layer has shares of its own.</summary>
    [ConfigField("layerwise_scalings", Parameter = "Layerwise")]
    public bool Layerwise { get; init; }

    /// <summary>How many experts act on a token, those with the largest shares; null for all.</summary>
    [ConfigField("top_k_lora", Parameter = "TopCount", Minimum = 1)]
    public int? TopCount { get; init; }

    /// <summary>Layers of the network.</summary>
    [ConfigField("xlora_depth", Parameter = "Depth", Minimum = 1)]
    public int Depth { get; init; } = 1;

    /// <summary>Width of the network, where it has more than one layer.</summary>
    [ConfigField("xlora_size", Parameter = "Width", Minimum = 1)]
    public int Width { get; init; } = 2048;

    /// <summary>Probability with which a value between the network's layers is dropped in training.</summary>
    [ConfigField("xlora_dropout_p", Parameter = "Dropout", Minimum = 0, Maximum = 1, IsReal = true, ErrorId = "DropoutInvalid")]
    public double Dropout { get; init; } = 0.2;

    /// <summary>Whether the experts are trained too.</summary>
    [ConfigField("use_trainable_adapters", Parameter = "TrainExperts")]
    public bool TrainsExperts { get; init; }

    /// <summary>Kept as written: PEFT computes the hidden states that the network reads without any expert, whatever this says.</summary>
    [ConfigField("scaling_pass_value", IsReal = true)]
    public double ScalingPassValue { get; init; }

    /// <summary>Multiplies what all experts add.</summary>
    [ConfigField("global_scaling_weight", Parameter = "Strength", IsReal = true)]
    public double Strength { get; init; } = 1;

    /// <summary>Where the adapter's files lie, or null.</summary>
    internal string? Folder { get; init; }

    /// <summary>Folders of the experts, in order.</summary>
    internal IReadOnlyList<string> ExpertFolders => [.. ((Experts as JsonObject) ?? []).Select((entry, index) => FolderOf(index, entry.Value?.ToString() ?? ""))];

    /// <inheritdoc/>
    public override void Validate()
    {
        base.Validate();
        if (Experts is not JsonObject { Count: > 0 })
        {
            throw new PeftException("AdapterConfigContradictory", "X-LoRA needs experts: adapters is a table of names and folders of LoRA adapters.") { Target = "adapters" };
        }
    }

    /// <inheritdoc/>
    public override Adapter CreateAdapter(string name) => new XLoraAdapter(name, this);

    /// <inheritdoc/>
    internal override (AdapterConfig Config, TensorStore Tensors) ForFile(TensorStore file, PretrainedModel model) => (this with { Folder = Path.GetDirectoryName(file.Path) }, file);

    private string FolderOf(int index, string path)
    {
        string[] places = Folder is null ? [path] : [Path.Combine(Folder, XLoraAdapter.ExpertName(index)), path, Path.Combine(Folder, path)];
        return places.FirstOrDefault(static place => File.Exists(Path.Combine(place, FileName))) ?? path;
    }
}

/// <summary>The experts, each a LoRA adapter that is attached nowhere, and the network that mixes them.</summary>
public sealed class XLoraAdapter(string name, XLoraConfig config) : Adapter(name, config)
{
    private readonly List<LoraAdapter> _experts = [];
    private readonly List<AdaptedLayer> _layers = [];
    private readonly List<(Parameter Weight, Parameter Bias)> _network = [];
    private PretrainedModel? _model;

    /// <inheritdoc/>
    public override IReadOnlyList<AdaptedLayer> Layers => _layers;

    /// <inheritdoc/>
    public override string MergeObstacle => "which expert acts depends on the token";

    /// <inheritdoc/>
    public override long UntrainedCount => Settings.TrainsExperts ? 0 : _experts.SelectMany(static expert => expert.Parameters()).Sum(static parameter => parameter.Parameter.Count);

    /// <inheritdoc/>
    protected override string KeyPrefix => "base_model.internal_xlora_classifier.";

    private XLoraConfig Settings => (XLoraConfig)Config;

    /// <summary>Name of the folder in which an expert is saved.</summary>
    internal static string ExpertName(int index) => string.Create(CultureInfo.InvariantCulture, $"expert_{index}");

    /// <inheritdoc/>
    public override IReadOnlyList<AdapterParameter> Parameters() =>
    [
        .. base.Parameters(),
        .. _experts.SelectMany(static (expert, index) => expert.Parameters().Select(parameter => (parameter, index)))
            .Select(entry => entry.parameter with { FullKey = $"{ExpertName(entry.index)}.{entry.parameter.FullKey}", FileKey = null, Role = Settings.TrainsExperts ? entry.parameter.Role : ParameterRole.Frozen }),
    ];

    /// <inheritdoc/>
    public override void Declare(PretrainedModel model, ICollection<string> messages)
    {
        _model = model;
        foreach (var folder in Settings.ExpertFolders)
        {
            var expert = AdapterConfig.FromFolder(folder) is LoraConfig { UseDora: false } lora
                ? (LoraAdapter)lora.CreateAdapter(ExpertName(_experts.Count))
                : throw new PeftException("AdapterConfigContradictory", $"The expert in '{folder}' is no plain LoRA adapter, which X-LoRA mixes alone.") { Target = folder };
            _experts.Add(expert);
            expert.Declare(model, messages);
            if (expert.Overlays.Count > 0 || expert.Layers.Any(static layer => layer.Layer is not Models.Layers.Linear || layer.Adapter is not LoraLayer { BaseEdit: null, Bias: null }))
            {
                throw new PeftException("AdapterConfigContradictory", $"The expert in '{folder}' does more than change linear layers by two factors, which X-LoRA can't mix.") { Target = folder };
            }
        }

        var width = model.Backbone.Width;
        Config = Settings with { HiddenSize = Settings.HiddenSize ?? (int)width };
        if (Settings.HiddenSize != width)
        {
            throw new PeftException("PromptDoesNotFit", $"The network reads hidden states of {Settings.HiddenSize}, and the model has {width}.") { Target = "hidden_size", RecommendedAction = "Leave hidden_size out." };
        }

        var layers = model.Descendants().SelectMany(static module => module.Adaptables).Where(layer => _experts.Exists(expert => expert.Layers.Any(other => other.Layer.Weight == layer.Weight))).ToArray();
        DeclareNetwork(Settings.Layerwise ? layers.Length * _experts.Count : _experts.Count);
        _layers.AddRange(layers.Select((layer, index) => new AdaptedLayer(
            layer, new XLoraLayer(layer, Name, Settings, [.. _experts.Select(expert => expert.Layers.FirstOrDefault(other => other.Layer.Weight == layer.Weight).Adapter as LoraLayer)], _network, Settings.Layerwise ? index : 0))));
        base.Declare(model, messages);
    }

    /// <inheritdoc/>
    public override void Initialise(torch.Generator generator, Predicate<Parameter> needed)
    {
        foreach (var (weight, bias) in _network.Where(layer => needed(layer.Weight)))
        {
            var bound = 1 / Math.Sqrt(weight.Shape[1]);
            weight.Assign(RandomTensors.Uniform(weight.Shape, bound, generator, Device));
            bias.Assign(RandomTensors.Uniform(bias.Shape, bound, generator, Device));
        }

        foreach (var (expert, folder) in _experts.Zip(Settings.ExpertFolders))
        {
            using var file = AdapterFile.Open(folder);
            AdapterFile.Load(expert, file, _model!, generator, []);
        }

        base.Initialise(generator, needed);
    }

    /// <inheritdoc/>
    public override void Attach()
    {
        foreach (var (layer, adapter) in _layers)
        {
            AdapterSlot.Of(layer.Module, layer.Weight).Attach(Name, adapter);
        }

        base.Attach();
    }

    /// <summary>Once its tokens are known, the pass has the base's own hidden states of them, which the network reads.</summary>
    public override ForwardContext Prepare(ForwardContext pass) => pass with
    {
        OnTokens = (ids, known) =>
        {
            var told = pass.OnTokens?.Invoke(ids, known) ?? known;
            var hidden = Hidden(ids, told);
            told.Tape?.Share(hidden);
            return told with { Activations = new Dictionary<string, Tensor>(told.Activations) { [Name] = hidden } };
        },
    };

    /// <summary>[rows, length, width] of the positions of a pass, by a pass of the base over all tokens up to there.</summary>
    private Tensor Hidden(Tensor ids, ForwardContext pass)
    {
        using var noGradients = no_grad();
        var isWhole = ids.size(1) == pass.Length;
        var positions = isWhole || pass.AttentionMask is null ? (isWhole ? pass.Positions : null) : pass.AttentionMask.cumsum(1).sub(1).clamp(min: 0);
        var output = _model!.Forward(ids, new ForwardContext
        {
            AttentionMask = pass.AttentionMask,
            Positions = positions,
            Packing = pass.Packing,
            Cancellation = pass.Cancellation,
        });
        return output.Hidden.view(ids.size(0), ids.size(1), -1).narrow(1, ids.size(1) - pass.Length, pass.Length);
    }

    /// <inheritdoc/>
    internal override void SaveBeside(string folder)
    {
        for (var i = 0; i < _experts.Count; i++)
        {
            AdapterFile.Save(_experts[i], Path.Combine(folder, ExpertName(i)), embeddings: null);
        }
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        foreach (var expert in _experts)
        {
            expert.Dispose();
        }

        base.Dispose(disposing);
    }

    /// <summary>Linear layers with ReLU and dropout between them, which have places of their own in PyTorch's list.</summary>
    private void DeclareNetwork(long outputs)
    {
        var place = 0;
        for (var i = 0; i < Settings.Depth; i++)
        {
            var inputs = i == 0 ? Settings.HiddenSize!.Value : Settings.Width;
            var weight = new Parameter("weight", [i == Settings.Depth - 1 ? outputs : Settings.Width, inputs]);
            var bias = new Parameter("bias", [weight.Shape[0]]);
            _network.Add((weight, bias));
            Shared.Add(new AdapterParameter(KeyOf($"layers.{place}", "weight"), weight));
            Shared.Add(new AdapterParameter(KeyOf($"layers.{place}", "bias"), bias));
            place += Settings.Dropout > 0 ? 3 : 2;
        }
    }
}

/// <summary>One layer's experts: y += strength · Σ scaleₑ Bₑ (Aₑ (sₑ x)), with sₑ the expert's share of the token.</summary>
/// <param name="layer">The layer.</param>
/// <param name="name">The adapter's name.</param>
/// <param name="config">The configuration.</param>
/// <param name="experts">What each expert has here; null where it leaves the layer alone.</param>
/// <param name="network">The network's layers.</param>
/// <param name="index">Which of the layers' shares are this one's.</param>
internal sealed class XLoraLayer(
    Models.Layers.IAdaptable layer, string name, XLoraConfig config, IReadOnlyList<LoraLayer?> experts, IReadOnlyList<(Parameter Weight, Parameter Bias)> network, int index) : LayerAdapter(layer)
{
    /// <inheritdoc/>
    public override string MergeObstacle => "which expert acts depends on the token";

    /// <summary>The experts and the network are the adapter's.</summary>
    public override IReadOnlyList<LayerParameter> Parameters => [];

    /// <inheritdoc/>
    public override IEnumerable<Parameter> Reads(ForwardContext context) =>
        [.. network.SelectMany(static layer => new[] { layer.Weight, layer.Bias }), .. config.TrainsExperts ? experts.OfType<LoraLayer>().SelectMany(static expert => new[] { expert.A, expert.B }) : []];

    /// <inheritdoc/>
    public override void Initialise(Generator generator)
    {
    }

    /// <inheritdoc/>
    public override Tensor After(Tensor x, Tensor y, SlotCall call)
    {
        if (!call.Context.Activations.TryGetValue(name, out var hidden))
        {
            throw new PeftException("TokensUnknown", $"'{name}' mixes experts by the tokens of a pass, and this pass has none.") { Target = name, RecommendedAction = "Give the model token ids." };
        }

        var shares = Shares(hidden, call.Context).to(y.dtype);
        var last = x.size(0) == shares.size(0) * shares.size(1) ? shares : shares.narrow(1, shares.size(1) - 1, 1);
        shares = last.flatten(0, 1);
        for (var i = 0; i < experts.Count; i++)
        {
            if (experts[i] is { } expert)
            {
                y = y + expert.Of(x * shares.narrow(1, i, 1), y, call);
            }
        }

        return y;
    }

    /// <inheritdoc/>
    public override Affine Merge(Affine current, Affine bare) => throw new NotSupportedException(MergeObstacle);

    /// <summary>The experts' shares, [rows, length, experts].</summary>
    private Tensor Shares(Tensor hidden, ForwardContext context)
    {
        var values = hidden.to(ScalarType.Float32).flatten(0, 1);
        for (var i = 0; i < network.Count - 1; i++)
        {
            values = (Models.Layers.IAdaptable.Multiply(values, network[i].Weight.Data) + network[i].Bias.Data).relu();
            values = context.IsTraining && config.Dropout > 0 ? values * RandomTensors.DropoutMask(values, config.Dropout, context.Generator) : values;
        }

        var (weight, bias) = network[^1];
        var shares = values.mm(weight.Data.narrow(0, index * experts.Count, experts.Count).t()) + bias.Data.narrow(0, index * experts.Count, experts.Count);
        shares = config.Softmax ? (shares / config.Temperature).softmax(-1) : shares;
        if (config.TopCount is { } count && count < experts.Count)
        {
            var (_, places) = shares.topk(count, -1);
            shares = shares * zeros_like(shares).scatter(-1, places, ones_like(places).to(shares.dtype));
        }

        if (config.SoftmaxOfTop)
        {
            var isChosen = shares.ne(0);
            shares = shares.masked_fill(isChosen.logical_not(), double.NegativeInfinity).softmax(-1).masked_fill(isChosen.logical_not(), 0);
        }

        return (shares * config.Strength).view(hidden.size(0), hidden.size(1), -1);
    }
}
