using Peft.Adapters.Configuration;
using Peft.Adapters.Slots;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.GraLora;

/// <summary>GraLoRA (Jung et al. 2025): the weight is cut into blocks, each with a small low-rank change of its own, at LoRA's cost. Defaults are PEFT's.</summary>
[ConfigWithout("exclude_modules")]
public sealed record GraLoraConfig : LayerwiseConfig
{
    /// <inheritdoc/>
    public override string PeftType => "GRALORA";

    /// <summary>Rank of the change, which the blocks of a row share.</summary>
    [ConfigField("r", Minimum = 1, ErrorId = "RankInvalid")]
    public int Rank { get; init; } = 32;

    /// <summary>Rank of a plain low-rank change beside the blocks; 0 for none.</summary>
    [ConfigField("hybrid_r", Parameter = "HybridRank", Minimum = 0, ErrorId = "RankInvalid")]
    public int HybridRank { get; init; }

    /// <summary>Strength of the change: it is multiplied by alpha / (r + hybrid_r).</summary>
    [ConfigField("alpha")]
    public double Alpha { get; init; } = 64;

    /// <summary>Probability with which an input of the change is dropped in training.</summary>
    [ConfigField("gralora_dropout", Minimum = 0, Maximum = 1, IsReal = true, ErrorId = "DropoutInvalid")]
    public double Dropout { get; init; }

    /// <summary>Blocks along each side of the weight: a divisor of the rank, and of the inputs and outputs of every adapted layer.</summary>
    [ConfigField("gralora_k", Parameter = "BlocksPerSide", Minimum = 1, ErrorId = "RankInvalid")]
    public int BlocksPerSide { get; init; } = 2;

    /// <inheritdoc/>
    [ConfigField("fan_in_fan_out")]
    public override bool FanInFanOut { get; init; }

    /// <summary>Which biases of the base are trained: <c>none</c>, <c>all</c>, or <c>gralora_only</c> for those of adapted layers.</summary>
    [ConfigField("bias", Choices = ["none", "all", "gralora_only"], ErrorId = "BiasUnknown")]
    public override BiasTraining Bias { get; init; }

    /// <summary>Whether the change starts at zero; false starts it at random, for tests.</summary>
    [ConfigField("init_weights")]
    public bool StartAtZero { get; init; } = true;

    /// <inheritdoc/>
    public override void Validate()
    {
        base.Validate();
        if (Rank % BlocksPerSide != 0)
        {
            throw Contradiction($"gralora_k ({BlocksPerSide}) has to divide r ({Rank}): the blocks of a row share the rank.");
        }
    }

    /// <inheritdoc/>
    public override LayerAdapter CreateLayer(IAdaptable layer, LayerwiseAdapter adapter, ICollection<string> messages)
    {
        if (layer is not Linear)
        {
            throw KindRefused(layer);
        }

        return layer.Inputs % BlocksPerSide == 0 && layer.Outputs % BlocksPerSide == 0 ? new GraLoraLayer(layer, this) : throw new PeftException(
            "RankInvalid", $"gralora_k is {BlocksPerSide}, which doesn't divide the {layer.Inputs} inputs and {layer.Outputs} outputs of '{layer.Path}'.")
        {
            Target = layer.Path,
            RecommendedAction = "Give a gralora_k that divides both in every adapted layer.",
        };
    }
}

/// <summary>The factors of one layer's blocks: of column n A [in / k, rank], of row m B [rank, out / k]; block (m, n) has the n-th part of B's ranks and the m-th of A's.</summary>
internal sealed class GraLoraLayer : LayerAdapter
{
    private readonly GraLoraConfig _config;
    private readonly Parameter _a;
    private readonly Parameter _b;
    private readonly Parameter? _generalA;
    private readonly Parameter? _generalB;

    /// <summary>Makes the factors, by shape alone.</summary>
    public GraLoraLayer(IAdaptable layer, GraLoraConfig config)
        : base(layer)
    {
        _config = config;
        var blocks = config.BlocksPerSide;
        _a = new Parameter("gralora_A", [blocks, layer.Inputs / blocks, config.Rank]);
        _b = new Parameter("gralora_B", [blocks, config.Rank, layer.Outputs / blocks]);
        Parameters = [new("gralora_A", _a), new("gralora_B", _b)];
        if (config.HybridRank > 0)
        {
            _generalA = new Parameter("weight", [config.HybridRank, layer.Inputs]);
            _generalB = new Parameter("weight", [layer.Outputs, config.HybridRank]);
            Parameters = [.. Parameters, new("gralora_A_general.weight", _generalA), new("gralora_B_general.weight", _generalB)];
        }
    }

    /// <inheritdoc/>
    public override IReadOnlyList<LayerParameter> Parameters { get; }

    private double Scale => _config.Alpha / (_config.Rank + _config.HybridRank);

    /// <inheritdoc/>
    public override void Initialise(Generator generator)
    {
        Start(_a, _a.Shape[1], isZero: false);
        Start(_b, _config.Rank, _config.StartAtZero);
        Start(_generalA, Layer.Inputs, isZero: false);
        Start(_generalB, _config.HybridRank, _config.StartAtZero);

        void Start(Parameter? factor, long fan, bool isZero) => factor?.Assign(
            isZero ? RandomTensors.Zeros(factor.Shape, Layer.Device) : RandomTensors.Uniform(factor.Shape, 1 / Math.Sqrt(fan), generator, Layer.Device));
    }

    /// <inheritdoc/>
    public override Tensor After(Tensor x, Tensor y, SlotCall call)
    {
        var change = Blocks(Dropped());
        if (_generalA is not null)
        {
            change = change + IAdaptable.Multiply(IAdaptable.Multiply(Dropped(), _generalA.Data.to(x.dtype)), _generalB!.Data.to(x.dtype));
        }

        return y + (change * (Scale * call.Weight));

        Tensor Dropped() => call.Context.IsTraining && _config.Dropout > 0 ? x * RandomTensors.DropoutMask(x, _config.Dropout, call.Context.Generator) : x;
    }

    /// <inheritdoc/>
    public override Affine Merge(Affine current, Affine bare)
    {
        var type = current.Weight.dtype;
        var change = Blocks(eye(Layer.Inputs, dtype: type, device: Layer.Device)).t();
        if (_generalA is not null)
        {
            change = change + _generalB!.Data.to(type).mm(_generalA.Data.to(type));
        }

        current.Weight.add_(Layer.FromMatrix(change), alpha: Scale);
        return current;
    }

    /// <summary>The blocks' map of an input [..., in].</summary>
    private Tensor Blocks(Tensor x)
    {
        var (blocks, rank) = ((long)_config.BlocksPerSide, (long)_config.Rank);
        var parts = x.reshape(-1, blocks, Layer.Inputs / blocks).transpose(0, 1).bmm(_a.Data.to(x.dtype));
        var turned = parts.view(blocks, -1, blocks, rank / blocks).permute(2, 1, 0, 3).reshape(blocks, -1, rank);
        return turned.bmm(_b.Data.to(x.dtype)).transpose(0, 1).reshape([.. x.shape[..^1], Layer.Outputs]);
    }
}
