using Peft.Adapters.Slots;
using Peft.Models;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Lora;

/// <summary>LoRA on an embedding: the row of a token changes by scale · B · A[:, token].</summary>
internal sealed class LoraEmbedding : LayerAdapter
{
    private readonly AdaptableLayer layer;
    private readonly LoraConfig config;
    private readonly double scale;

    /// <summary>Makes the factors, by shape alone.</summary>
    public LoraEmbedding(AdaptableLayer layer, LoraConfig config, int rank, double scale)
    {
        this.layer = layer;
        this.config = config;
        this.scale = scale;
        A = new Parameter("lora_embedding_A", [rank, layer.Inputs]);
        B = new Parameter("lora_embedding_B", [layer.Outputs, rank]);
        Parameters = [new("lora_embedding_A", A), new("lora_embedding_B", B)];
    }

    /// <summary>[rank, vocabulary].</summary>
    public Parameter A { get; }

    /// <summary>[out, rank].</summary>
    public Parameter B { get; }

    /// <inheritdoc/>
    public override bool RowSelectable => true;

    /// <inheritdoc/>
    public override IReadOnlyList<LayerParameter> Parameters { get; }

    /// <inheritdoc/>
    public override void Initialise(Generator generator)
    {
        // The other way round than linear layers: A is zero, B normal; nn.Embedding's own start where neither is to be zero.
        var device = layer.Weight.Value?.device ?? CPU;
        A.Assign(config.Initialisation == LoraInitialisation.Random ? RandomTensors.Normal(A.Shape, 1, generator, device) : zeros([.. A.Shape], device: device));
        B.Assign(RandomTensors.Normal(B.Shape, 1, generator, device));
    }

    /// <inheritdoc/>
    public override LowRank? LowRank(float weight) => new(A, B, null, scale * weight, 0);

    /// <inheritdoc/>
    public override Tensor After(Tensor x, Tensor y, SlotCall call)
    {
        var columns = A.Data.index_select(1, x.flatten()).t().to(y.dtype);
        var change = columns.matmul(B.Data.to(y.dtype).t());
        return y + (change.view_as(y) * (scale * call.Weight));
    }

    /// <inheritdoc/>
    public override Affine Merge(Affine current)
    {
        var type = current.Weight.dtype;
        current.Weight.add_(B.Data.to(type).matmul(A.Data.to(type)).t(), alpha: scale);
        return current;
    }
}
