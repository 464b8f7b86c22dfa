using Peft.Adapters.Configuration;
using Peft.Adapters.Slots;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Boft;

/// <summary>
/// BOFT (Liu et al. 2023): rotations of blocks of a layer's inputs, and a factor for each output. Of its butterfly factors one is formed, as PEFT does without
/// its CUDA kernel. Defaults are PEFT's.
/// </summary>
public sealed record BoftConfig : LayerwiseConfig
{
    /// <inheritdoc/>
    public override string PeftType => "BOFT";

    /// <summary>Inputs of a block, a divisor of every adapted layer's inputs; 0 where the number of blocks decides it.</summary>
    [ConfigField("boft_block_size", Parameter = "BlockSize", Minimum = 0, ErrorId = "RankInvalid")]
    public int BlockSize { get; init; } = 4;

    /// <summary>Number of blocks, a divisor of every adapted layer's inputs; 0 where the block size decides it.</summary>
    [ConfigField("boft_block_num", Parameter = "BlockCount", Minimum = 0, ErrorId = "RankInvalid")]
    public int BlockCount { get; init; }

    /// <summary>Butterfly factors. More than one are trained by PEFT on CUDA alone; here, as there without it, one is taken.</summary>
    [ConfigField("boft_n_butterfly_factor", Parameter = "ButterflyFactors", Minimum = 1)]
    public int ButterflyFactors { get; init; } = 1;

    /// <summary>Share of the blocks that don't turn in a step of the training.</summary>
    [ConfigField("boft_dropout", IsReal = true, Minimum = 0, Maximum = 1, ErrorId = "DropoutInvalid")]
    public double Dropout { get; init; }

    /// <inheritdoc/>
    [ConfigField("fan_in_fan_out")]
    public override bool FanInFanOut { get; init; }

    /// <summary>Which biases of the base are trained: <c>none</c>, <c>all</c>, or <c>boft_only</c> for those of adapted layers.</summary>
    [ConfigField("bias", Choices = ["none", "all", "boft_only"], ErrorId = "BiasUnknown")]
    public override BiasTraining Bias { get; init; }

    /// <summary>Whether nothing turns at first; false starts at random, for tests.</summary>
    [ConfigField("init_weights")]
    public bool StartAtIdentity { get; init; } = true;

    /// <inheritdoc/>
    public override void Validate()
    {
        base.Validate();
        if (BlockSize == 0 == (BlockCount == 0))
        {
            throw Contradiction($"Exactly one of boft_block_size ({BlockSize}) and boft_block_num ({BlockCount}) has to be 0: their product is the number of a layer's inputs.");
        }
    }

    /// <inheritdoc/>
    public override LayerAdapter CreateLayer(IAdaptable layer, LayerwiseAdapter adapter, ICollection<string> messages)
    {
        if (layer is not (Linear or Convolution))
        {
            throw KindRefused(layer);
        }

        var (name, divisor) = BlockSize == 0 ? ("boft_block_num", BlockCount) : ("boft_block_size", BlockSize);
        var turned = layer.Weight.Count / layer.Outputs;
        if (turned % divisor != 0)
        {
            throw new PeftException("RankInvalid", $"{name} is {divisor}, which doesn't divide the {turned} inputs of '{layer.Path}'.")
            {
                Target = layer.Path,
                RecommendedAction = $"Give a {name} that divides the inputs of every adapted layer.",
            };
        }

        if (ButterflyFactors > 1 && adapter.Layers.Count == 0)
        {
            messages.Add($"boft_n_butterfly_factor is {ButterflyFactors}, but one factor is formed, as PEFT does without its CUDA kernel; a file with more is refused.");
        }

        return new BoftLayer(layer, this, BlockSize == 0 ? turned / BlockCount : BlockSize);
    }
}

/// <summary>The rotations and factors of one layer.</summary>
internal sealed class BoftLayer : RotationLayer
{
    private readonly BoftConfig _config;
    private readonly Parameter _blocks;
    private readonly Parameter _factors;

