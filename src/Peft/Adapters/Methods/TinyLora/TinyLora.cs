using System.Globalization;
using Peft.Adapters.Configuration;
using Peft.Adapters.Slots;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.TinyLora;

/// <summary>
/// TinyLoRA: between the leading singular vectors of the weight sits a small matrix, a sum of fixed random ones; their weights alone are trained, and layers may
/// share them. Defaults are PEFT's.
/// </summary>
[ConfigWithout("exclude_modules")]
public sealed record TinyLoraConfig : LayerwiseConfig
{
    /// <inheritdoc/>
    public override string PeftType => "TINYLORA";

    /// <summary>Singular vectors of each layer, at most as many as it has.</summary>
    [ConfigField("r", Minimum = 1, ErrorId = "RankInvalid")]
    public int Rank { get; init; } = 2;

    /// <summary>Trained weights of a group of layers.</summary>
    [ConfigField("u", Parameter = "WeightCount", Minimum = 1, ErrorId = "RankInvalid")]
    public int WeightCount { get; init; } = 64;

    /// <summary>How far layers share their weights: 0 for each its own, 1 for one group of all.</summary>
    [ConfigField("weight_tying", IsReal = true, Minimum = 0, Maximum = 1)]
    public double WeightTying { get; init; }

    /// <summary>Seed of the random matrices; the n-th layer has the n-th seed after it.</summary>
    [ConfigField("projection_seed", Minimum = 0)]
    public int ProjectionSeed { get; init; } = 42;

    /// <summary>Saves the random matrices with the adapter; without it they are drawn again from the seed when it is loaded.</summary>
    [ConfigField("save_projection")]
    public bool SaveProjection { get; init; } = true;

    /// <summary>Bound of the uniform distribution with which weights start when they don't start at zero.</summary>
    [ConfigField("init_v_bound", Parameter = "InitialBound", IsReal = true)]
    public double InitialBound { get; init; } = 0.02;

    /// <summary>Probability with which an input of the change is dropped in training.</summary>
    [ConfigField("tinylora_dropout", Minimum = 0, Maximum = 1, IsReal = true, ErrorId = "DropoutInvalid")]
    public double Dropout { get; init; }

    /// <inheritdoc/>
    [ConfigField("fan_in_fan_out")]
    public override bool FanInFanOut { get; init; }

    /// <summary>Which biases of the base are trained: <c>none</c>, <c>all</c>, or <c>tinylora_only</c> for those of adapted layers.</summary>
    [ConfigField("bias", Choices = ["none", "all", "tinylora_only"], ErrorId = "BiasUnknown")]
    public override BiasTraining Bias { get; init; }

    /// <summary>How the weights start: <c>true</c> at zero, <c>uniform</c> or <c>false</c> at random.</summary>
    [ConfigField("init_weights", Parameter = "Initialization", Choices = ["true", "false", "uniform"], ErrorId = "InitialisationUnknown")]
    public string Initialisation { get; init; } = "true";

    /// <inheritdoc/>
    public override Adapter CreateAdapter(string name) => new TinyLoraAdapter(name, this);

    /// <inheritdoc/>
    public override LayerAdapter CreateLayer(IAdaptable layer, LayerwiseAdapter adapter, ICollection<string> messages)
    {
        var shared = (TinyLoraAdapter)adapter;
        return layer is Linear or Embedding
            ? new TinyLoraLayer(layer, this, shared.WeightsOf(adapter.Layers.Count), ProjectionSeed + adapter.Layers.Count)
            : throw KindRefused(layer);
    }
}

/// <summary>TinyLoRA on a model, with the weights of its groups of layers.</summary>
public sealed class TinyLoraAdapter(string name, TinyLoraConfig config) : LayerwiseAdapter(name, config)
{
    private readonly TinyLoraConfig _config = config;
    private Parameter[] _groups = [];
    private int _groupSize = 1;

    /// <summary>The trained weights [count] of a layer's group.</summary>
    internal Parameter WeightsOf(int layer) => _groups[Math.Min(layer / _groupSize, _groups.Length - 1)];

    /// <inheritdoc/>
    public override void Initialise(Generator generator, Predicate<Parameter> needed)
    {
        ArgumentNullException.ThrowIfNull(needed);
        foreach (var group in _groups.Where(group => needed(group)))
        {
            group.Assign(_config.Initialisation == "true"
                ? RandomTensors.Zeros(group.Shape, Device)
                : RandomTensors.Uniform(group.Shape, _config.InitialBound, generator, Device));
        }

        base.Initialise(generator, needed);
    }

