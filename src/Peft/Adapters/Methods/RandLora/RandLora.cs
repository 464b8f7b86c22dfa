using Peft.Adapters.Configuration;
using Peft.Adapters.Slots;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.RandLora;

/// <summary>
/// RandLoRA (Albert et al. 2025): a change of full rank, the sum of many random low-rank ones that all layers share and whose weights alone are trained.
/// Defaults are PEFT's.
/// </summary>
[ConfigWithout("exclude_modules")]
public sealed record RandLoraConfig : LayerwiseConfig
{
    /// <inheritdoc/>
    public override string PeftType => "RANDLORA";

    /// <summary>Rank of one random matrix. A lower one takes more of them, so that more is trained.</summary>
    [ConfigField("r", Minimum = 1, ErrorId = "RankInvalid")]
    public int Rank { get; init; } = 32;

    /// <summary>Strength of the change: it is multiplied by alpha / rank.</summary>
    [ConfigField("randlora_alpha")]
    public double Alpha { get; init; } = 640;

    /// <summary>Seed of the random matrices.</summary>
    [ConfigField("projection_prng_key", Parameter = "ProjectionSeed", Minimum = 0)]
    public int ProjectionSeed { get; init; }

    /// <summary>Saves the random matrices with the adapter; without it they are drawn again from the seed when it is loaded, as the peer does on machines that compute in bfloat16.</summary>
    [ConfigField("save_projection")]
    public bool SaveProjection { get; init; } = true;

    /// <summary>Random matrices of -1, 0 and 1 alone, two thirds of them 0.</summary>
    [ConfigField("sparse", Parameter = "Sparse")]
    public bool IsSparse { get; init; }

    /// <summary>The same with far more zeros: all but 1 / √(the smaller side of the layers).</summary>
    [ConfigField("very_sparse", Parameter = "VerySparse")]
    public bool IsVerySparse { get; init; }

    /// <summary>Probability with which an input of the change is dropped in training.</summary>
    [ConfigField("randlora_dropout", Minimum = 0, Maximum = 1, IsReal = true, ErrorId = "DropoutInvalid")]
    public double Dropout { get; init; }

    /// <inheritdoc/>
    [ConfigField("fan_in_fan_out")]
    public override bool FanInFanOut { get; init; }

    /// <summary>Which biases of the base are trained: <c>none</c>, <c>all</c>, or <c>randlora_only</c> for those of adapted layers.</summary>
    [ConfigField("bias", Choices = ["none", "all", "randlora_only"], ErrorId = "BiasUnknown")]
    public override BiasTraining Bias { get; init; }

    /// <summary>Whether the change starts at zero; false starts it at random, for tests.</summary>
    [ConfigField("init_weights")]
    public bool StartAtZero { get; init; } = true;

    /// <inheritdoc/>
    public override Adapter CreateAdapter(string name) => new RandLoraAdapter(name, this);

    /// <inheritdoc/>
    public override LayerAdapter CreateLayer(IAdaptable layer, LayerwiseAdapter adapter, ICollection<string> messages) =>
        layer is Linear ? new RandLoraLayer(layer, this, (RandLoraAdapter)adapter) : throw KindRefused(layer);
}

/// <summary>RandLoRA on a model, with the random matrices that its layers share.</summary>
public sealed class RandLoraAdapter(string name, RandLoraConfig config) : LayerwiseAdapter(name, config)
{
    private readonly RandLoraConfig _config = config;

    /// <summary>[rank, 1, the smaller of largest input and largest output]; a layer reads its first columns.</summary>
    internal Parameter A { get; private set; } = null!;

    /// <summary>[the larger of them, matrices, rank]; a layer reads its first rows and matrices.</summary>
    internal Parameter B { get; private set; } = null!;

    /// <summary>PEFT writes the matrices once for each layer, and once by themselves; a file may have any of them.</summary>
    /// <inheritdoc/>
    public override IReadOnlyList<AdapterParameter> Parameters()
    {
        var role = _config.SaveProjection ? ParameterRole.Frozen : ParameterRole.Derived;
        return
        [
            .. base.Parameters(),
            .. Layers.SelectMany(layer => new[]
            {
                new AdapterParameter(KeyOf(layer.Path, "randlora_A"), A, role),
                new AdapterParameter(KeyOf(layer.Path, "randlora_B"), B, role),
            }),
        ];
    }

    /// <inheritdoc/>
    public override void Initialise(Generator generator, Predicate<Parameter> needed)
    {
        ArgumentNullException.ThrowIfNull(needed);
        if (needed(A) || needed(B))
        {
            using var scope = NewDisposeScope();
            using var seeded = new Generator((ulong)_config.ProjectionSeed);
            var (a, b) = _config is { IsSparse: false, IsVerySparse: false } ? Dense(seeded) : Sparse(seeded);
            A.Assign(a.to(Device).MoveToOuterDisposeScope());
            B.Assign(b.to(Device).MoveToOuterDisposeScope());
        }

        base.Initialise(generator, needed);
    }

