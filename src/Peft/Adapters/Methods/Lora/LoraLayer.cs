using Peft.Adapters.Conversion;
using Peft.Adapters.Slots;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Lora;

/// <summary>LoRA on a layer: y += scale · B (A dropout(x)) (+ scale · bias of B), with A x the layer's own map with A for a weight.</summary>
internal class LoraLayer : LayerAdapter
{
    /// <summary>Key of A's start, where that was taken out of the base.</summary>
    internal const string FirstA = "lora_A.initial";

    private readonly LoraConfig _config;
    private readonly double _scale;
    private readonly LoraInitialisation _start;
    private readonly Parameter? _firstA;
    private readonly Parameter? _firstB;

    /// <summary>Makes the factors, by shape alone.</summary>
    /// <param name="layer">The layer.</param>
    /// <param name="config">The configuration.</param>
    /// <param name="blocksA">Blocks that the first factor holds one below the other.</param>
    /// <param name="blocksB">Blocks that the second one does.</param>
    public LoraLayer(IAdaptable layer, LoraConfig config, int blocksA = 1, int blocksB = 1)
        : base(layer)
    {
        _config = config;
        (var rank, _scale) = config.ForLayer(layer);
        A = new Parameter("weight", [layer.Experts * rank, layer.Inputs / blocksA, .. layer.Kernel]);
        B = new Parameter("weight", [layer.Outputs, rank * layer.Experts / layer.ChannelGroups / blocksB, .. layer.Kernel.Select(static _ => 1L)]);
        Bias = config.LoraBias ? new Parameter("bias", [layer.Outputs]) : null;
        _start = layer is Embedding ? LoraInitialisation.OfEmbedding(config.Initialisation) : LoraInitialisation.Of(config.Initialisation);
        List<LayerParameter> parameters = layer is Embedding ? [new("lora_embedding_A", A), new("lora_embedding_B", B)] : [new("lora_A.weight", A), new("lora_B.weight", B, _start.FreezesB ? ParameterRole.Frozen : ParameterRole.Trained)];
        if (Bias is not null)
        {
            parameters.Add(new("lora_B.bias", Bias));
        }

        if (_start.LeavesResidual)
        {
            (_firstA, _firstB) = (new Parameter("weight", A.Shape), new Parameter("weight", B.Shape));
            // What data decided can't be made again, so that it is saved.
            var role = _start.NeedsData ? ParameterRole.Frozen : ParameterRole.Derived;
            parameters.AddRange([new(FirstA, _firstA, role), new("lora_B.initial", _firstB, role)]);
        }

        Parameters = parameters;
    }

    /// <summary>[rank, in]; [rank, in, kernel] of a convolution, where it sees all inputs whatever the groups; of experts [experts · rank, in], one expert after another.</summary>
    public Parameter A { get; }

    /// <summary>[out, rank]; [out, rank / groups, 1, …] of a convolution; of experts [out, rank · experts], one rank after another.</summary>
    public Parameter B { get; }

    /// <summary>[out], or null.</summary>
    public Parameter? Bias { get; }

    /// <summary>Multiplies the change.</summary>
    protected double Scale => _scale;

    /// <inheritdoc/>
    public override double ChangeScale => _scale;

    /// <inheritdoc/>
    public override bool RowSelectable => true;

    /// <inheritdoc/>
    public override string? MergeObstacle => Bias is not null && Layer.Bias is null ? "lora_bias needs a layer with a bias to be merged into"
        : Layer.ChannelGroups > 1 ? "its change lets every output see all inputs, which the weight of a convolution with groups can't hold"
        : null;

    /// <inheritdoc/>
    public override IReadOnlyList<LayerParameter> Parameters { get; }

    /// <summary>A start by a decomposition of the weight leaves the rest of it in the base while the adapter is part of the model.</summary>
    public override Func<Tensor, Tensor>? BaseEdit => _start.Base is { } made
        ? weight => Layer.FromMatrix(made(_config.LoftqConfig, A.Shape[0], Layer.ToMatrix(weight).to(ScalarType.Float32))).to(weight.dtype)
        : _firstA is null ? null : weight =>
        (weight.to(ScalarType.Float32) - Layer.FromMatrix(_firstB!.Data.mm(_firstA.Data)).mul(_scale)).to(weight.dtype);

