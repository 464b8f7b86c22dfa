using Peft.Adapters.Configuration;
using Peft.Adapters.Slots;
using Peft.Adapters.Targets;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Pvera;

/// <summary>PVeRA (Fillioux et al. 2025): VeRA whose inner values are drawn in training from a distribution that they parametrise. Defaults are PEFT's.</summary>
[ConfigWithout("exclude_modules")]
public sealed record PveraConfig : LayerwiseConfig
{
    /// <inheritdoc/>
    public override string PeftType => "PVERA";

    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, ModuleNames> DefaultTargetModules => DefaultTargets.LoraWith(("phi", ["q_proj", "v_proj"]), ("dinov2", ["query", "value"]));

    /// <summary>Rank of the projections. It costs little: only two vectors of this length are trained in each layer.</summary>
    [ConfigField("r", Minimum = 1, ErrorId = "RankInvalid")]
    public int Rank { get; init; } = 256;

    /// <summary>Seed of the projections.</summary>
    [ConfigField("projection_prng_key", Parameter = "ProjectionSeed", Minimum = 0)]
    public int ProjectionSeed { get; init; }

    /// <summary>Saves the projections with the adapter; without it they are drawn again from the seed when it is loaded.</summary>
    [ConfigField("save_projection")]
    public bool SaveProjection { get; init; } = true;

    /// <summary>Probability with which an input of the change is dropped in training.</summary>
    [ConfigField("pvera_dropout", Minimum = 0, Maximum = 1, IsReal = true, ErrorId = "DropoutInvalid")]
    public double Dropout { get; init; }

    /// <summary>Value with which the vectors along the rank start.</summary>
    [ConfigField("d_initial", IsReal = true)]
    public double InitialD { get; init; } = 0.1;

    /// <inheritdoc/>
    [ConfigField("fan_in_fan_out")]
    public override bool FanInFanOut { get; init; }

    /// <summary>Which biases of the base are trained: <c>none</c>, <c>all</c>, or <c>pvera_only</c> for those of adapted layers.</summary>
    [ConfigField("bias", Choices = ["none", "all", "pvera_only"], ErrorId = "BiasUnknown")]
    public override BiasTraining Bias { get; init; }

    /// <summary>Whether the change starts at zero; false starts it at random, for tests.</summary>
    [ConfigField("init_weights")]
    public bool StartAtZero { get; init; } = true;

    /// <summary>Draws inner values outside of training too, so that outputs differ from pass to pass; such an adapter is merged at their means.</summary>
    [ConfigField("sample_at_inference")]
    public bool SampleAtInference { get; init; }

    /// <summary>Seed with which values are drawn outside of training, the same in each pass; without it others each time.</summary>
    [ConfigField("generator_seed", Minimum = 0)]
    public int? GeneratorSeed { get; init; }

    /// <inheritdoc/>
    public override Adapter CreateAdapter(string name) => new PveraAdapter(name, this);

    /// <inheritdoc/>
    public override LayerAdapter CreateLayer(IAdaptable layer, LayerwiseAdapter adapter, ICollection<string> messages) =>
        layer is Linear ? new PveraLayer(layer, this, (PveraAdapter)adapter) : throw KindRefused(layer);
}

/// <summary>PVeRA on a model, with the projections that its layers share.</summary>
public sealed class PveraAdapter(string name, PveraConfig config) : ProjectionAdapter(name, config, (2 * config.Rank, config.Rank), config.ProjectionSeed, config.SaveProjection);

/// <summary>The vectors of one layer: y += b ∘ (B z), with z of mean m and logarithm of variance v, where [m, v] = d ∘ (A x).</summary>
internal sealed class PveraLayer : LayerAdapter
{
    private readonly PveraConfig _config;
    private readonly PveraAdapter _shared;
    private readonly Parameter _alongOutputs;
    private readonly Parameter _alongRank;

    /// <summary>Makes the vectors, by shape alone.</summary>
    public PveraLayer(IAdaptable layer, PveraConfig config, PveraAdapter shared)
        : base(layer)
    {
        _config = config;
        _shared = shared;
        _alongOutputs = new Parameter("pvera_lambda_b", [layer.Outputs]);
        _alongRank = new Parameter("pvera_lambda_d", [2 * config.Rank]);
        Parameters = [new("pvera_lambda_b", _alongOutputs), new("pvera_lambda_d", _alongRank)];
    }

    /// <inheritdoc/>
    public override IReadOnlyList<LayerParameter> Parameters { get; }

    /// <inheritdoc/>
    public override void Initialise(Generator generator)
    {
        _alongOutputs.Assign(full([Layer.Outputs], _config.StartAtZero ? 0.0 : 1.0, ScalarType.Float32, Layer.Device));
        _alongRank.Assign(_config.StartAtZero
            ? full([.. _alongRank.Shape], _config.InitialD, ScalarType.Float32, Layer.Device)
            : RandomTensors.Normal(_alongRank.Shape, 1, generator, Layer.Device));
    }

    /// <inheritdoc/>
    public override Tensor After(Tensor x, Tensor y, SlotCall call)
    {
        var input = call.Context.IsTraining && _config.Dropout > 0 ? x * RandomTensors.DropoutMask(x, _config.Dropout, call.Context.Generator) : x;
        var inner = Layer.Apply(input, Layer.FromMatrix(A(y.dtype)), null) * _alongRank.Data.to(y.dtype);
        var mean = inner.narrow(-1, 0, _config.Rank);
        if (call.Context.IsTraining || _config.SampleAtInference)
        {
            mean = mean + ((inner.narrow(-1, _config.Rank, _config.Rank) * 0.5).exp() * Drawn(mean, call.Context));
        }

        return y + (Layer.Project(mean, B(y.dtype)) * _alongOutputs.Data.to(y.dtype) * call.Weight);
    }

    /// <inheritdoc/>
    public override Affine Merge(Affine current, Affine bare)
    {
        var type = current.Weight.dtype;
        var means = A(type).narrow(0, 0, _config.Rank) * _alongRank.Data.narrow(0, 0, _config.Rank).to(type).unsqueeze(1);
        current.Weight.add_(Layer.FromMatrix((B(type) * _alongOutputs.Data.to(type).unsqueeze(1)).mm(means)));
        return current;
    }

    private Tensor Drawn(Tensor like, ForwardContext context)
    {
        using var seeded = !context.IsTraining && _config.GeneratorSeed is { } seed ? new Generator((ulong)seed) : null;
        return empty_like(like).normal_(0, 1, seeded ?? context.Generator);
    }

    private Tensor A(ScalarType type) => _shared.A.Data.narrow(1, 0, Layer.Inputs).to(type);

    private Tensor B(ScalarType type) => _shared.B.Data.narrow(0, 0, Layer.Outputs).to(type);
}
