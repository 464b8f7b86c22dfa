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
/// VeLoRA (Miles et al. 2024): LoRA whose first factor learns from one number a group of inputs, that along a direction which all groups share. What it computes is LoRA's;
/// these numbers are all that a training keeps of the inputs until the backward pass.
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
    internal override Tensor AfterOn(Tape tape, Tensor x, Tensor y, SlotCall call)
    {
        if (!call.Context.IsTraining)
        {
            return base.AfterOn(tape, x, y, call);
        }

        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        var mask = DropoutMask(x, call);
        var input = (mask is null ? x : x * mask).reshape(-1, x.size(-1));
        var inner = input.mm(FactorA(y.dtype).t());
        var change = inner.mm(FactorB(y.dtype).t()).view_as(y) * Scale;
        var output = (y + ((Bias is null ? change : change + (Bias.Data.to(y.dtype) * Scale)) * call.Weight)).MoveToOuterDisposeScope();
        var piece = new VeloraPiece(this, Compressed(input), inner, mask, call.Weight);
        tape.Record(piece, [x, y], [output], trains: Reads(call.Context).Any(static parameter => parameter.IsTrained));
        return output;
    }

    /// <summary>What is kept of inputs [tokens, in]: of each group its length along the direction, [tokens, groups].</summary>
    private Tensor Compressed(Tensor flat)
    {
        var size = _direction.Shape[0];
        var missing = (size * _settings.Groups) - flat.size(1);
        var groups = (missing == 0 ? flat : cat([flat, zeros([flat.size(0), missing], flat.dtype, flat.device)], 1)).view(-1, size);
        if (_settings.Start == VeloraSettings.EveryBatch || (_settings.Start == VeloraSettings.FirstBatch && !_isTaken))
        {
            _direction.Data.copy_(Unit(groups.mean([0]).to(ScalarType.Float32)));
            _direction.MarkChanged();
            _isTaken = true;
        }

        return groups.mv(_direction.Data.to(flat.dtype)).view(flat.size(0), -1);
    }

    private static Tensor Unit(Tensor direction)
    {
        var length = direction.norm();
        return length.item<float>() == 0 ? ones_like(direction) / Math.Sqrt(direction.size(0)) : direction / length;
    }

    private sealed class VeloraPiece : Piece
    {
        private readonly VeloraLayer _layer;
        private readonly Tensor _compressed;
        private readonly Tensor _direction;
        private readonly Tensor _inner;
        private readonly Tensor? _mask;
        private readonly double _scale;

        public VeloraPiece(VeloraLayer layer, Tensor compressed, Tensor inner, Tensor? mask, float weight)
        {
            _layer = layer;
            _compressed = Keep(compressed);
            _direction = KeepOwn(layer._direction.Data.to(compressed.dtype, copy: true));
            _inner = Keep(inner);
            _mask = mask is null ? null : Keep(mask);
            _scale = layer.Scale * weight;
        }

        public override void Backward(PieceGradients gradients)
        {
            var whole = gradients.Output();
            gradients.Add(1, whole, owned: false);
            var flat = whole.reshape(-1, whole.size(-1));
            var inner = flat.mm(_layer.FactorB(whole.dtype)).mul_(_scale);
            if (_layer.A.Gradient is { } ofA)
            {
                // A learns from inputs that are taken for what was kept of them, along the direction.
                var rows = inner.t().mm(_compressed).unsqueeze(2).mul(_direction).flatten(1).narrow(1, 0, ofA.size(1));
                ofA.add_(rows.to(ofA.dtype), alpha: _layer._settings.Scale);
            }

            _layer.B.Gradient?.add_(flat.t().mm(_inner).to(ScalarType.Float32), alpha: _scale);
            _layer.Bias?.Gradient?.add_(flat.sum([0]).to(ScalarType.Float32), alpha: _scale);
            if (gradients.Needs())
            {
                var ofInput = inner.mm(_layer.FactorA(whole.dtype)).view([.. whole.shape[..^1], -1]);
                gradients.Add(0, _mask is null ? ofInput : ofInput.mul_(_mask));
            }
        }
    }
}
