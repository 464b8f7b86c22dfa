using Peft.Adapters.Slots;
using Peft.Models;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Lora;

/// <summary>LoRA on a linear layer: y += scale · B (A dropout(x)) (+ scale · bias of B).</summary>
internal sealed class LoraLinear : LayerAdapter
{
    private readonly AdaptableLayer layer;
    private readonly LoraConfig config;
    private readonly double scale;
    private readonly LayerParameter[] parameters;

    /// <summary>Makes the factors, by shape alone.</summary>
    public LoraLinear(AdaptableLayer layer, LoraConfig config, int rank, double scale)
    {
        this.layer = layer;
        this.config = config;
        this.scale = scale;
        A = new Parameter("weight", [rank, layer.Inputs]);
        B = new Parameter("weight", [layer.Outputs, rank]);
        Bias = config.LoraBias ? new Parameter("bias", [layer.Outputs]) : null;
        parameters = Bias is null
            ? [new("lora_A.weight", A), new("lora_B.weight", B)]
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
    public override IReadOnlyList<LayerParameter> Parameters => parameters;

    /// <inheritdoc/>
    public override void Initialise(Generator generator)
    {
        var device = layer.Weight.Value?.device ?? CPU;
        var rank = A.Shape[0];
        A.Assign(config.Initialisation == LoraInitialisation.Gaussian
            ? RandomTensors.Normal(A.Shape, 1.0 / rank, generator, device)
            : RandomTensors.Uniform(A.Shape, 1 / Math.Sqrt(layer.Inputs), generator, device));
        B.Assign(config.Initialisation == LoraInitialisation.Random
            ? RandomTensors.Uniform(B.Shape, 1 / Math.Sqrt(rank), generator, device)
            : zeros([.. B.Shape], device: device));
        Bias?.Assign(config.Initialisation == LoraInitialisation.Random
            ? RandomTensors.Uniform(Bias.Shape, 1 / Math.Sqrt(rank), generator, device)
            : zeros([.. Bias.Shape], device: device));
    }

    /// <inheritdoc/>
    public override LowRank? LowRank(float weight) => new(A, B, Bias, scale * weight, config.Dropout);

    /// <inheritdoc/>
    public override Tensor After(Tensor x, Tensor y, SlotCall call)
    {
        var input = x;
        if (call.Context.IsTraining && config.Dropout > 0)
        {
            input = x * RandomTensors.DropoutMask(x, config.Dropout, call.Context.Generator);
        }

        var inner = input.matmul(A.Data.to(x.dtype).t());
        var change = inner.matmul(B.Data.to(x.dtype).t());
        if (Bias is not null)
        {
            change = change + Bias.Data.to(x.dtype);
        }

        return y + (change * (scale * call.Weight));
    }

    /// <inheritdoc/>
    public override Affine Merge(Affine current)
    {
        var (weight, bias) = current;
        var change = B.Data.to(weight.dtype).matmul(A.Data.to(weight.dtype));
        weight.add_(layer.Kind == LayerKind.Conv1D ? change.t() : change, alpha: scale);
        if (Bias is not null)
        {
            bias!.add_(Bias.Data.to(bias.dtype), alpha: scale);
        }

        return new Affine(weight, bias);
    }
}
