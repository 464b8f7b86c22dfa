using System.Text.Json.Serialization;
using Peft.Adapters.Slots;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Lora;

/// <summary>How VeLoRA sums activations up.</summary>
public sealed record VeloraSettings
{
    /// <summary>PEFT's name of the start that is taken anew from each batch.</summary>
    internal const string EveryBatch = "batch_average";

    /// <summary>That of the one taken from the first batch alone.</summary>
    internal const string FirstBatch = "batch_average_once";

    /// <summary>That of a random direction.</summary>
    internal const string Random = "random";

    /// <summary>Groups of inputs, of each of which one number is kept.</summary>
    [JsonPropertyName("num_groups")]
    public int Groups { get; init; } = 64;

    /// <summary>Multiplies what the inputs are taken for.</summary>
    [JsonPropertyName("scale")]
    public double Scale { get; init; } = 1;

    /// <summary>Where the direction in a group comes from: <c>batch_average</c>, <c>batch_average_once</c> or <c>random</c>.</summary>
    [JsonPropertyName("init_type")]
    public string Start { get; init; } = EveryBatch;

    /// <summary>Refuses settings that PEFT refuses.</summary>
    /// <exception cref="PeftException"><c>AdapterConfigContradictory</c>.</exception>
    internal void Validate()
    {
        if (Groups <= 0 || !(Scale > 0) || Start is not (EveryBatch or FirstBatch or Random))
        {
            throw new PeftException("AdapterConfigContradictory", FormattableString.Invariant($"velora_config needs num_groups and scale above 0 and an init_type of {EveryBatch}, {FirstBatch} or {Random}, not {Groups}, {Scale} and '{Start}'."))
            {
                Target = "velora_config",
                RecommendedAction = "Leave them out for PEFT's defaults.",
            };
        }
    }
}

/// <summary>
/// VeLoRA (Miles et al. 2024): LoRA whose first factor learns from one number a group of inputs, that along a direction which all groups share. What it computes is LoRA's.
/// </summary>
internal sealed class VeloraLayer : LoraLayer
{
    private readonly VeloraSettings _settings;
    private readonly Parameter _direction;
    private bool _isTaken;

    /// <summary>Makes the parameters, by shape alone.</summary>
    public VeloraLayer(IAdaptable layer, LoraConfig config, VeloraSettings settings)
        : base(layer, config)
    {
        _settings = settings;
        _direction = new Parameter("lora_velora_embed", [(layer.Inputs + settings.Groups - 1) / settings.Groups]);
        Parameters = [.. base.Parameters, new(_direction.Name, _direction, ParameterRole.Frozen)];
    }

    /// <inheritdoc/>
    public override bool RowSelectable => false;

    /// <inheritdoc/>
    public override IReadOnlyList<LayerParameter> Parameters { get; }

    /// <inheritdoc/>
    public override void Initialise(Generator generator)
    {
        base.Initialise(generator);
        _direction.Assign(_settings.Start == VeloraSettings.Random
            ? Unit(RandomTensors.Normal(_direction.Shape, 1, generator, Layer.Device))
            : RandomTensors.Zeros(_direction.Shape, Layer.Device));
    }

    /// <summary>Its gradient is another than the product's.</summary>
    public override LowRank? LowRank(float weight) => null;

    /// <inheritdoc/>
    public override Tensor After(Tensor x, Tensor y, SlotCall call)
    {
        if (!call.Context.IsTraining || call.Context.Tape is null)
        {
            return base.After(x, y, call);
        }

        var input = Dropped(x, call, out _);
        var a = FactorA(y.dtype);

        // The value is x Aᵀ and so is the gradient of x; that of A is of what the input is taken for.
        var taken = Taken(input.detach());
        var learnt = taken.mm(a.t());
        var inner = input.reshape(-1, input.size(-1)).mm(a.detach().t()) + (learnt - learnt.detach());
        var change = inner.mm(FactorB(y.dtype).t()).view_as(y) * Scale;
        return y + ((Bias is null ? change : change + (Bias.Data.to(y.dtype) * Scale)) * call.Weight);
    }

    /// <summary>What the first factor takes an input for: in each group its length along the direction.</summary>
    private Tensor Taken(Tensor x)
    {
        using var noGradients = no_grad();
        var flat = x.reshape(-1, x.size(-1));
        var size = _direction.Shape[0];
        var missing = (size * _settings.Groups) - flat.size(1);
        var groups = (missing == 0 ? flat : cat([flat, zeros([flat.size(0), missing], flat.dtype, flat.device)], 1)).view(-1, size);
        if (_settings.Start == VeloraSettings.EveryBatch || (_settings.Start == VeloraSettings.FirstBatch && !_isTaken))
        {
            using var mean = Unit(groups.mean([0]).to(ScalarType.Float32));
            _direction.Data.copy_(mean);
            _direction.MarkChanged();
            _isTaken = true;
        }

        var direction = _direction.Data.to(flat.dtype).unsqueeze(1);
        return groups.mm(direction).mm(direction.t()).view(flat.size(0), -1).narrow(1, 0, flat.size(1)).mul_(_settings.Scale);
    }

    private static Tensor Unit(Tensor direction)
    {
        var length = direction.norm();
        return length.item<float>() == 0 ? ones_like(direction) / Math.Sqrt(direction.size(0)) : direction / length;
    }
}
