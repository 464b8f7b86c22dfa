using Peft.Adapters.Slots;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Lycoris;

/// <summary>
/// DoRA around any method that changes a weight, as LyCORIS has it: the changed weight is rescaled to trained lengths, of each output's row or of each
/// input's column. The strength moves the rescaling alone, from none at 0; the change inside is whole at every strength.
/// </summary>
internal sealed class DecomposedWeight : MatrixLayer
{
    /// <summary>Added to lengths: float32's distance between 1 and the next number.</summary>
    private const double Epsilon = 1.1920928955078125e-07;

    private readonly LayerAdapter _inner;
    private readonly bool _isByOutput;
    private readonly Parameter _lengths;

    /// <summary>Wraps a layer.</summary>
    /// <param name="inner">What changes the weight.</param>
    /// <param name="isByOutput">Whether rows keep their lengths, and not columns.</param>
    public DecomposedWeight(LayerAdapter inner, bool isByOutput)
        : base(inner.Layer)
    {
        (_inner, _isByOutput) = (inner, isByOutput);
        long[] ones = [.. Layer.Kernel.Select(static _ => 1L)];
        _lengths = new Parameter("dora_scale", isByOutput ? [Layer.Outputs, 1, .. ones] : [1, Layer.Inputs / Layer.ChannelGroups, .. ones]);
        Parameters = [.. inner.Parameters, new("dora_scale", _lengths)];
    }

    /// <inheritdoc/>
    public override IReadOnlyList<LayerParameter> Parameters { get; }

    /// <inheritdoc/>
    public override void Initialise(Generator generator)
    {
        _inner.Initialise(generator);
        _lengths.Assign(Lengths(Layer.ToMatrix(Layer.Weight.Unpacked(ScalarType.Float32))).view([.. _lengths.Shape]));
    }

    /// <inheritdoc/>
    protected override Tensor Change(ScalarType type, Func<Tensor> bare) => ChangeAt(1, type, bare);

    /// <inheritdoc/>
    protected override Tensor ChangeAt(float strength, ScalarType type, Func<Tensor> bare)
    {
        var weight = bare().to(ScalarType.Float32);
        var own = Layer.FromMatrix(weight);
        var changed = Layer.ToMatrix(_inner.Merge(new Affine(own.clone(), null), new Affine(own, null)).Weight);
        var factors = _lengths.Data.flatten() / (Lengths(changed) + Epsilon);
        return (Scaled(changed, strength == 1f ? factors : ((factors - 1) * strength) + 1) - weight).to(type);
    }

    private Tensor Lengths(Tensor matrix) => _isByOutput ? matrix.square().sum(1).sqrt() : ByInput(matrix).square().sum([0, 2]).sqrt();

    private Tensor Scaled(Tensor matrix, Tensor factors) => _isByOutput
        ? matrix * factors.unsqueeze(1)
        : (ByInput(matrix) * factors.unsqueeze(1)).reshape(matrix.shape);

    /// <summary>[out, in, kernel].</summary>
    private Tensor ByInput(Tensor matrix) => matrix.reshape(Layer.Outputs, Layer.Inputs / Layer.ChannelGroups, -1);
}
