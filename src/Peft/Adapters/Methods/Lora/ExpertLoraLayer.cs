using Peft.Adapters.Conversion;
using Peft.Adapters.Slots;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Lora;

/// <summary>LoRA on a weight of all experts: each expert has factors of its own, which act on the rows that visit it.</summary>
internal sealed class ExpertLoraLayer(IAdaptable layer, LoraConfig config) : LoraLayer(layer, config)
{
    /// <summary>Rows of a batch are spread over the experts.</summary>
    public override bool RowSelectable => false;

    /// <summary>One pair of factors for all rows is what there isn't.</summary>
    public override LowRank? LowRank(float weight) => null;

    /// <summary>The change as a product for each expert: A [experts, rank, in] and B [experts, out, rank], float32.</summary>
    public ChangeFactors OfExperts()
    {
        var (a, b) = Factors(ScalarType.Float32);
        return new ChangeFactors(a, b, Scale);
    }

    /// <inheritdoc/>
    public override Tensor After(Tensor x, Tensor y, SlotCall call)
    {
        var (a, b) = Factors(y.dtype);
        var changes = call.Context.ExpertRows!.Parts()
            .Select(part => x.narrow(0, part.Start, part.Count).mm(a[part.Expert].t()).mm(b[part.Expert].t()))
            .ToArray();
        return y + (cat(changes, 0) * (Scale * call.Weight));
    }

    /// <summary>[experts, out, in].</summary>
    protected override Tensor Matrix(ScalarType type)
    {
        var (a, b) = Factors(type);
        return b.bmm(a).mul_(Scale);
    }

    /// <summary>A [experts, rank, in] and B [experts, out, rank].</summary>
    private (Tensor A, Tensor B) Factors(ScalarType type) => (
        A.Data.to(type).view(Layer.Experts, -1, Layer.Inputs),
        B.Data.to(type).view(Layer.Outputs, -1, Layer.Experts).permute(2, 0, 1));
}
