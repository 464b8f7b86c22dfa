namespace Peft.Adapters.Files;

/// <summary>How an adapter's file holds LoRA on experts.</summary>
public enum AdapterLayout
{
    /// <summary>One pair of factors for the weight of all experts, as PEFT writes since transformers 5.</summary>
    Fused,

    /// <summary>A pair for each layer of each expert, as PEFT wrote before, which other programs still read.</summary>
    PerExpert,
}
