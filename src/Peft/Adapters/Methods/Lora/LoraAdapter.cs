using Peft.Adapters.Combination;
using TorchSharp;

namespace Peft.Adapters.Methods.Lora;

/// <summary>LoRA on a model: a pair of factors for each targeted layer, several of which combine into one.</summary>
public sealed class LoraAdapter(string name, LoraConfig config) : LayerwiseAdapter(name, config)
{
    /// <inheritdoc/>
    public override AdapterConfig CombinedConfig(IReadOnlyList<AdapterPart> parts, CombinationOptions options) => LoraCombination.Config(parts, options) with { Bias = CombinedBias(parts) };

    /// <inheritdoc/>
    public override void Combine(IReadOnlyList<AdapterPart> parts, CombinationOptions options, torch.Generator generator, CancellationToken cancellation)
    {
        base.Combine(parts, options, generator, cancellation);
        var combination = new LoraCombination(parts, options, generator);
        foreach (var (layer, adapter) in Layers)
        {
            cancellation.ThrowIfCancellationRequested();
            combination.Fill(layer.Path, adapter.LowRank(1)!);
        }
    }
}
