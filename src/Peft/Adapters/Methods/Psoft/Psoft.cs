using Peft.Adapters.Configuration;
using Peft.Adapters.Slots;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Psoft;

/// <summary>PSOFT (2025): what the weight does along its leading singular vectors is turned, and each of them stretched. Defaults are PEFT's.</summary>
public sealed record PsoftConfig : LayerwiseConfig
{
    /// <inheritdoc/>
    public override string PeftType => "PSOFT";

    internal override bool ComputesSingularVectors => true;

    /// <summary>Singular vectors of each layer, at most the smaller of its inputs and outputs.</summary>
    [ConfigField("r", Minimum = 1, ErrorId = "RankInvalid")]
    public int Rank { get; init; } = 32;

    /// <summary>Takes part in the numbers as LoRA's does and cancels out.</summary>
    [ConfigField("psoft_alpha")]
    public double Alpha { get; init; } = 32;

    /// <summary>Probability with which an input of the change is dropped in training.</summary>
    [ConfigField("psoft_dropout", Minimum = 0, Maximum = 1, IsReal = true, ErrorId = "DropoutInvalid")]
    public double Dropout { get; init; }

    /// <inheritdoc/>
    [ConfigField("fan_in_fan_out")]
    public override bool FanInFanOut { get; init; }

    /// <summary>Where the singular values stand: <c>psoft_init</c> on the outputs' side, <c>pissa_init</c> half on each.</summary>
    [ConfigField("ab_svd_init", Parameter = "FactorInitialization", Choices = ["psoft_init", "pissa_init"], ErrorId = "InitialisationUnknown")]
    public string FactorInitialisation { get; init; } = "psoft_init";

    /// <summary>How singular vectors are computed: <c>full</c>, or <c>lowrank</c> by iteration from a random start, which is faster on large weights.</summary>
    [ConfigField("psoft_svd", Parameter = "Decomposition", Choices = ["full", "lowrank"])]
    public string Decomposition { get; init; } = "full";

    /// <summary>Iterations of <c>lowrank</c>.</summary>
    [ConfigField("psoft_svd_lowrank_niter", Parameter = "Iterations", Minimum = 0)]
    public int Iterations { get; init; } = 10;

    /// <summary>Seed of the random start of <c>lowrank</c>.</summary>
    [ConfigField("random_seed", Minimum = 0)]
    public int RandomSeed { get; init; }

    /// <summary>Whether the matrix between is a rotation; otherwise any matrix is trained.</summary>
    [ConfigField("psoft_orth", Parameter = "Orthogonal")]
    public bool IsOrthogonal { get; init; } = true;

    /// <summary>Trains a factor for each of its rows.</summary>
    [ConfigField("psoft_mag_b", Parameter = "StretchOutput")]
    public bool StretchesOutput { get; init; } = true;

    /// <summary>Trains a factor for each of its columns.</summary>
    [ConfigField("psoft_mag_a", Parameter = "StretchInput")]
    public bool StretchesInput { get; init; } = true;

    /// <summary>Forms the rotation by the first terms of a series, which is faster and only nearly orthogonal, instead of exactly.</summary>
    [ConfigField("use_cayley_neumann")]
    public bool UseCayleyNeumann { get; init; }

    /// <summary>Terms of that series.</summary>
    [ConfigField("num_cayley_neumann_terms", Parameter = "CayleyNeumannTerms", Minimum = 1)]
    public int CayleyNeumannTerms { get; init; } = 5;

    /// <summary>Length to which what the series is formed of is shortened, between 0 and 1; without it, it is not.</summary>
    [ConfigField("cayley_neumann_eps", Parameter = "CayleyNeumannEpsilon", IsReal = true)]
    public double? CayleyNeumannEpsilon { get; init; }

    /// <summary>Whether nothing turns at first; false starts at random, for tests.</summary>
    [ConfigField("init_weights")]
    public bool StartAtIdentity { get; init; } = true;

    /// <inheritdoc/>
    public override void Validate()
    {
        base.Validate();
        if (UseCayleyNeumann && CayleyNeumannEpsilon is { } epsilon && epsilon is not (> 0 and < 1))
        {
            throw Contradiction(FormattableString.Invariant($"cayley_neumann_eps ({epsilon}) has to be between 0 and 1."));
        }
    }

    /// <inheritdoc/>
    public override LayerAdapter CreateLayer(IAdaptable layer, LayerwiseAdapter adapter, ICollection<string> messages)
    {
        if (layer is not Linear)
        {
            throw KindRefused(layer);
        }

        return Rank <= Math.Min(layer.Inputs, layer.Outputs) ? new PsoftLayer(layer, this) : throw new PeftException(
            "RankInvalid", $"r is {Rank}, more than the smaller of the {layer.Inputs} inputs and {layer.Outputs} outputs of '{layer.Path}'.")
        {
            Target = layer.Path,
            RecommendedAction = "Give a lower rank.",
        };
    }
}