    /// <inheritdoc/>
    protected override void DeclareShared(IReadOnlyList<IAdaptable> targets)
    {
        ArgumentNullException.ThrowIfNull(targets);
        var count = Math.Max(1, (int)Math.Round(targets.Count * (1 - _config.WeightTying)));
        _groupSize = Math.Max(1, targets.Count / count);
        var used = Math.Min(count, (targets.Count + _groupSize - 1) / _groupSize);
        _groups = [.. Enumerable.Range(0, used).Select(group => new Parameter(group.ToString(CultureInfo.InvariantCulture), [_config.WeightCount]))];
        foreach (var group in _groups)
        {
            // A parameter of several modules has the name of the first in PyTorch's lists.
            Shared.Add(new AdapterParameter(KeyOf(targets[0].Path, $"tinylora_v.{group.Name}"), group) { FileKey = $"base_model.tinylora_v.{group.Name}" });
        }
    }
}

/// <summary>The singular vectors and random matrices of one layer: change = B (Σ vᵢ Pᵢ) A, with B and A each times the roots of the singular values.</summary>
internal sealed class TinyLoraLayer : FactorLayer
{
    private readonly Parameter _weights;
    private readonly int _seed;
    private readonly Parameter _a;
    private readonly Parameter _b;
    private readonly Parameter _matrices;

    /// <summary>Makes the parameters, by shape alone: of the weight [rows, columns] A [rank, columns] and B [rows, rank], and [weights, rank, rank].</summary>
    public TinyLoraLayer(IAdaptable layer, TinyLoraConfig config, Parameter weights, int seed)
        : base(layer, 1, config.Dropout)
    {
        _weights = weights;
        _seed = seed;
        var (rows, columns) = layer is Embedding ? (layer.Inputs, layer.Outputs) : (layer.Outputs, layer.Inputs);
        var rank = Math.Min(config.Rank, Math.Min(rows, columns));
        _a = new Parameter("tinylora_A", [rank, columns]);
        _b = new Parameter("tinylora_B", [rows, rank]);
        _matrices = new Parameter("tinylora_P", [weights.Shape[0], rank, rank]);
        Parameters =
        [
            new("tinylora_A", _a, ParameterRole.Frozen), new("tinylora_B", _b, ParameterRole.Frozen),
            new("tinylora_P", _matrices, config.SaveProjection ? ParameterRole.Frozen : ParameterRole.Derived),
        ];
    }

    /// <inheritdoc/>
    public override IReadOnlyList<LayerParameter> Parameters { get; }

    /// <inheritdoc/>
    public override IEnumerable<Parameter> Reads(ForwardContext context) => [_weights];

    /// <inheritdoc/>
    public override void Initialise(Generator generator)
    {
        using var scope = NewDisposeScope();
        var matrix = Layer.ToMatrix(Layer.Weight.Unpacked(ScalarType.Float32));
        var (u, s, vh) = linalg.svd(Layer is Embedding ? matrix.t() : matrix, fullMatrices: false);
        var rank = _a.Shape[0];
        var roots = s.narrow(0, 0, rank).sqrt();
        _a.Assign((vh.narrow(0, 0, rank) * roots.unsqueeze(1)).MoveToOuterDisposeScope());
        _b.Assign((u.narrow(1, 0, rank) * roots).contiguous().MoveToOuterDisposeScope());
        using var seeded = new Generator((ulong)_seed);
        _matrices.Assign(RandomTensors.Normal(_matrices.Shape, 1 / Math.Sqrt(rank), seeded, Layer.Device).MoveToOuterDisposeScope());
    }

    /// <inheritdoc/>
    protected override (Tensor A, Tensor B) Factors(ScalarType type)
    {
        var rank = _a.Shape[0];
        var inner = _weights.Data.unsqueeze(0).mm(_matrices.Data.view(-1, rank * rank)).view(rank, rank);
        return Layer is Embedding
            ? (_b.Data.mm(inner).t().to(type), _a.Data.t().to(type))
            : (inner.mm(_a.Data).to(type), _b.Data.to(type));
    }
}
