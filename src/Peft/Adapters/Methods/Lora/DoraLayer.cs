using Peft.Adapters.Slots;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Lora;

/// <summary>
/// DoRA on a layer (Liu et al. 2024): the weight with LoRA's change keeps its direction and takes a trained length, output by output.
/// Gradients don't pass through the length that is divided by, as in the paper's section 4.3.
/// </summary>
internal sealed class DoraLayer : LoraLayer
{
    private readonly Parameter _magnitude;

    /// <summary>Makes the parameters, by shape alone.</summary>
    public DoraLayer(IAdaptable layer, LoraConfig config)
        : base(layer, config)
    {
        _magnitude = new Parameter("lora_magnitude_vector", layer.OutputShape);
        Parameters = [.. base.Parameters, new("lora_magnitude_vector", _magnitude)];
    }

    /// <inheritdoc/>
    public override bool RowSelectable => false;

    /// <inheritdoc/>
    public override IReadOnlyList<LayerParameter> Parameters { get; }

    /// <inheritdoc/>
    public override IEnumerable<Parameter> Reads(ForwardContext context) => Layer.Bias is { } bias ? base.Reads(context).Append(bias.Effective(context)) : base.Reads(context);

    /// <inheritdoc/>
    public override void Initialise(Generator generator)
    {
        base.Initialise(generator);
        var weight = Layer.Weight.Unpacked(Layer.Weight.DataType);
        _magnitude.Assign(Lengths(BaseEdit?.Invoke(weight) ?? weight).view([.. _magnitude.Shape]));
    }

    /// <summary>A change of the whole output is no product of two factors alone.</summary>
    public override LowRank? LowRank(float weight) => null;

    /// <summary>At full strength a linear layer scales its outputs itself; what dropout leaves out is missing in its own product too, which it can't.</summary>
    public override LowRank? Fused(float weight) => Layer is Linear && weight == 1f && base.LowRank(1) is { Dropout: 0 } change ? change with { Magnitude = _magnitude } : null;

    /// <inheritdoc/>
    public override Tensor After(Tensor x, Tensor y, SlotCall call)
    {
        var type = y.dtype;
        var input = Dropped(x, call, out var isDropped);
        var bias = BareBias(call, type);

        // What is dropped is missing in the layer's own product too.
        var own = isDropped ? BaseProduct(input, call, type).view_as(y) : bias is null ? y : y - Layer.AlongOutputs(bias);
        var factor = _magnitude.Data / Layer.AlongOutputs(Lengths(BareWeight(call, ScalarType.Float32)));
        return y + ((((factor - 1).to(type) * own) + (factor.to(type) * Change(input, y))) * call.Weight);
    }

    /// <inheritdoc/>
    public override Affine Merge(Affine current, Affine bare)
    {
        var type = current.Weight.dtype;
        var factor = _magnitude.Data.flatten().to(type) / Lengths(bare.Weight).to(type);
        var weight = Layer.FromMatrix((Layer.ToMatrix(current.Weight) + Matrix(type)) * factor.unsqueeze(1));
        return new Affine(weight, current.Bias is null ? null : current.Bias + ((factor - 1) * (current.Bias - bare.Bias!)));
    }

    /// <summary>Length of the weights of each output with LoRA's change, [out], a constant for autograd.</summary>
    private Tensor Lengths(Tensor weight)
    {
        using var noGradients = no_grad();
        return (Layer.ToMatrix(weight).to(ScalarType.Float32) + Matrix(ScalarType.Float32)).square().sum(1).sqrt();
    }
}
