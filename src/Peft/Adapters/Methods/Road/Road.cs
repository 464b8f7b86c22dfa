using Peft.Adapters.Configuration;
using Peft.Adapters.Slots;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Road;

/// <summary>RoAd (Liao and Monz 2024): pairs of a layer's outputs are turned and stretched. Adapters of several rows in one batch cost hardly more than one. Defaults are PEFT's.</summary>
[ConfigWithout("exclude_modules", "layers_to_transform", "layers_pattern")]
public sealed record RoadConfig : LayerwiseConfig
{
    /// <inheritdoc/>
    public override string PeftType => "ROAD";

    /// <summary>
    /// What is trained: <c>road_1</c> an angle and a length for each pair of outputs, <c>road_2</c> for each output of a pair, <c>road_4</c> for each of the four
    /// entries of a pair's matrix.
    /// </summary>
    [ConfigField("variant", Choices = ["road_1", "road_2", "road_4"], ErrorId = "AdapterConfigInvalid")]
    public string Variant { get; init; } = "road_1";

    /// <summary>Outputs of a group, an even divisor of every adapted layer's outputs: the first half of a group is paired with its second.</summary>
    [ConfigField("group_size", Minimum = 2, ErrorId = "RankInvalid")]
    public int GroupSize { get; init; } = 64;

    /// <summary>Whether nothing turns at first; false starts at random, for tests.</summary>
    [ConfigField("init_weights")]
    public bool StartAtIdentity { get; init; } = true;

    /// <inheritdoc/>
    public override void Validate()
    {
        base.Validate();
        if (GroupSize % 2 != 0)
        {
            throw new PeftException("RankInvalid", $"group_size is {GroupSize}; it has to be even, for outputs are turned in pairs.")
            {
                Target = "group_size",
                RecommendedAction = "Give an even group_size that divides the outputs of every adapted layer.",
            };
        }
    }

    /// <inheritdoc/>
    public override LayerAdapter CreateLayer(IAdaptable layer, LayerwiseAdapter adapter, ICollection<string> messages)
    {
        if (layer is not Linear)
        {
            throw KindRefused(layer);
        }

        return layer.Outputs % GroupSize == 0 ? new RoadLayer(layer, this) : throw new PeftException(
            "RankInvalid", $"group_size is {GroupSize}, which doesn't divide the {layer.Outputs} outputs of '{layer.Path}'.")
        {
            Target = layer.Path,
            RecommendedAction = "Give an even group_size that divides the outputs of every adapted layer.",
        };
    }
}

/// <summary>The angles and lengths of one layer: (y₁, y₂) becomes (c₁y₁ - s₁y₂, c₂y₂ + s₂y₁) with c = α cos θ and s = α sin θ.</summary>
internal sealed class RoadLayer : LayerAdapter
{
    private readonly RoadConfig _config;
    private readonly Parameter _angles;
    private readonly Parameter _lengths;

    /// <summary>Makes angles and lengths, by shape alone.</summary>
    public RoadLayer(IAdaptable layer, RoadConfig config)
        : base(layer)
    {
        _config = config;
        var count = config.Variant switch
        {
            "road_1" => layer.Outputs / 2,
            "road_2" => layer.Outputs,
            _ => layer.Outputs * 2,
        };
        _angles = new Parameter("road_theta", [count]);
        _lengths = new Parameter("road_alpha", [count]);
        Parameters = [new("road_theta", _angles), new("road_alpha", _lengths)];
    }

    /// <inheritdoc/>
    public override bool RowSelectable => true;

    /// <inheritdoc/>
    public override IReadOnlyList<LayerParameter> Parameters { get; }

    /// <inheritdoc/>
    public override void Initialise(Generator generator)
    {
        var (shape, device) = (_angles.Shape, Layer.Device);
        _angles.Assign(_config.StartAtIdentity ? RandomTensors.Zeros(shape, device) : RandomTensors.Normal(shape, 0.5, generator, device));
        var start = ones([.. shape], device: device);
        _lengths.Assign(_config.StartAtIdentity ? start : start.add_(RandomTensors.Normal(shape, 0.5, generator, device)));
    }

    /// <inheritdoc/>
    public override Tensor After(Tensor x, Tensor y, SlotCall call)
    {
        var turned = Turn(y);
        return call.Weight == 1f ? turned : y + ((turned - y) * call.Weight);
    }

    /// <inheritdoc/>
    public override Affine Merge(Affine current, Affine bare) => new(
        Layer.FromMatrix(Turn(Layer.ToMatrix(current.Weight).t().contiguous()).t()), current.Bias is null ? null : Turn(current.Bias));

    /// <summary>Turns vectors of outputs, [..., out].</summary>
    private Tensor Turn(Tensor values)
    {
        var half = _config.GroupSize / 2;
        var (cosines, sines) = Factors();
        var groups = values.reshape(-1, 2, half);
        var across = stack([-groups.select(1, 1), groups.select(1, 0)], 1).view(values.shape);
        return (values * cosines.to(values.dtype)) + (across * sines.to(values.dtype));
    }

    /// <summary>What multiplies each output, and what multiplies its partner.</summary>
    private (Tensor Own, Tensor Partner) Factors()
    {
        var (angles, lengths, size) = (_angles.Data, _lengths.Data, (long)_config.GroupSize);
        switch (_config.Variant)
        {
            case "road_1":
                angles = angles.view(-1, size / 2).repeat_interleave(2, 0).flatten();
                lengths = lengths.view(-1, size / 2).repeat_interleave(2, 0).flatten();
                goto case "road_2";
            case "road_2":
                return (lengths * angles.cos(), lengths * angles.sin());
            default:
                var (a, l) = (angles.view(-1, 2, size), lengths.view(-1, 2, size));
                return ((l.select(1, 0) * a.select(1, 0).cos()).flatten(), (l.select(1, 1) * a.select(1, 1).sin()).flatten());
        }
    }
}
