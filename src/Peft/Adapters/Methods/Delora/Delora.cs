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

    private readonly DeloraConfig config;
    private readonly int rank;
    private readonly Parameter a;
    private readonly Parameter b;
    private readonly Parameter lambda;
    private readonly Parameter lengths;

    /// <summary>Makes the factors, by shape alone.</summary>
    public DeloraLayer(IAdaptable layer, DeloraConfig config)
        : base(layer)
    {
        this.config = config;
        rank = TargetMatcher.Lookup(config.RankPattern, layer.Path, config.Rank);
        a = new Parameter("delora_A", [rank, layer.Inputs]);
        b = new Parameter("delora_B", [layer.Outputs, rank]);
        lambda = new Parameter("delora_lambda", [1]);
        lengths = new Parameter("delora_w_norm", [layer.Inputs]);
        Parameters = [new("delora_A", a), new("delora_B", b), new("delora_lambda", lambda), new("delora_w_norm", lengths, ParameterRole.Frozen)];
    }

    /// <inheritdoc/>
    public override IReadOnlyList<LayerParameter> Parameters { get; }

    /// <inheritdoc/>
    public override void Initialise(Generator generator)
    {
        a.Assign(RandomTensors.Uniform(a.Shape, 1 / Math.Sqrt(Layer.Inputs), generator, Layer.Device));
        b.Assign(config.StartAtZero ? RandomTensors.Zeros(b.Shape, Layer.Device) : RandomTensors.Uniform(b.Shape, 1 / Math.Sqrt(rank), generator, Layer.Device));
        lambda.Assign(full([1], TargetMatcher.Lookup(config.LambdaPattern, Layer.Path, config.Lambda), ScalarType.Float32, Layer.Device));
        lengths.Assign(Layer.ToMatrix(Layer.Weight.Data).to(ScalarType.Float32).square().sum(dim: 0).sqrt());
    }

    /// <inheritdoc/>
    public override Tensor After(Tensor x, Tensor y, SlotCall call) => base.After(
        call.Context.IsTraining && config.Dropout > 0 ? x * RandomTensors.DropoutMask(x, config.Dropout, call.Context.Generator) : x, y, call);

    /// <inheritdoc/>
    protected override Tensor Change(ScalarType type, Func<Tensor> bare)
    {
        var scale = lambda.Data / rank / (Length(a.Data, 1) * Length(b.Data, 0));
        return (b.Data * scale).mm(a.Data * lengths.Data).to(type);
    }

    /// <summary>Lengths along a dimension; where a factor is zero, so is its gradient.</summary>
    private static Tensor Length(Tensor factor, long dimension) => factor.norm((int)dimension).clamp_min(LeastLength);
}
