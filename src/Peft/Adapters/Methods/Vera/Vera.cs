using Peft.Adapters.Configuration;
using Peft.Adapters.Slots;
using Peft.Adapters.Targets;
using Peft.Models;
using Peft.Models.Layers;

namespace Peft.Adapters.Methods.Vera;

/// <summary>
/// VeRA (Kopiczko et al. 2024): all layers share two random projections that stay as they are; each trains a vector along the rank and one along its outputs.
/// Defaults are PEFT's.
/// </summary>
public sealed record VeraConfig : ProjectionConfig
{
    /// <inheritdoc/>
    public override string PeftType => "VERA";

    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, ModuleNames> DefaultTargetModules => DefaultTargets.LoraWith(("phi", ["q_proj", "v_proj"]));

    /// <inheritdoc/>
    [ConfigField("vera_dropout", Minimum = 0, Maximum = 1, IsReal = true, ErrorId = "DropoutInvalid")]
    public override double Dropout { get; init; }

    /// <summary>Which biases of the base are trained: <c>none</c>, <c>all</c>, or <c>vera_only</c> for those of adapted layers.</summary>
    [ConfigField("bias", Choices = ["none", "all", "vera_only"], ErrorId = "BiasUnknown")]
    public override BiasTraining Bias { get; init; }

    /// <inheritdoc/>
    public override Adapter CreateAdapter(string name) => new VeraAdapter(name, this);

    /// <inheritdoc/>
    public override LayerAdapter CreateLayer(IAdaptable layer, LayerwiseAdapter adapter, ICollection<string> messages) =>
        layer is Linear ? new VeraLayer(layer, this, (VeraAdapter)adapter) : throw KindRefused(layer);
}

/// <summary>VeRA on a model, with the projections that its layers share.</summary>
public sealed class VeraAdapter(string name, VeraConfig config) : ProjectionAdapter(name, config, config.Rank);

/// <summary>The vectors of one layer: y += b ∘ (B (d ∘ (A x))).</summary>
internal sealed class VeraLayer(IAdaptable layer, VeraConfig config, VeraAdapter shared) : ProjectionLayer(layer, config, shared, config.Rank)
{
    /// <inheritdoc/>
    public override bool ActsInWeight(ForwardContext context) => IsWide && (!context.IsTraining || config.Dropout == 0);
}
