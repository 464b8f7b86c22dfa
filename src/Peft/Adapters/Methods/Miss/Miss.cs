using Peft.Adapters.Configuration;
using Peft.Adapters.Conversion;
using Peft.Adapters.Slots;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Miss;

/// <summary>MiSS (Kang and Yin 2024): one narrow matrix, repeated over the inputs, is added to the weight. Defaults are PEFT's.</summary>
public sealed record MissConfig : LayerwiseConfig
{
    /// <summary>The matrix is repeated over the outputs as well.</summary>
    internal const string Mini = "mini";

    /// <summary>Square blocks that also multiply the weight's own.</summary>
    internal const string Bat = "bat";

    /// <inheritdoc/>
    public override string PeftType => "MISS";

    /// <summary>Rank: the inputs after which the matrix is repeated.</summary>
    [ConfigField("r", Minimum = 1, ErrorId = "RankInvalid")]
    public int Rank { get; init; } = 64;

    /// <summary>Probability with which an input of the change is dropped in training.</summary>
    [ConfigField("miss_dropout", IsReal = true, Minimum = 0, Maximum = 1, ErrorId = "DropoutInvalid")]
    public double Dropout { get; init; }

    /// <summary>Outputs after which the matrix is repeated, with <c>mini</c>; has to divide the outputs of every adapted layer.</summary>
    [ConfigField("mini_r", Minimum = 1, ErrorId = "RankInvalid")]
    public int MiniRank { get; init; } = 1;

    /// <summary>
    /// The kind of change: <c>true</c> for one matrix over the inputs, <c>mini</c> for one over inputs and outputs, <c>bat</c> for square blocks that multiply
    /// the weight's own as well. All start at zero; <c>false</c> starts the first at random, for tests.
    /// </summary>
    [ConfigField("init_weights", Parameter = "Initialization", Choices = ["true", "false", Bat, Mini], ErrorId = "InitialisationUnknown")]
    public string Initialisation { get; init; } = "true";

    /// <summary>Which biases of the base are trained: <c>none</c>, <c>all</c>, or <c>MiSS_only</c> for those of adapted layers.</summary>
    [ConfigField("bias", Choices = ["none", "all", "MiSS_only"], ErrorId = "BiasUnknown")]
    public override BiasTraining Bias { get; init; }

    /// <inheritdoc/>
    public override LayerAdapter CreateLayer(IAdaptable layer, LayerwiseAdapter adapter, ICollection<string> messages)
    {
        if (layer is not Linear)
        {
            throw KindRefused(layer);
        }

        var isUneven = Initialisation switch
        {
            Bat => layer.Inputs % Rank != 0 || layer.Outputs % Rank != 0,
            Mini => layer.Outputs % MiniRank != 0 || Rank > layer.Inputs,
            _ => Rank > layer.Inputs,
        };
        return isUneven
            ? throw new PeftException("RankInvalid", $"The rank {Rank} (mini_r {MiniRank}) doesn't fit '{layer.Path}' with {layer.Inputs} inputs and {layer.Outputs} outputs.")
            {
                Target = layer.Path,
                RecommendedAction = "Give a rank that divides both for bat, and a mini_r that divides the outputs for mini; no rank can be larger than the inputs.",
            }
            : new MissLayer(layer, this);
    }
}

/// <summary>The matrix of one layer: change[o, i] = block[i mod rank, o]; with <c>bat</c>, W B + B for each square block of the weight, one B a row of blocks.</summary>
internal sealed class MissLayer : MatrixLayer
{
    private readonly MissConfig _config;
    private readonly long _rank;
    private readonly Parameter _block;

    /// <summary>Makes the matrix, by shape alone: [rank, out], [rank, mini rank] or [out / rank, rank, rank].</summary>
    public MissLayer(IAdaptable layer, MissConfig config)
        : base(layer)
    {
        _config = config;
        _rank = config.Rank;
        _block = new Parameter("miss_block", config.Initialisation switch
        {
            MissConfig.Bat => [layer.Outputs / _rank, _rank, _rank],
            MissConfig.Mini => [_rank, config.MiniRank],
            _ => [_rank, layer.Outputs],
        });
        Parameters = [new("miss_block", _block)];
    }

    /// <inheritdoc/>
    public override IReadOnlyList<LayerParameter> Parameters { get; }

    /// <inheritdoc/>
    public override void Initialise(Generator generator) => _block.Assign(_config.Initialisation == "false"
        ? RandomTensors.Uniform(_block.Shape, 1 / Math.Sqrt(_block.Shape[1]), generator, Layer.Device)
        : RandomTensors.Zeros(_block.Shape, Layer.Device));

    /// <inheritdoc/>
    public override bool ActsInWeight(ForwardContext context) => !context.IsTraining || _config.Dropout == 0;

    /// <inheritdoc/>
    public override Tensor After(Tensor x, Tensor y, SlotCall call) => base.After(
        call.Context.IsTraining && _config.Dropout > 0 && _config.Initialisation != MissConfig.Bat ? x * RandomTensors.DropoutMask(x, _config.Dropout, call.Context.Generator) : x, y, call);

    /// <summary>Every input adds to the inner value of its place among the rank's: LoRA with a first factor of ones and zeros.</summary>
    internal override ChangeFactors? ExactFactors()
    {
        if (_config.Initialisation == MissConfig.Bat)
        {
            return null;
        }

        var places = arange(Layer.Inputs, device: Layer.Device).remainder(_rank);
        var sums = places.unsqueeze(0).eq(arange(_rank, device: Layer.Device).unsqueeze(1)).to(ScalarType.Float32);
        return new ChangeFactors(sums, _block.Data.to(ScalarType.Float32).t().repeat(Layer.Outputs / _block.Shape[1], 1), 1) { KeepsRank = true };
    }

    /// <inheritdoc/>
    protected override Tensor Change(ScalarType type, Func<Tensor> bare)
    {
        var own = _block.Data.to(type);
        if (_config.Initialisation == MissConfig.Bat)
        {
            // Blocks [out / r, in / r · r, r]: the rows of all blocks that one B multiplies, one below the other.
            var (down, across) = (Layer.Outputs / _rank, Layer.Inputs / _rank);
            var blocks = bare().view(down, _rank, across, _rank).permute(0, 2, 1, 3).reshape(down, across * _rank, _rank);
            var change = blocks.bmm(own).view(down, across, _rank, _rank) + own.unsqueeze(1);
            return change.permute(0, 2, 1, 3).reshape(Layer.Outputs, Layer.Inputs);
        }

        var times = (Layer.Inputs + _rank - 1) / _rank;
        var rows = own.t().repeat(_config.Initialisation == MissConfig.Mini ? Layer.Outputs / _config.MiniRank : 1, times);
        return rows.narrow(1, 0, Layer.Inputs);
    }
}