    /// <inheritdoc/>
    public override void Initialise(Generator generator)
    {
        var (a, b) = _start.Factors(new LoraStart(Layer, A.Shape, B.Shape, _scale, generator) { Loftq = _config.LoftqConfig, Data = _config.Start });
        A.Assign(a);
        B.Assign(b);
        Bias?.Assign(_config.Initialisation == LoraInitialisation.Random
            ? RandomTensors.Uniform(Bias.Shape, 1 / Math.Sqrt(B.Shape[1]), generator, Layer.Device)
            : RandomTensors.Zeros(Bias.Shape, Layer.Device));
        _firstA?.Assign(A.Data.clone());
        _firstB?.Assign(B.Data.clone());
    }

    /// <inheritdoc/>
    public override LowRank? LowRank(float weight) => new(A, B, Bias, _scale * weight, Layer is Embedding ? 0 : _config.Dropout);

    /// <summary>Beside the factors, the start that was taken out of the base, subtracted.</summary>
    internal override ChangeFactors? ExactFactors() => LowRank(1) is null || Bias is not null || _start.Base is not null ? null
        : _firstA is null ? new ChangeFactors(A.Data.flatten(1), B.Data.flatten(1), _scale)
        : new ChangeFactors(cat([A.Data, _firstA.Data], 0), cat([B.Data, _firstB!.Data.neg()], 1), _scale);

    /// <inheritdoc/>
    public override Tensor After(Tensor x, Tensor y, SlotCall call)
    {
        var input = Dropped(x, call, out _);
        var change = Change(input, y);
        return y + ((Bias is null ? change : change + (Layer.AlongOutputs(Bias.Data.to(y.dtype)) * _scale)) * call.Weight);
    }

    /// <inheritdoc/>
    public override Affine Merge(Affine current, Affine bare)
    {
        var type = current.Weight.dtype;
        current.Weight.add_(Layer.FromMatrix(Matrix(type)));
        if (Bias is not null)
        {
            current.Bias!.add_(Bias.Data.to(type), alpha: _scale);
        }

        return current;
    }

    /// <summary>What the change makes of an input, for a method that mixes several, of the shape and type of <paramref name="y"/>.</summary>
    internal Tensor Of(Tensor x, Tensor y, SlotCall call) => Change(Dropped(x, call, out _), y) * call.Weight;

    /// <summary>The input with dropout, where it acts.</summary>
    protected Tensor Dropped(Tensor x, SlotCall call, out bool isDropped)
    {
        var mask = DropoutMask(x, call);
        isDropped = mask is not null;
        return mask is null ? x : x * mask;
    }

    /// <summary>What multiplies an input where dropout acts; null where it doesn't.</summary>
    protected Tensor? DropoutMask(Tensor x, SlotCall call) =>
        call.Context.IsTraining && _config.Dropout > 0 && x.is_floating_point() ? RandomTensors.DropoutMask(x, _config.Dropout, call.Context.Generator) : null;

    /// <summary>The change of an output of <paramref name="y"/>'s shape and type, scaled, without the bias.</summary>
    protected Tensor Change(Tensor input, Tensor y)
    {
        var inner = Layer.Apply(input, Layer.FromMatrix(FactorA(y.dtype)), null);
        return Layer.Project(inner, FactorB(y.dtype)).view_as(y) * _scale;
    }

    /// <summary>The first factor as it acts, of A's shape but for blocks.</summary>
    protected virtual Tensor FactorA(ScalarType type) => A.Data.to(type);

    /// <summary>The second factor as it acts, of B's shape but for blocks.</summary>
    protected virtual Tensor FactorB(ScalarType type) => B.Data.to(type);

    /// <summary>
    /// The change of the weight as a matrix [out, columns], scaled. With groups there is none; what PEFT takes for it, and DoRA's lengths from, is
    /// the product as if the rows of the second factor stood one behind the other.
    /// </summary>
    protected virtual Tensor Matrix(ScalarType type) => FactorB(type).reshape(-1, A.Shape[0]).mm(FactorA(type).flatten(1)).mul_(_scale).reshape(Layer.Outputs, -1);
}