    /// <inheritdoc/>
    protected override void DeclareShared(IReadOnlyList<IAdaptable> targets)
    {
        var (inputs, outputs) = (targets.Max(static layer => layer.Inputs), targets.Max(static layer => layer.Outputs));
        var (smaller, larger) = (Math.Min(inputs, outputs), Math.Max(inputs, outputs));
        A = new Parameter("randlora_A", [_config.Rank, 1, smaller]);
        B = new Parameter("randlora_B", [larger, RandLoraLayer.Matrices(smaller, _config.Rank), _config.Rank]);
        var role = _config.SaveProjection ? ParameterRole.Frozen : ParameterRole.Derived;
        Shared.Add(new AdapterParameter("base_model.randlora_A", A, role));
        Shared.Add(new AdapterParameter("base_model.randlora_B", B, role));
    }

    /// <summary>Uniform numbers, drawn and divided by their deviation in bfloat16, as the peer does.</summary>
    private (Tensor A, Tensor B) Dense(Generator seeded)
    {
        var a = Uniform(A.Shape, A.Shape[2], seeded);
        var b = cat([.. Enumerable.Range(0, (int)B.Shape[1]).Select(_ => Uniform([B.Shape[0], 1, B.Shape[2]], B.Shape[2], seeded))], 1);
        return ((a / a.std()).to(ScalarType.Float32), (b / b.std()).to(ScalarType.Float32));
    }

    /// <summary>What PyTorch draws in bfloat16: numbers of 24 random bits, rounded; what rounds to the upper bound becomes the lower one.</summary>
    private static Tensor Uniform(IReadOnlyList<long> shape, long fan, Generator seeded)
    {
        var bound = 1 / Math.Sqrt(fan);
        var drawn = empty([.. shape]).uniform_(-bound, bound, seeded).to(ScalarType.BFloat16);
        var limit = full([1], bound, ScalarType.BFloat16);
        return where(drawn.ge(limit), -limit, drawn);
    }

    private (Tensor A, Tensor B) Sparse(Generator seeded)
    {
        var half = 1 / (2 * (_config.IsVerySparse ? Math.Sqrt(A.Shape[2]) : 3));
        return (Signs(A.Shape), Signs(B.Shape));

        Tensor Signs(IReadOnlyList<long> shape)
        {
            var drawn = rand([.. shape], generator: seeded);
            var signs = drawn.gt(1 - half).to(ScalarType.Float32) - drawn.lt(half).to(ScalarType.Float32);
            return signs / signs.std();
        }
    }
}

/// <summary>The weights of one layer's random matrices.</summary>
internal sealed class RandLoraLayer : FactorLayer
{
    private readonly RandLoraConfig _config;
    private readonly RandLoraAdapter _shared;
    private readonly long _matrices;
    private readonly Parameter _alongRank;
    private readonly Parameter _alongSide;

    /// <summary>Makes the weights, by shape alone: [rank, matrices] and [matrices, the smaller side].</summary>
    public RandLoraLayer(IAdaptable layer, RandLoraConfig config, RandLoraAdapter shared)
        : base(layer, config.Alpha / config.Rank, config.Dropout)
    {
        _config = config;
        _shared = shared;
        var smaller = Math.Min(layer.Inputs, layer.Outputs);
        _matrices = Matrices(smaller, config.Rank);
        _alongRank = new Parameter("randlora_lambda", [config.Rank, _matrices]);
        _alongSide = new Parameter("randlora_gamma", [_matrices, smaller]);
        Parameters = [new("randlora_lambda", _alongRank), new("randlora_gamma", _alongSide)];
    }

    /// <inheritdoc/>
    public override IReadOnlyList<LayerParameter> Parameters { get; }

    /// <summary>How many matrices of a rank make a full one.</summary>
    public static long Matrices(long smaller, long rank) => (smaller + rank - 1) / rank;

    /// <inheritdoc/>
    public override void Initialise(Generator generator)
    {
        var device = Layer.Device;
        _alongRank.Assign(_config.StartAtZero ? RandomTensors.Zeros(_alongRank.Shape, device) : RandomTensors.Normal(_alongRank.Shape, 1, generator, device));
        _alongSide.Assign(full([.. _alongSide.Shape], 1.0 / (_config.StartAtZero ? _alongSide.Shape.Max() : Math.Max(Layer.Inputs, Layer.Outputs)), ScalarType.Float32, device));
    }

    /// <inheritdoc/>
    protected override (Tensor A, Tensor B) Factors(ScalarType type)
    {
        var (smaller, larger) = (_alongSide.Shape[1], Math.Max(Layer.Inputs, Layer.Outputs));
        var wide = _shared.B.Data.narrow(0, 0, larger).narrow(1, 0, _matrices).flatten(1).to(type);
        var thin = (_alongRank.Data.unsqueeze(2) * _shared.A.Data.narrow(2, 0, smaller) * _alongSide.Data.unsqueeze(0)).flatten(0, 1).to(type);
        return smaller == Layer.Inputs ? (thin, wide) : (wide.t(), thin.t());
    }
}
