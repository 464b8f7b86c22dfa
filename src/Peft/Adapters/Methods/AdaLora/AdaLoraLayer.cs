using Peft.Adapters.Slots;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.AdaLora;

/// <summary>AdaLoRA on a layer: y += alpha / initial rank · B (E ∘ (A x)).</summary>
internal sealed class AdaLoraLayer : LayerAdapter
{
    /// <summary>Keeps PEFT's quotient from a division by zero, and so its last digits.</summary>
    private const double Epsilon = 1e-5;

    private readonly AdaLoraConfig _config;
    private readonly double _scale;

    /// <summary>Makes the triplets, by shape alone.</summary>
    public AdaLoraLayer(IAdaptable layer, AdaLoraConfig config)
        : base(layer)
    {
        _config = config;
        var rank = config.Kept(layer.Path)?.Count(static kept => kept) ?? config.InitialRank;
        _scale = config.Alpha / (config.InitialRank + Epsilon);
        A = new Parameter("lora_A", [rank, layer.Inputs]);
        B = new Parameter("lora_B", [layer.Outputs, rank]);
        E = new Parameter("lora_E", [rank, 1]);
        Parameters = [new("lora_A", A), new("lora_B", B), new("lora_E", E)];
    }

    /// <summary>[rank, in].</summary>
    public Parameter A { get; }

    /// <summary>[out, rank].</summary>
    public Parameter B { get; }

    /// <summary>[rank, 1].</summary>
    public Parameter E { get; }

    /// <inheritdoc/>
    public override IReadOnlyList<LayerParameter> Parameters { get; }

    /// <inheritdoc/>
    public override void Initialise(Generator generator)
    {
        const double Deviation = 0.02;
        A.Assign(RandomTensors.Normal(A.Shape, Deviation, generator, Layer.Device));
        B.Assign(RandomTensors.Normal(B.Shape, Deviation, generator, Layer.Device));
        E.Assign(_config.StartAtZero ? RandomTensors.Zeros(E.Shape, Layer.Device) : RandomTensors.Normal(E.Shape, Deviation, generator, Layer.Device));
    }

    /// <inheritdoc/>
    public override LowRank? Fused(float weight) => Layer is Linear ? new LowRank(A, B, null, _scale * weight, _config.Dropout) { Inner = E } : null;

    /// <inheritdoc/>
    public override Tensor After(Tensor x, Tensor y, SlotCall call)
    {
        var input = call.Context.IsTraining && _config.Dropout > 0 ? x * RandomTensors.DropoutMask(x, _config.Dropout, call.Context.Generator) : x;
        var inner = Layer.Apply(input, Layer.FromMatrix(A.Data.mul(E.Data).to(y.dtype)), null);
        return y + (Layer.Project(inner, B.Data.to(y.dtype)).view_as(y) * (_scale * call.Weight));
    }

    /// <inheritdoc/>
    public override Affine Merge(Affine current, Affine bare)
    {
        var type = current.Weight.dtype;
        current.Weight.add_(Layer.FromMatrix(B.Data.to(type).mm(A.Data.mul(E.Data).to(type)).mul_(_scale)));
        return current;
    }
}
