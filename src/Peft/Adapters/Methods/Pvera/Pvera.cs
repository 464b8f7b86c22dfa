using Peft.Adapters.Configuration;
using Peft.Adapters.Slots;
using Peft.Adapters.Targets;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Pvera;

/// <summary>PVeRA (Fillioux et al. 2025): VeRA whose inner values are drawn in training from a distribution that they parametrise. Defaults are PEFT's.</summary>
public sealed record PveraConfig : ProjectionConfig
{
    /// <inheritdoc/>
    public override string PeftType => "PVERA";

    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, ModuleNames> DefaultTargetModules => DefaultTargets.LoraWith(("phi", ["q_proj", "v_proj"]), ("dinov2", ["query", "value"]));

    /// <inheritdoc/>
    [ConfigField("pvera_dropout", Minimum = 0, Maximum = 1, IsReal = true, ErrorId = "DropoutInvalid")]
    public override double Dropout { get; init; }

    /// <summary>Which biases of the base are trained: <c>none</c>, <c>all</c>, or <c>pvera_only</c> for those of adapted layers.</summary>
    [ConfigField("bias", Choices = ["none", "all", "pvera_only"], ErrorId = "BiasUnknown")]
    public override BiasTraining Bias { get; init; }

    /// <summary>Draws inner values outside of training too, so that outputs differ from pass to pass; such an adapter is merged at their means.</summary>
    [ConfigField("sample_at_inference")]
    public bool SampleAtInference { get; init; }

    /// <summary>Seed with which values are drawn outside of training, the same in each pass; without it others each time.</summary>
    [ConfigField("generator_seed", Minimum = 0)]
    public int? GeneratorSeed { get; init; }

    /// <inheritdoc/>
    public override Adapter CreateAdapter(string name) => new PveraAdapter(name, this);

    /// <inheritdoc/>
    public override LayerAdapter CreateLayer(IAdaptable layer, LayerwiseAdapter adapter, ICollection<string> messages) =>
        layer is Linear ? new PveraLayer(layer, this, (PveraAdapter)adapter) : throw KindRefused(layer);
}

/// <summary>PVeRA on a model, with the projections that its layers share.</summary>
public sealed class PveraAdapter(string name, PveraConfig config) : ProjectionAdapter(name, config, 2 * config.Rank);

/// <summary>The vectors of one layer: y += b ∘ (B z), with z of mean m and logarithm of variance v, where [m, v] = d ∘ (A x).</summary>
internal sealed class PveraLayer(IAdaptable layer, PveraConfig config, PveraAdapter shared) : ProjectionLayer(layer, config, shared, 2 * config.Rank)
{
    /// <inheritdoc/>
    protected override Tensor Inner(Tensor values, ForwardContext context)
    {
        var mean = values.narrow(-1, 0, config.Rank);
        return context.IsTraining || config.SampleAtInference
            ? mean + ((values.narrow(-1, config.Rank, config.Rank) * 0.5).exp() * Drawn(mean, context))
            : mean;
    }

    private Tensor Drawn(Tensor like, ForwardContext context)
    {
        using var seeded = !context.IsTraining && config.GeneratorSeed is { } seed ? new Generator((ulong)seed) : null;
        return empty_like(like).normal_(0, 1, seeded ?? context.Generator);
    }
}
