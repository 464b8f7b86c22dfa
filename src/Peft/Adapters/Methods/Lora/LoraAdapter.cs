using Peft.Adapters.Combination;
using Peft.Adapters.Slots;
using Peft.Models.Layers;
using TorchSharp;

namespace Peft.Adapters.Methods.Lora;

/// <summary>LoRA on a model: a pair of factors for each targeted layer.</summary>
public sealed class LoraAdapter(string name, LoraConfig config) : Adapter(name, config)
{
    private bool saysLayout;
    private bool saysBias;

    /// <inheritdoc/>
    public override AdapterConfig CombinedConfig(IReadOnlyList<AdapterPart> parts, CombinationOptions options) => LoraCombination.Config(parts, options);

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

    /// <inheritdoc/>
    protected override LayerAdapter CreateLayer(IAdaptable layer, ICollection<string> messages)
    {
        var resolved = (LoraConfig)Config;
        if (layer is Embedding && resolved.LoraBias)
        {
            throw new PeftException("LoraBiasOnEmbedding", $"lora_bias can't be used on an embedding ('{layer.Path}').") { Target = layer.Path };
        }

        if (layer is not (Linear or Embedding))
        {
            throw KindNotSupported(layer);
        }

        if (layer is Linear && resolved.FanInFanOut != layer.IsTransposed && !saysLayout)
        {
            saysLayout = true;
            messages.Add($"fan_in_fan_out is {resolved.FanInFanOut}, but '{layer.Path}' is a {layer.Module.ClassName}: taken as {!resolved.FanInFanOut} there and in layers like it.");
        }

        if (resolved.LoraBias && layer.Bias is null && !saysBias)
        {
            saysBias = true;
            messages.Add($"lora_bias is set, but '{layer.Path}' has no bias: the adapter can't be merged.");
        }

        var (rank, scale) = resolved.ForLayer(layer.Path);
        return new LoraLayer(layer, resolved, rank, scale);
    }
}
