using Peft.Adapters.Configuration;
using Peft.Adapters.Slots;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Lily;

/// <summary>
/// Lily (Zhong et al. 2024): layers of one kind share several second factors, of which a router of each layer's own mixes one for a whole batch. Defaults are PEFT's.
/// </summary>
public sealed record LilyConfig : LayerwiseConfig
{
    /// <inheritdoc/>
    public override string PeftType => "LILY";

    /// <summary>Rank of the change.</summary>
    [ConfigField("r", Minimum = 1, ErrorId = "RankInvalid")]
    public int Rank { get; init; } = 32;

    /// <summary>How many layers in a row share their first factor.</summary>
    [ConfigField("stride_A", Parameter = "LayersPerA", Minimum = 1)]
    public int LayersPerA { get; init; } = 1;

    /// <summary>How many second factors are shared.</summary>
    [ConfigField("num_B", Parameter = "ExpertCount", Minimum = 2)]
    public int ExpertCount { get; init; } = 2;

    /// <summary>Multiplies the change.</summary>
    [ConfigField("scaling", IsReal = true)]
    public double Scaling { get; init; } = 1;

    /// <summary>Whether the change starts at zero; false starts it at random, for tests.</summary>
    [ConfigField("init_weights")]
    public bool StartAtZero { get; init; } = true;

    /// <inheritdoc/>
    public override LayerAdapter CreateLayer(IAdaptable layer, LayerwiseAdapter adapter, ICollection<string> messages)
    {
        if (layer is not Linear)
        {
            throw KindRefused(layer);
        }

        var kind = Kind(layer, adapter.Config);
        LilyLayer[] earlier = [.. adapter.Layers.Where(other => Kind(other.Layer, adapter.Config) == kind).Select(static other => (LilyLayer)other.Adapter)];
        return new LilyLayer(layer, this, earlier.Length % LayersPerA == 0 ? null : earlier[^(earlier.Length % LayersPerA)].A, earlier.FirstOrDefault()?.B);
    }

    /// <summary>Layers are of one kind that the same target names and that have one shape.</summary>
    private static (string Name, long Inputs, long Outputs) Kind(IAdaptable layer, LayerwiseConfig resolved) => (
        resolved.TargetModules?.Names?.Where(name => layer.Path.EndsWith(name, StringComparison.Ordinal)).MaxBy(static name => name.Length) ?? "", layer.Inputs, layer.Outputs);
}

/// <summary>The factors and the router of one layer: y += scaling · (Σ pₑ Bₑᵀ) A x, with p the mean over the batch of what the router says.</summary>
internal sealed class LilyLayer : LayerAdapter
{
    private readonly LilyConfig _config;
    private readonly Parameter _router;

    /// <summary>Makes what isn't another layer's, by shape alone: A [rank, in], B [experts · rank, out] and the router [experts, rank].</summary>
    public LilyLayer(IAdaptable layer, LilyConfig config, Parameter? sharedA, Parameter? sharedB)
        : base(layer)
    {
        _config = config;
        A = sharedA ?? new Parameter("weight", [config.Rank, layer.Inputs]);
        B = sharedB ?? new Parameter("weight", [config.ExpertCount * config.Rank, layer.Outputs]);
        _router = new Parameter("weight", [config.ExpertCount, config.Rank]);
        Parameters = [new("lily_A.weight", A), new("lily_B.weight", B), new("lily_router.weight", _router)];
    }

    /// <summary>[rank, in], perhaps an earlier layer's.</summary>
    public Parameter A { get; }

    /// <summary>[experts · rank, out], perhaps an earlier layer's.</summary>
    public Parameter B { get; }

    /// <inheritdoc/>
    public override string MergeObstacle => "what its router says depends on the batch";

    /// <inheritdoc/>
    public override IReadOnlyList<LayerParameter> Parameters { get; }

    /// <inheritdoc/>
    public override void Initialise(Generator generator)
    {
        var device = Layer.Device;
        A.Assign(RandomTensors.Uniform(A.Shape, 1 / Math.Sqrt(A.Shape[1]), generator, device));
        B.Assign(_config.StartAtZero ? RandomTensors.Zeros(B.Shape, device) : RandomTensors.Uniform(B.Shape, 1 / Math.Sqrt(B.Shape[1]), generator, device));
        _router.Assign(RandomTensors.Uniform(_router.Shape, 1 / Math.Sqrt(_router.Shape[1]), generator, device));
    }

    /// <inheritdoc/>
    public override Tensor After(Tensor x, Tensor y, SlotCall call)
    {
        var type = y.dtype;
        var hidden = IAdaptable.Multiply(x.reshape(-1, x.size(-1)), A.Data.to(type));
        var shares = hidden.mm(_router.Data.to(type).t()).softmax(-1).mean([0], keepdim: true);
        var mixed = shares.mm(B.Data.to(type).view(_config.ExpertCount, -1)).view(_config.Rank, Layer.Outputs);
        return y + (hidden.mm(mixed).view(y.shape) * (_config.Scaling * call.Weight));
    }

    /// <inheritdoc/>
    public override Affine Merge(Affine current, Affine bare) => throw new NotSupportedException(MergeObstacle);
}
