using Peft.Adapters.Configuration;
using Peft.Adapters.Slots;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Glora;

/// <summary>GLoRA (Chavan et al. 2023): the weight and the bias are scaled and shifted, each by parameters of a chosen shape. Defaults are PEFT's.</summary>
[ConfigWithout("exclude_modules", "layers_to_transform", "layers_pattern")]
public sealed record GloraConfig : LayerwiseConfig
{
    /// <inheritdoc/>
    public override string PeftType => "GLORA";

    /// <summary>Rank of low-rank parameters.</summary>
    [ConfigField("r", Minimum = 1, ErrorId = "RankInvalid")]
    public int Rank { get; init; } = 8;

    /// <summary>What scales and shifts the weight: a low-rank matrix (<c>lora</c>), a number for each output (<c>vector</c>), one number (<c>constant</c>) or nothing.</summary>
    [ConfigField("config_A_B", Parameter = "WeightPath", Choices = ["lora", "vector", "constant", "none"])]
    public string WeightPath { get; init; } = "lora";

    /// <summary>What the weight adds to the bias of a layer that has one: a low-rank vector, a vector or nothing.</summary>
    [ConfigField("config_C", Parameter = "InputPath", Choices = ["lora", "vector", "none"])]
    public string InputPath { get; init; } = "lora";

    /// <summary>What scales and shifts the bias of a layer that has one: a vector, one number or nothing.</summary>
    [ConfigField("config_D_E", Parameter = "BiasPath", Choices = ["vector", "constant", "none"])]
    public string BiasPath { get; init; } = "constant";

    /// <summary>Which biases of the base are trained: <c>none</c>, <c>all</c>, or <c>glora_only</c> for those of adapted layers.</summary>
    [ConfigField("bias", Choices = ["none", "all", "glora_only"], ErrorId = "BiasUnknown")]
    public override BiasTraining Bias { get; init; }

    /// <summary>Whether the change starts at zero; false starts it at random, for tests.</summary>
    [ConfigField("init_weights")]
    public bool StartAtZero { get; init; } = true;

    /// <inheritdoc/>
    public override LayerAdapter CreateLayer(IAdaptable layer, LayerwiseAdapter adapter, ICollection<string> messages) =>
        layer is Linear ? new GloraLayer(layer, this) : throw KindRefused(layer);
}

/// <summary>The parameters of one layer: W + W ∘ A + B, and b + b ∘ D + E + W C.</summary>
internal sealed class GloraLayer : LayerAdapter
{
    private readonly GloraPath _a;
    private readonly GloraPath _b;
    private readonly GloraPath _c;
    private readonly GloraPath _d;
    private readonly GloraPath _e;

    /// <summary>Makes the parameters, by shape alone.</summary>
    public GloraLayer(IAdaptable layer, GloraConfig config)
        : base(layer)
    {
        var isBiased = layer.Bias is not null;
        var (weight, input, bias) = (config.WeightPath, isBiased ? config.InputPath : "none", isBiased ? config.BiasPath : "none");
        _a = new GloraPath("glora_A", weight, [layer.Outputs, layer.Inputs], config);
        _b = new GloraPath("glora_B", weight, [layer.Outputs, layer.Inputs], config);
        _c = new GloraPath("glora_C", input, [layer.Inputs, 1], config);
        _d = new GloraPath("glora_D", bias, [layer.Outputs], config);
        _e = new GloraPath("glora_E", bias, [layer.Outputs], config);
        Parameters = [.. new[] { _a, _b, _c, _d, _e }.SelectMany(static path => path.Parameters)];
    }

    /// <inheritdoc/>
    public override bool RowSelectable => true;

    /// <inheritdoc/>
    public override IReadOnlyList<LayerParameter> Parameters { get; }

    /// <inheritdoc/>
    public override IEnumerable<Parameter> Reads(ForwardContext context) => Layer.Bias is { } bias ? base.Reads(context).Append(bias.Effective(context)) : base.Reads(context);

    /// <inheritdoc/>
    public override void Initialise(Generator generator)
    {
        foreach (var path in new[] { _a, _b, _c, _d, _e })
        {
            path.Initialise(generator, Layer.Device);
        }
    }

    /// <inheritdoc/>
    public override Tensor After(Tensor x, Tensor y, SlotCall call)
    {
        var bare = Layer.ToMatrix(BareWeight(call, y.dtype));
        var change = Layer.Apply(x, Layer.FromMatrix(WeightChange(bare)), BareBias(call, y.dtype) is { } bias ? BiasChange(bare, bias) : null);
        return y + (change * call.Weight);
    }

    /// <inheritdoc/>
    public override Affine Merge(Affine current, Affine bare)
    {
        var matrix = Layer.ToMatrix(bare.Weight);
        current.Weight.add_(Layer.FromMatrix(WeightChange(matrix)));
        if (bare.Bias is { } bias)
        {
            current.Bias!.add_(BiasChange(matrix, bias));
        }

        return current;
    }

    private Tensor WeightChange(Tensor bare) => (bare * _a.Value(bare.dtype)) + _b.Value(bare.dtype);

    private Tensor BiasChange(Tensor bare, Tensor bias) =>
        (bias * _d.Value(bias.dtype)) + _e.Value(bias.dtype) + bare.mm(_c.Value(bare.dtype)).squeeze(-1);
}

/// <summary>One parameter of GLoRA in the shape that was chosen for it.</summary>
internal sealed class GloraPath
{
    private readonly bool _startsAtZero;
    private readonly Parameter[] _parts;

    /// <summary>Makes it, by shape alone.</summary>
    /// <param name="key">Its name in the file.</param>
    /// <param name="kind"><c>lora</c>, <c>vector</c>, <c>constant</c> or <c>none</c>.</param>
    /// <param name="shape">What it stands for.</param>
    /// <param name="config">The configuration.</param>
    public GloraPath(string key, string kind, long[] shape, GloraConfig config)
    {
        _startsAtZero = config.StartAtZero;
        _parts = kind switch
        {
            "lora" => [new Parameter("Xd", [shape[0], config.Rank]), new Parameter("Xu", [config.Rank, shape[1]])],
            "vector" => [new Parameter("X", shape.Length == 1 ? shape : [shape[0], 1])],
            "constant" => [new Parameter("X", [1])],
            _ => [new Parameter("zeros", shape)],
        };
        var role = kind == "none" ? ParameterRole.Frozen : ParameterRole.Trained;
        Parameters = [.. _parts.Select(part => new LayerParameter($"{key}.{part.Name}", part, role))];
    }

    /// <summary>What it is made of, with keys.</summary>
    public IReadOnlyList<LayerParameter> Parameters { get; }

    /// <summary>The value, in a shape that spreads over what it stands for.</summary>
    public Tensor Value(ScalarType type) => (_parts.Length == 2 ? _parts[0].Data.mm(_parts[1].Data) : _parts[0].Data).to(type);

    /// <summary>Gives it its first values.</summary>
    public void Initialise(Generator generator, Device device)
    {
        foreach (var part in _parts)
        {
            var isZero = part.Name == "zeros" || (_startsAtZero && part.Name != "Xu");
            part.Assign(isZero ? RandomTensors.Zeros(part.Shape, device)
                : part.Count == 1 ? RandomTensors.Normal(part.Shape, 0.02, generator, device)
                : RandomTensors.Uniform(part.Shape, 1 / Math.Sqrt(part.Shape[^1]), generator, device));
        }
    }
}
