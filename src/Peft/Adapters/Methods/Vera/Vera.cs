using Peft.Adapters.Configuration;
using Peft.Adapters.Slots;
using Peft.Adapters.Targets;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Vera;

/// <summary>
/// VeRA (Kopiczko et al. 2024): all layers share two random projections that stay as they are; each trains a vector along the rank and one along its outputs.
/// Defaults are PEFT's.
/// </summary>
[ConfigWithout("exclude_modules")]
public sealed record VeraConfig : LayerwiseConfig
{
    /// <inheritdoc/>
    public override string PeftType => "VERA";

    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, ModuleNames> DefaultTargetModules => DefaultTargets.LoraWith(("phi", ["q_proj", "v_proj"]));

    /// <summary>Rank of the projections. It costs little: only a vector of this length is trained in each layer.</summary>
    [ConfigField("r", Minimum = 1, ErrorId = "RankInvalid")]
    public int Rank { get; init; } = 256;

    /// <summary>Seed of the projections.</summary>
    [ConfigField("projection_prng_key", Parameter = "ProjectionSeed", Minimum = 0)]
    public int ProjectionSeed { get; init; }

    /// <summary>Saves the projections with the adapter; without it they are drawn again from the seed when it is loaded.</summary>
    [ConfigField("save_projection")]
    public bool SaveProjection { get; init; } = true;

    /// <summary>Probability with which an input of the change is dropped in training.</summary>
    [ConfigField("vera_dropout", Minimum = 0, Maximum = 1, IsReal = true, ErrorId = "DropoutInvalid")]
    public double Dropout { get; init; }

    /// <summary>Value with which the vector along the rank starts.</summary>
    [ConfigField("d_initial", IsReal = true)]
    public double InitialD { get; init; } = 0.1;

    /// <inheritdoc/>
    [ConfigField("fan_in_fan_out")]
    public override bool FanInFanOut { get; init; }

    /// <summary>Which biases of the base are trained: <c>none</c>, <c>all</c>, or <c>vera_only</c> for those of adapted layers.</summary>
    [ConfigField("bias", Choices = ["none", "all", "vera_only"], ErrorId = "BiasUnknown")]
    public override BiasTraining Bias { get; init; }

    /// <summary>Whether the change starts at zero; false starts it at random, for tests.</summary>
    [ConfigField("init_weights")]
    public bool StartAtZero { get; init; } = true;

    /// <inheritdoc/>
    public override Adapter CreateAdapter(string name) => new VeraAdapter(name, this);

    /// <inheritdoc/>
    public override LayerAdapter CreateLayer(IAdaptable layer, LayerwiseAdapter adapter, ICollection<string> messages) =>
        layer is Linear ? new VeraLayer(layer, this, (VeraAdapter)adapter) : throw KindRefused(layer);
}

/// <summary>VeRA on a model, with the projections that its layers share.</summary>
public sealed class VeraAdapter(string name, VeraConfig config) : ProjectionAdapter(name, config, (config.Rank, config.Rank), config.ProjectionSeed, config.SaveProjection);

/// <summary>The vectors of one layer: y += b ∘ (B (d ∘ (A x))).</summary>
internal sealed class VeraLayer : LayerAdapter
{
    private readonly VeraConfig _config;
    private readonly VeraAdapter _shared;
    private readonly Parameter _alongOutputs;
    private readonly Parameter _alongRank;

    /// <summary>Makes the vectors, by shape alone.</summary>
    public VeraLayer(IAdaptable layer, VeraConfig config, VeraAdapter shared)
        : base(layer)
    {
        _config = config;
        _shared = shared;
        _alongOutputs = new Parameter("vera_lambda_b", [layer.Outputs]);
        _alongRank = new Parameter("vera_lambda_d", [config.Rank]);
        Parameters = [new("vera_lambda_b", _alongOutputs), new("vera_lambda_d", _alongRank)];
    }

    /// <inheritdoc/>
    public override IReadOnlyList<LayerParameter> Parameters { get; }

    /// <inheritdoc/>
    public override void Initialise(Generator generator)
    {
        _alongOutputs.Assign(full([Layer.Outputs], _config.StartAtZero ? 0.0 : 1.0, device: Layer.Device));
        _alongRank.Assign(_config.StartAtZero ? full([_config.Rank], _config.InitialD, device: Layer.Device) : RandomTensors.Normal(_alongRank.Shape, 1, generator, Layer.Device));
    }

    /// <inheritdoc/>
    public override Tensor After(Tensor x, Tensor y, SlotCall call)
    {
        var input = call.Context.IsTraining && _config.Dropout > 0 ? x * RandomTensors.DropoutMask(x, _config.Dropout, call.Context.Generator) : x;
        var inner = Layer.Apply(input, Layer.FromMatrix(A(y.dtype)), null) * _alongRank.Data.to(y.dtype);
        return y + (Layer.Project(inner, B(y.dtype)) * _alongOutputs.Data.to(y.dtype) * call.Weight);
    }

    /// <inheritdoc/>
    public override Affine Merge(Affine current, Affine bare)
    {
        var type = current.Weight.dtype;
        var change = (B(type) * _alongOutputs.Data.to(type).unsqueeze(1)).mm(A(type) * _alongRank.Data.to(type).unsqueeze(1));
        current.Weight.add_(Layer.FromMatrix(change));
        return current;
    }

    private Tensor A(ScalarType type) => _shared.A.Data.narrow(1, 0, Layer.Inputs).to(type);

    private Tensor B(ScalarType type) => _shared.B.Data.narrow(0, 0, Layer.Outputs).to(type);
}
