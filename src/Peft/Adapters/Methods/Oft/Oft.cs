using Peft.Adapters.Configuration;
using Peft.Adapters.Slots;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Oft;

/// <summary>OFT (Qiu et al. 2023): blocks of a layer's inputs are turned by learned rotations, so that the angles between its outputs' weights stay. Defaults are PEFT's.</summary>
public sealed record OftConfig : LayerwiseConfig
{
    /// <inheritdoc/>
    public override string PeftType => "OFT";

    /// <summary>Number of blocks of each layer; 0 where the block size decides it.</summary>
    [ConfigField("r", Minimum = 0, ErrorId = "RankInvalid")]
    public int Rank { get; init; }

    /// <summary>Inputs of a block; 0 where the number of blocks decides it. A size that doesn't divide a layer's inputs becomes the nearest that does.</summary>
    [ConfigField("oft_block_size", Parameter = "BlockSize", Minimum = 0, ErrorId = "RankInvalid")]
    public int BlockSize { get; init; } = 32;

    /// <summary>Share of the blocks that don't turn in a step of the training.</summary>
    [ConfigField("module_dropout", IsReal = true, Minimum = 0, Maximum = 1, ErrorId = "DropoutInvalid")]
    public double Dropout { get; init; }

    /// <inheritdoc/>
    [ConfigField("fan_in_fan_out")]
    public override bool FanInFanOut { get; init; }

    /// <summary>Which biases of the base are trained: <c>none</c>, <c>all</c>, or <c>oft_only</c> for those of adapted layers.</summary>
    [ConfigField("bias", Choices = ["none", "all", "oft_only"], ErrorId = "BiasUnknown")]
    public override BiasTraining Bias { get; init; }

    /// <summary>Whether nothing turns at first; false starts at random, for tests.</summary>
    [ConfigField("init_weights")]
    public bool StartAtIdentity { get; init; } = true;

    /// <summary>Keeps every rotation near the identity (constrained OFT).</summary>
    [ConfigField("coft", Parameter = "Constrained")]
    public bool IsConstrained { get; init; }

    /// <summary>How far a constrained rotation may turn.</summary>
    [ConfigField("eps", Parameter = "Epsilon", IsReal = true, Minimum = 0)]
    public double Epsilon { get; init; } = 6e-5;

    /// <summary>Turns all blocks of a layer alike, with fewer parameters.</summary>
    [ConfigField("block_share", Parameter = "ShareBlocks")]
    public bool SharesBlocks { get; init; }

    /// <summary>Forms rotations by the first terms of a series, which is faster and only nearly orthogonal, instead of exactly.</summary>
    [ConfigField("use_cayley_neumann")]
    public bool UseCayleyNeumann { get; init; } = true;

    /// <summary>Terms of that series.</summary>
    [ConfigField("num_cayley_neumann_terms", Parameter = "CayleyNeumannTerms", Minimum = 1)]
    public int CayleyNeumannTerms { get; init; } = 5;

    /// <inheritdoc/>
    public override void Validate()
    {
        base.Validate();
        if (Rank == 0 == (BlockSize == 0))
        {
            throw Contradiction($"Exactly one of r ({Rank}) and oft_block_size ({BlockSize}) has to be 0: their product is the number of a layer's inputs.");
        }
    }

    /// <inheritdoc/>
    public override Adapter CreateAdapter(string name) => new OftAdapter(name, this);

    /// <inheritdoc/>
    public override LayerAdapter CreateLayer(IAdaptable layer, LayerwiseAdapter adapter, ICollection<string> messages) =>
        layer is Linear or Embedding or Convolution ? new OftLayer(layer, this, messages) : throw KindRefused(layer);
}

/// <summary>OFT on a model.</summary>
public sealed class OftAdapter(string name, OftConfig config) : LayerwiseAdapter(name, config)
{
    /// <summary>Brings constrained rotations back to where they may be.</summary>
    /// <inheritdoc/>
    public override bool OnStepped(int step)
    {
        if (((OftConfig)Config).IsConstrained)
        {
            using var noGradients = no_grad();
            foreach (var (_, layer) in Layers)
            {
                ((OftLayer)layer).Constrain();
            }
        }

        return false;
    }
}

