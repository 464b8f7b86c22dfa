using Peft.Models;

namespace Peft.Adapters.Slots;

/// <summary>What a module looks like to an adapter.</summary>
/// <param name="Path">The module's path.</param>
/// <param name="Module">The module.</param>
/// <param name="Kind">What it computes.</param>
/// <param name="Weight">Its weight.</param>
/// <param name="Bias">Its bias, or null.</param>
public sealed record AdaptableLayer(string Path, Module Module, LayerKind Kind, Parameter Weight, Parameter? Bias)
{
    /// <summary>Size of the input; for an embedding the size of the vocabulary.</summary>
    public long Inputs => Kind is LayerKind.Conv1D or LayerKind.Embedding ? Weight.Shape[0] : Weight.Shape[1];

    /// <summary>Size of the output.</summary>
    public long Outputs => Kind is LayerKind.Conv1D or LayerKind.Embedding ? Weight.Shape[1] : Weight.Shape[0];

    /// <summary>The layer that a module is, or null for modules without a weight that adapters know how to change.</summary>
    public static AdaptableLayer? Of(Module module, string path)
    {
        var kind = KindOf(module);
        var weight = module.Parameters.FirstOrDefault(static parameter => parameter.Name == "weight");
        return kind == LayerKind.None || weight is null
            ? null
            : new AdaptableLayer(path, module, kind, weight, module.Parameters.FirstOrDefault(static parameter => parameter.Name == "bias"));
    }

    /// <summary>What a module computes, by PEFT's class names.</summary>
    public static LayerKind KindOf(Module module) => module.ClassName switch
    {
        "Linear" or "NonDynamicallyQuantizableLinear" => LayerKind.Linear,
        "Conv1D" => LayerKind.Conv1D,
        "Embedding" => LayerKind.Embedding,
        "Conv1d" or "Conv2d" or "Conv3d" => LayerKind.Convolution,
        "MultiheadAttention" => LayerKind.Attention,
        _ => LayerKind.None,
    };
}

/// <summary>What an adaptable module computes.</summary>
public enum LayerKind
{
    /// <summary>Not adaptable.</summary>
    None,

    /// <summary>x · Wᵀ + b with W [out, in].</summary>
    Linear,

    /// <summary>x · W + b with W [in, out], as GPT-2 has it.</summary>
    Conv1D,

    /// <summary>Rows of W [vocabulary, out] by token id.</summary>
    Embedding,

    /// <summary>A convolution in one, two or three dimensions.</summary>
    Convolution,

    /// <summary>Attention with its projections in one weight.</summary>
    Attention,
}
