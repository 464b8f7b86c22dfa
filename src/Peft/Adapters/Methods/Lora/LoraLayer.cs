using Peft.Adapters.Slots;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Lora;

/// <summary>LoRA on a layer: y += scale · B (A dropout(x)) (+ scale · bias of B), with A x the layer's own map with A for a weight.</summary>
internal sealed class LoraLayer : LayerAdapter
{
    private readonly IAdaptable layer;
    private readonly LoraConfig config;
    private readonly double scale;

    /// <summary>Makes the factors, by shape alone.</summary>
    public LoraLayer(IAdaptable layer, LoraConfig config, int rank, double scale)
    {
        this.layer = layer;
        this.config = config;
        this.scale = scale;
        A = new Parameter("weight", [rank, layer.Inputs]);
        B = new Parameter("weight", [layer.Outputs, rank]);
        Bias = config.LoraBias ? new Parameter("bias", [layer.Outputs]) : null;
        Parameters = layer is Embedding ? [new("lora_embedding_A", A), new("lora_embedding_B", B)]
            : Bias is null ? [new("lora_A.weight", A), new("lora_B.weight", B)]
            : [new("lora_A.weight", A), new("lora_B.weight", B), new("lora_B.bias", Bias)];
    }

    /// <summary>[rank, in].</summary>
    public Parameter A { get; }

    /// <summary>[out, rank].</summary>
    public Parameter B { get; }

    /// <summary>[out], or null.</summary>
    public Parameter? Bias { get; }

    /// <inheritdoc/>
    public override bool RowSelectable => true;

    /// <inheritdoc/>
    public override string? MergeObstacle => Bias is not null && layer.Bias is null ? "lora_bias needs a layer with a bias to be merged into" : null;

    /// <inheritdoc/>
    public override IReadOnlyList<LayerParameter> Parameters { get; }

    /// <inheritdoc/>
    public override void Initialise(Generator generator)
    {
        if (layer is Embedding)
        {
            // The other way round than other layers: A is zero, B normal; nn.Embedding's own start where neither is to be zero.
            A.Assign(config.Initialisation == LoraInitialisation.Random ? RandomTensors.Normal(A.Shape, 1, generator, layer.Device) : RandomTensors.Zeros(A.Shape, layer.Device));
            B.Assign(RandomTensors.Normal(B.Shape, 1, generator, layer.Device));
            return;
        }

        var rank = A.Shape[0];
        A.Assign(config.Initialisation == LoraInitialisation.Gaussian
            ? RandomTensors.Normal(A.Shape, 1.0 / rank, generator, layer.Device)
            : RandomTensors.Uniform(A.Shape, 1 / Math.Sqrt(layer.Inputs), generator, layer.Device));
        foreach (var factor in Bias is null ? [B] : new[] { B, Bias })
        {
            factor.Assign(config.Initialisation == LoraInitialisation.Random
                ? RandomTensors.Uniform(factor.Shape, 1 / Math.Sqrt(rank), generator, layer.Device)
                : RandomTensors.Zeros(factor.Shape, layer.Device));
        }
    }

    /// <inheritdoc/>
    public override LowRank? LowRank(float weight) => new(A, B, Bias, scale * weight, layer is Embedding ? 0 : config.Dropout);

    /// <inheritdoc/>
    public override Tensor After(Tensor x, Tensor y, SlotCall call)
    {
        var input = call.Context.IsTraining && config.Dropout > 0 && x.is_floating_point()
            ? x * RandomTensors.DropoutMask(x, config.Dropout, call.Context.Generator)
            : x;
        var inner = layer.Apply(input, layer.FromMatrix(A.Data.to(y.dtype)), null);
        var change = layer.Project(inner, B.Data.to(y.dtype)).view_as(y);
        if (Bias is not null)
        {
            change = change + Bias.Data.to(y.dtype);
        }

        return y + (change * (scale * call.Weight));
    }

    /// <inheritdoc/>
    public override Affine Merge(Affine current)
    {
        var type = current.Weight.dtype;
        current.Weight.add_(layer.FromMatrix(B.Data.to(type).mm(A.Data.to(type))), alpha: scale);
        if (Bias is not null)
        {
            current.Bias!.add_(Bias.Data.to(type), alpha: scale);
        }

        return current;
    }
}