/// <summary>The rotations of one layer; an embedding turns its vectors.</summary>
internal sealed class OftLayer : RotationLayer
{
    private readonly OftConfig _config;
    private readonly long _size;
    private readonly Parameter _upper;

    /// <summary>Makes the rotations, by shape alone: of each block the part of a skew-symmetric matrix above its diagonal.</summary>
    public OftLayer(IAdaptable layer, OftConfig config, ICollection<string> messages)
        : base(layer)
    {
        _config = config;
        var turned = layer is Embedding ? layer.Outputs : layer.Weight.Count / layer.Outputs;
        var asked = config.Rank == 0 ? config.BlockSize : config.Rank;
        var fitting = NearestDivisor(turned, asked);
        if (fitting != asked)
        {
            messages.Add($"{(config.Rank == 0 ? "oft_block_size" : "r")} = {asked} doesn't divide the {turned} inputs of '{layer.Path}': {fitting} is taken there.");
        }

        _size = config.Rank == 0 ? fitting : turned / fitting;
        _upper = new Parameter("weight", [config.SharesBlocks ? 1 : turned / _size, _size * (_size - 1) / 2]);
        Parameters = [new(layer is Embedding ? "oft_embedding_R.weight" : "oft_R.weight", _upper)];
    }

    /// <inheritdoc/>
    public override IReadOnlyList<LayerParameter> Parameters { get; }

    /// <inheritdoc/>
    public override void Initialise(Generator generator) => _upper.Assign(_config.StartAtIdentity
        ? RandomTensors.Zeros(_upper.Shape, Layer.Device)
        : RandomTensors.Normal(_upper.Shape, 0.1, generator, Layer.Device));

    /// <inheritdoc/>
    public override bool ActsInWeight(ForwardContext context) => ChangesInput && (!context.IsTraining || _config.Dropout == 0);

    /// <inheritdoc/>
    public override Tensor After(Tensor x, Tensor y, SlotCall call)
    {
        if (Layer is not Embedding)
        {
            return base.After(x, y, call);
        }

        var turned = Rotate(y.reshape(-1, y.size(-1)), back: false, null).view(y.shape);
        return call.Weight == 1f ? turned : y + ((turned - y) * call.Weight);
    }

    /// <inheritdoc/>
    public override Affine Merge(Affine current, Affine bare) =>
        Layer is Embedding ? current with { Weight = Rotate(current.Weight, back: false, null) } : base.Merge(current, bare);

    /// <summary>Brings the rotations back to where they may be.</summary>
    internal void Constrain()
    {
        using var near = Constrained(_upper.Data);
        _upper.Data.copy_(near);
        _upper.MarkChanged();
    }

    /// <inheritdoc/>
    protected override Tensor Rotate(Tensor rows, bool back, SlotCall? call)
    {
        var blocks = Blocks();
        if (call is { Context.IsTraining: true } pass && _config.Dropout > 0)
        {
            blocks = BlockRotation.Dropped(blocks, _config.Dropout, pass.Context.Generator);
        }

        return BlockRotation.Rotate(rows, blocks, back);
    }

    private Tensor Blocks()
    {
        // The peer moves the weights themselves where they went too far, so that gradients are those of the place they are moved to.
        var upper = _config.IsConstrained ? _upper.Data + (Constrained(_upper.Data) - _upper.Data).detach() : _upper.Data;
        var skew = BlockRotation.Skew(upper, _size);
        return _config.UseCayleyNeumann ? BlockRotation.Neumann(skew, _config.CayleyNeumannTerms) : BlockRotation.Cayley(skew);
    }

    /// <summary>Shortens blocks that are longer than allowed; a block's length is that of the whole skew-symmetric matrix, √2 that of its upper part.</summary>
    private Tensor Constrained(Tensor upper)
    {
        var allowed = _config.Epsilon / Math.Sqrt(upper.size(0));
        var length = upper.square().sum(1, keepdim: true).mul(2).sqrt();
        return where(length.le(allowed), upper, upper * (allowed / length));
    }

    private static long NearestDivisor(long total, long asked)
    {
        if (asked >= total)
        {
            return total;
        }

        var (lower, higher) = (asked, asked);
        while (total % lower != 0)
        {
            lower--;
        }

        while (total % higher != 0)
        {
            higher++;
        }

        return asked - lower <= higher - asked ? lower : higher;
    }
}
