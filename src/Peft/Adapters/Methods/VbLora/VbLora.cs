using Peft.Adapters.Configuration;
using Peft.Adapters.Slots;
using Peft.Adapters.Targets;
using Peft.Models.Layers;

namespace Peft.Adapters.Methods.VbLora;

/// <summary>
/// VB-LoRA (Li et al. 2024): the factors of all layers are put together from one bank of short vectors, each piece a mixture of the few that its logits prefer.
/// Defaults are PEFT's.
/// </summary>
public sealed record VbLoraConfig : LayerwiseConfig
{
    /// <inheritdoc/>
    public override string PeftType => "VBLORA";

    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, ModuleNames> DefaultTargetModules => DefaultTargets.VbLora;

    /// <summary>Rank of the change.</summary>
    [ConfigField("r", Minimum = 1, ErrorId = "RankInvalid")]
    public int Rank { get; init; } = 4;

    /// <summary>Vectors of the bank.</summary>
    [ConfigField("num_vectors", Parameter = "VectorCount", Minimum = 1)]
    public int VectorCount { get; init; } = 256;

    /// <summary>Length of the bank's vectors, a divisor of the inputs and outputs of every adapted layer.</summary>
    [ConfigField("vector_length", Minimum = 1)]
    public int VectorLength { get; init; } = 256;

    /// <summary>How many vectors a piece of a factor mixes.</summary>
    [ConfigField("topk", Parameter = "TopK", Minimum = 1)]
    public int TopK { get; init; } = 2;

    /// <summary>Saves which vectors are mixed and how, instead of all logits: a much smaller file, from which training can't go on.</summary>
    [ConfigField("save_only_topk_weights", Parameter = "SaveOnlyTopK")]
    public bool SavesOnlyTopK { get; init; }

    /// <summary>Probability with which an input of the change is dropped in training.</summary>
    [ConfigField("vblora_dropout", Minimum = 0, Maximum = 1, IsReal = true, ErrorId = "DropoutInvalid")]
    public double Dropout { get; init; }

    /// <inheritdoc/>
    [ConfigField("fan_in_fan_out")]
    public override bool FanInFanOut { get; init; }

    /// <summary>Which biases of the base are trained: <c>none</c>, <c>all</c>, or <c>vblora_only</c> for those of adapted layers.</summary>
    [ConfigField("bias", Choices = ["none", "all", "vblora_only"], ErrorId = "BiasUnknown")]
    public override BiasTraining Bias { get; init; }

    /// <summary>Bound of the uniform distribution with which the bank starts.</summary>
    [ConfigField("init_vector_bank_bound", Parameter = "InitialBankBound", IsReal = true)]
    public double InitialBankBound { get; init; } = 0.02;

    /// <summary>Standard deviation of the normal distribution with which logits start.</summary>
    [ConfigField("init_logits_std", Parameter = "InitialLogitsDeviation", IsReal = true)]
    public double InitialLogitsDeviation { get; init; } = 0.1;

    /// <inheritdoc/>
    public override void Validate()
    {
        base.Validate();
        if (TopK > VectorCount)
        {
            throw Contradiction($"topk ({TopK}) is more than the bank's {VectorCount} vectors (num_vectors).");
        }
    }

    /// <inheritdoc/>
    public override Adapter CreateAdapter(string name) => new VbLoraAdapter(name, this);

    /// <inheritdoc/>
    public override LayerAdapter CreateLayer(IAdaptable layer, LayerwiseAdapter adapter, ICollection<string> messages)
    {
        if (layer is not Linear)
        {
            throw KindRefused(layer);
        }

        return layer.Inputs % VectorLength == 0 && layer.Outputs % VectorLength == 0 ? new VbLoraLayer(layer, this, (VbLoraAdapter)adapter) : throw new PeftException(
            "RankInvalid", $"vector_length is {VectorLength}, which doesn't divide the {layer.Inputs} inputs and {layer.Outputs} outputs of '{layer.Path}'.")
        {
            Target = layer.Path,
            RecommendedAction = "Give a vector_length that divides both in every adapted layer.",
        };
    }
}
