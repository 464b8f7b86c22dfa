using System.Text.Json.Serialization;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Lora;

/// <summary>Which factors are block-diagonal (Wang et al. 2025), so that several devices can each compute a block.</summary>
public sealed record BlockDiagonalSettings
{
    /// <summary>Whether each target has to have such a factor.</summary>
    [JsonPropertyName("match_strict")]
    public bool IsStrict { get; init; } = true;

    /// <summary>Number of blocks.</summary>
    [JsonPropertyName("nblocks")]
    public int Blocks { get; init; } = 1;

    /// <summary>Parts of the names of modules whose first factor is so.</summary>
    [JsonPropertyName("target_modules_bd_a")]
    public IReadOnlyList<string>? First { get; init; }

    /// <summary>Parts of the names of modules whose second factor is so.</summary>
    [JsonPropertyName("target_modules_bd_b")]
    public IReadOnlyList<string>? Second { get; init; }

    /// <summary>Which factor of a layer is so, or null for neither.</summary>
    /// <exception cref="PeftException"><c>AdapterConfigContradictory</c>.</exception>
    internal bool? IsFirst(string path) =>
        (First?.Any(part => path.Contains(part, StringComparison.Ordinal)) == true, Second?.Any(part => path.Contains(part, StringComparison.Ordinal)) == true) switch
        {
            (true, true) => throw new PeftException("AdapterConfigContradictory", $"use_bdlora makes both factors of '{path}' block-diagonal; it can be one of them.") { Target = path },
            (true, _) => true,
            (_, true) => false,
            _ when IsStrict => throw new PeftException("AdapterConfigContradictory", $"use_bdlora names '{path}' for neither factor, although match_strict asks for one.") { Target = path },
            _ => null,
        };
}

/// <summary>LoRA one of whose factors has blocks along its diagonal alone, which it holds one below the other.</summary>
internal sealed class BlockDiagonalLayer(IAdaptable layer, LoraConfig config, bool isFirst, int blocks)
    : LoraLayer(layer, config, isFirst ? blocks : 1, isFirst ? 1 : blocks)
{
    /// <inheritdoc/>
    public override void Initialise(Generator generator)
    {
        base.Initialise(generator);
        if (isFirst)
        {
            A.Assign(RandomTensors.Uniform(A.Shape, Math.Sqrt(6.0 / A.Shape[1]), generator, Layer.Device));
        }
    }

    /// <inheritdoc/>
    public override LowRank? LowRank(float weight) => null;

    /// <inheritdoc/>
    protected override Tensor FactorA(ScalarType type) => isFirst ? Whole(base.FactorA(type)) : base.FactorA(type);

    /// <inheritdoc/>
    protected override Tensor FactorB(ScalarType type) => isFirst ? base.FactorB(type) : Whole(base.FactorB(type));

    private Tensor Whole(Tensor stacked) =>
        (stacked.view(blocks, -1, 1, stacked.size(1)) * eye(blocks, dtype: stacked.dtype, device: stacked.device).view(blocks, 1, blocks, 1)).reshape(stacked.size(0), -1);
}
