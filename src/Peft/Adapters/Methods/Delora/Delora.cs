using Peft.Adapters.Configuration;
using Peft.Adapters.Slots;
using Peft.Adapters.Targets;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Delora;

/// <summary>
/// DeLoRA (Bini et al. 2025): a low-rank change whose ranks all have one trained length, so that training can't carry the weight further than a bound.
/// Defaults are PEFT's.
/// </summary>
public sealed record DeloraConfig : LayerwiseConfig
{
    /// <inheritdoc/>
    public override string PeftType => "DELORA";

    /// <summary>Rank of the change.</summary>
    [ConfigField("r", Minimum = 1, ErrorId = "RankInvalid")]
    public int Rank { get; init; } = 8;

    /// <summary>Length with which the change starts, and around which it is trained.</summary>
    [ConfigField("delora_lambda")]
    public double Lambda { get; init; } = 15;

    /// <summary>Probability with which an input of the change is dropped in training.</summary>
    [ConfigField("module_dropout", IsReal = true, Minimum = 0, Maximum = 1, ErrorId = "DropoutInvalid")]
    public double Dropout { get; init; }

    /// <summary>Which biases of the base are trained: <c>none</c>, <c>all</c>, or <c>delora_only</c> for those of adapted layers.</summary>
    [ConfigField("bias", Choices = ["none", "all", "delora_only"], ErrorId = "BiasUnknown")]
    public override BiasTraining Bias { get; init; }

    /// <summary>Other ranks for some modules: a table of name, path ending or regular expression of whole name parts to rank; the first that matches counts.</summary>
    [ConfigField("rank_pattern", Minimum = 1, ErrorId = "RankInvalid")]
    public IReadOnlyDictionary<string, int> RankPattern { get; init; } = new Dictionary<string, int>();

    /// <summary>Other lengths for some modules: a table of name, path ending or regular expression of whole name parts to length; the first that matches counts.</summary>
    [ConfigField("lambda_pattern")]
    public IReadOnlyDictionary<string, double> LambdaPattern { get; init; } = new Dictionary<string, double>();

    /// <summary>Whether the change starts at zero; false starts it at random, for tests.</summary>
    [ConfigField("init_weights")]
    public bool StartAtZero { get; init; } = true;

    /// <inheritdoc/>
    public override LayerAdapter CreateLayer(IAdaptable layer, LayerwiseAdapter adapter, ICollection<string> messages) =>
        layer is Linear ? new DeloraLayer(layer, this) : throw KindRefused(layer);
}

/// <summary>The factors of one layer: change = B · diag(λ / (rank ‖A_i‖ ‖B_i‖)) · A · diag(‖w_j‖), with w_j the columns of the weight at the start.</summary>
internal sealed class DeloraLayer : MatrixLayer
{
    /// <summary>No rank is divided by less.</summary>
    private const double LeastLength = 1e-4;

    private readonly DeloraConfig _config;
    private readonly int _rank;
    private readonly Parameter _a;
    private readonly Parameter _b;
    private readonly Parameter _lambda;
    private readonly Parameter _lengths;

    /// <summary>Makes the factors, by shape alone.</summary>
    public DeloraLayer(IAdaptable layer, DeloraConfig config)
        : base(layer)
    {
        _config = config;
        _rank = TargetMatcher.Lookup(config.RankPattern, layer.Path, config.Rank);
        _a = new Parameter("delora_A", [_rank, layer.Inputs]);
        _b = new Parameter("delora_B", [layer.Outputs, _rank]);
        _lambda = new Parameter("delora_lambda", [1]);
        _lengths = new Parameter("delora_w_norm", [layer.Inputs]);
        Parameters = [new("delora_A", _a), new("delora_B", _b), new("delora_lambda", _lambda), new("delora_w_norm", _lengths, ParameterRole.Frozen)];
    }

    /// <inheritdoc/>
    public override IReadOnlyList<LayerParameter> Parameters { get; }

    /// <inheritdoc/>
    public override void Initialise(Generator generator)
    {
        _a.Assign(RandomTensors.Uniform(_a.Shape, 1 / Math.Sqrt(Layer.Inputs), generator, Layer.Device));
        _b.Assign(_config.StartAtZero ? RandomTensors.Zeros(_b.Shape, Layer.Device) : RandomTensors.Uniform(_b.Shape, 1 / Math.Sqrt(_rank), generator, Layer.Device));
        _lambda.Assign(full([1], TargetMatcher.Lookup(_config.LambdaPattern, Layer.Path, _config.Lambda), ScalarType.Float32, Layer.Device));
        _lengths.Assign(Layer.ToMatrix(Layer.Weight.Unpacked(ScalarType.Float32)).square().sum(dim: 0).sqrt());
    }

    /// <inheritdoc/>
    public override bool ActsInWeight(ForwardContext context) => !context.IsTraining || _config.Dropout == 0;

    /// <inheritdoc/>
    public override Tensor After(Tensor x, Tensor y, SlotCall call) => base.After(
        call.Context.IsTraining && _config.Dropout > 0 ? x * RandomTensors.DropoutMask(x, _config.Dropout, call.Context.Generator) : x, y, call);

    /// <inheritdoc/>
    protected override Tensor Change(ScalarType type, Func<Tensor> bare)
    {
        var scale = _lambda.Data / _rank / (Length(_a.Data, 1) * Length(_b.Data, 0));
        return (_b.Data * scale).mm(_a.Data * _lengths.Data).to(type);
    }

    /// <summary>Lengths along a dimension; where a factor is zero, so is its gradient.</summary>
    private static Tensor Length(Tensor factor, long dimension) => factor.norm((int)dimension).clamp_min(LeastLength);
}