/// <summary>The matrix between the singular vectors of one layer: change = scale · B (R - I) A, with B A the leading part of the weight over the scale.</summary>
internal sealed class PsoftLayer : FactorLayer
{
    private readonly PsoftConfig _config;
    private readonly long _rank;
    private readonly Parameter _turn;
    private readonly Parameter? _rows;
    private readonly Parameter? _columns;
    private readonly Parameter _a;
    private readonly Parameter _b;

    /// <summary>Makes the parameters, by shape alone.</summary>
    public PsoftLayer(IAdaptable layer, PsoftConfig config)
        : base(layer, config.Alpha / config.Rank, config.Dropout)
    {
        _config = config;
        _rank = config.Rank;
        _turn = new Parameter("weight", config.IsOrthogonal ? [_rank * (_rank - 1) / 2] : [_rank, _rank]);
        _rows = config.StretchesOutput ? new Parameter("vector_b", [_rank]) : null;
        _columns = config.StretchesInput ? new Parameter("vector_a", [_rank]) : null;
        _a = new Parameter("A", [_rank, layer.Inputs]);
        _b = new Parameter("B", [layer.Outputs, _rank]);
        List<LayerParameter> parameters = [new("psoft_R.weight", _turn)];
        if (_rows is not null)
        {
            parameters.Add(new("psoft_R.vector_b", _rows));
        }

        if (_columns is not null)
        {
            parameters.Add(new("psoft_R.vector_a", _columns));
        }

        Parameters = [.. parameters, new("_psoft_A_cache", _a, ParameterRole.Derived), new("_psoft_B_cache", _b, ParameterRole.Derived)];
    }

    /// <inheritdoc/>
    public override IReadOnlyList<LayerParameter> Parameters { get; }

    /// <inheritdoc/>
    public override void Initialise(Generator generator)
    {
        using var scope = NewDisposeScope();
        var device = Layer.Device;
        var start = _config.IsOrthogonal ? RandomTensors.Zeros(_turn.Shape, device) : eye(_rank, device: device);
        _turn.Assign((_config.StartAtIdentity ? start : start + RandomTensors.Normal(_turn.Shape, 0.1, generator, device)).MoveToOuterDisposeScope());
        _rows?.Assign(ones([_rank], device: device).MoveToOuterDisposeScope());
        _columns?.Assign(ones([_rank], device: device).MoveToOuterDisposeScope());
        var (u, s, vh) = Decompose(Layer.ToMatrix(Layer.Weight.Unpacked(ScalarType.Float32)));
        var values = s.narrow(0, 0, _rank) * (_rank / _config.Alpha);
        var (left, right) = (u.narrow(1, 0, _rank), vh.narrow(0, 0, _rank));
        var isHalved = _config.FactorInitialisation == "pissa_init";
        _a.Assign((isHalved ? right * values.sqrt().unsqueeze(1) : right.contiguous()).MoveToOuterDisposeScope());
        _b.Assign((left * (isHalved ? values.sqrt() : values)).contiguous().MoveToOuterDisposeScope());
    }

    /// <inheritdoc/>
    protected override (Tensor A, Tensor B) Factors(ScalarType type)
    {
        var turn = Turn();
        turn = _rows is null ? turn : turn * _rows.Data.unsqueeze(1);
        turn = _columns is null ? turn : turn * _columns.Data;
        var rest = turn - eye(_rank, dtype: turn.dtype, device: turn.device);
        return (rest.mm(_a.Data).to(type), _b.Data.to(type));
    }

    private (Tensor U, Tensor S, Tensor Vh) Decompose(Tensor weight)
    {
        if (_config.Decomposition == "full")
        {
            // In float64: what is trained stands between the vectors, so that an error of theirs is one of the output. But with the signs of float32, as PEFT has
            // them, and on the processor: signs are the library's choice for that type, they aren't in the file, and a GPU's library chooses others.
            var bare = weight.cpu();
            var (u, s, vh) = linalg.svd(bare.to(ScalarType.Float64), fullMatrices: false);
            var signs = (u * linalg.svd(bare, fullMatrices: false).U).sum(dim: 0L).sign();
            return (Narrow(u * signs), Narrow(s), Narrow(vh * signs.unsqueeze(1)));
        }

        using var seeded = new Generator((ulong)_config.RandomSeed);
        return SingularVectors.Leading(weight, _rank, _config.Iterations, seeded);

        Tensor Narrow(Tensor values) => values.to(ScalarType.Float32).to(weight.device);
    }

    private Tensor Turn()
    {
        if (!_config.IsOrthogonal)
        {
            return _turn.Data;
        }

        var skew = BlockRotation.Skew(_turn.Data.unsqueeze(0), _rank);
        if (!_config.UseCayleyNeumann)
        {
            return BlockRotation.Cayley(-skew)[0];
        }

        if (_config.CayleyNeumannEpsilon is { } most && skew.norm().item<float>() > most)
        {
            skew = skew * (most / (skew.norm() + 1e-12));
        }

        return BlockRotation.Neumann(skew, _config.CayleyNeumannTerms)[0];
    }
}