    /// <summary>Makes the parameters, by shape alone: [1, blocks, size, size] and [out, 1], for a convolution [1, out].</summary>
    public BoftLayer(IAdaptable layer, BoftConfig config, long size)
        : base(layer)
    {
        _config = config;
        _blocks = new Parameter("boft_R", [1, layer.Weight.Count / layer.Outputs / size, size, size]);
        _factors = new Parameter("boft_s", layer is Linear ? [layer.Outputs, 1] : [1, layer.Outputs]);
        Parameters = [new("boft_R", _blocks), new("boft_s", _factors)];
    }

    /// <inheritdoc/>
    public override IReadOnlyList<LayerParameter> Parameters { get; }

    /// <inheritdoc/>
    public override IEnumerable<Parameter> Reads(ForwardContext context) => Layer.Bias is { } bias ? base.Reads(context).Append(bias.Effective(context)) : base.Reads(context);

    /// <inheritdoc/>
    public override void Initialise(Generator generator)
    {
        var isIdentity = _config.StartAtIdentity;
        _blocks.Assign(isIdentity ? RandomTensors.Zeros(_blocks.Shape, Layer.Device) : RandomTensors.Normal(_blocks.Shape, 0.1, generator, Layer.Device));
        var start = ones([.. _factors.Shape], device: Layer.Device);
        _factors.Assign(isIdentity ? start : start.add_(RandomTensors.Normal(_factors.Shape, 0.1, generator, Layer.Device)));
    }

    /// <inheritdoc/>
    public override Tensor After(Tensor x, Tensor y, SlotCall call)
    {
        var factors = _factors.Data.flatten().to(y.dtype);
        if (!ChangesInput)
        {
            var bare = Layer.ToMatrix(BareWeight(call, y.dtype));
            return y + (Layer.Apply(x, Layer.FromMatrix((Rotate(bare, back: true, call) * factors.unsqueeze(1)) - bare), null) * call.Weight);
        }

        var own = BareBias(call, y.dtype) is { } bias ? y - bias : y;
        return y + (own * ((factors - 1) * call.Weight));
    }

    /// <inheritdoc/>
    public override Affine Merge(Affine current, Affine bare)
    {
        var factors = _factors.Data.flatten().to(current.Weight.dtype);
        var turned = Layer.ToMatrix(base.Merge(current, bare).Weight);
        return new Affine(Layer.FromMatrix(turned * factors.unsqueeze(1)), current.Bias is null ? null : current.Bias + ((factors - 1) * (current.Bias - bare.Bias!)));
    }

    /// <summary>On a linear layer both the rotation and the factors are at the strength, one after the other.</summary>
    /// <inheritdoc/>
    public override Affine Merge(Affine current, Affine bare, float strength)
    {
        if (!ChangesInput)
        {
            return base.Merge(current, bare, strength);
        }

        var matrix = Layer.ToMatrix(current.Weight);
        var factors = (_factors.Data.flatten().to(matrix.dtype) - 1) * strength;
        return new Affine(
            Layer.FromMatrix(matrix.lerp(Rotate(matrix, back: true, null), strength) * (factors + 1).unsqueeze(1)),
            current.Bias is null ? null : current.Bias + (factors * (current.Bias - bare.Bias!)));
    }

    /// <inheritdoc/>
    protected override Tensor Rotate(Tensor rows, bool back, SlotCall? call)
    {
        var own = _blocks.Data[0];
        var blocks = BlockRotation.Cayley((own - own.transpose(1, 2)) * 0.5);
        if (call is { Context.IsTraining: true } pass && _config.Dropout > 0)
        {
            blocks = BlockRotation.Dropped(blocks, _config.Dropout, pass.Context.Generator);
        }

        return BlockRotation.Rotate(rows, blocks, back);
    }
}
