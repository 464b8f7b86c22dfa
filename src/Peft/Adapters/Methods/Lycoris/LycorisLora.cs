using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Slots;
using Peft.Engine;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Lycoris;

/// <summary>LoRA under LyCORIS's names (LoCon on convolutions; DyLoRA's files are the same).</summary>
internal class LycorisLora : LoraLayer
{
    /// <summary>Makes the factors, by shape alone.</summary>
    /// <param name="layer">The layer.</param>
    /// <param name="config">Rank and alpha.</param>
    public LycorisLora(IAdaptable layer, LoraConfig config)
        : base(layer, config) => Parameters = [new("lora_down.weight", A), new("lora_up.weight", B)];

    /// <inheritdoc/>
    public override IReadOnlyList<LayerParameter> Parameters { get; }
}

/// <summary>
/// LyCORIS's DyLoRA (Valipour et al. 2022): ranks are learnt in blocks, a random one of them in each pass, on top of those before it; so that a file cut to fewer
/// blocks works as well. What is learnt with b blocks is multiplied by alpha / b.
/// </summary>
internal sealed class DynamicLora : LycorisLora
{
    private readonly int _blockSize;

    /// <summary>Makes the factors, by shape alone.</summary>
    /// <param name="layer">The layer.</param>
    /// <param name="config">Rank, and alpha times the size of a block, which makes a file's alpha / rank what all blocks were learnt with.</param>
    /// <param name="blockSize">Ranks of a block.</param>
    public DynamicLora(IAdaptable layer, LoraConfig config, int blockSize)
        : base(layer, config) => _blockSize = blockSize;

    private int Blocks => (int)(A.Shape[0] / _blockSize);

    /// <summary>A pass of a training has blocks of its own.</summary>
    /// <inheritdoc/>
    public override LowRank? LowRank(float weight) => null;

    /// <inheritdoc/>
    internal override Conversion.ChangeFactors? ExactFactors() => new(A.Data.flatten(1), B.Data.flatten(1), Scale);

    /// <inheritdoc/>
    public override Tensor After(Tensor x, Tensor y, SlotCall call)
    {
        if (!call.Context.IsTraining)
        {
            return base.After(x, y, call);
        }

        using var drawn = RandomDraws.Uniform([1], ScalarType.Float32, CPU, call.Context.Generator);
        return y + Layer.Apply(x, Layer.FromMatrix(Change(Math.Min((int)(drawn.item<float>() * Blocks), Blocks - 1)) * call.Weight).to(y.dtype), null);
    }

    /// <summary>The change [out, in · kernel] with some blocks, of which the last is learnt.</summary>
    /// <param name="last">Number of the last block, from 0.</param>
    internal Tensor Change(int last)
    {
        var before = last * _blockSize;
        var (a, b) = (A.Data.flatten(1), B.Data.flatten(1));
        var down = cat([a.narrow(0, 0, before).detach(), a.narrow(0, before, _blockSize)], 0);
        var up = cat([b.narrow(1, 0, before).detach(), b.narrow(1, before, _blockSize)], 1);
        return up.mm(down) * (Scale * Blocks / (last + 1));
    }
}

/// <summary>LoRA on a convolution with a core between its factors (CP decomposition): change = alpha / rank · up · core · down.</summary>
internal sealed class CoreLora : MatrixLayer
{
    private readonly double _scale;
    private readonly Parameter _up;
    private readonly Parameter _core;
    private readonly Parameter _down;

    /// <summary>Makes the factors, by shape alone: [rank, in, 1, …], [rank, rank, kernel] and [out, rank, 1, …].</summary>
    public CoreLora(IAdaptable layer, int rank, double scale)
        : base(layer)
    {
        _scale = scale;
        long[] ones = [.. layer.Kernel.Select(static _ => 1L)];
        _up = new Parameter("weight", [layer.Outputs, rank, .. ones]);
        _core = new Parameter("weight", [rank, rank, .. layer.Kernel]);
        _down = new Parameter("weight", [rank, layer.Inputs / layer.ChannelGroups, .. ones]);
        Parameters = [new("lora_up.weight", _up), new("lora_mid.weight", _core), new("lora_down.weight", _down)];
    }

    /// <inheritdoc/>
    public override IReadOnlyList<LayerParameter> Parameters { get; }

    /// <inheritdoc/>
    public override void Initialise(Generator generator)
    {
        foreach (var parameter in Parameters.Select(static entry => entry.Parameter))
        {
            parameter.Assign(parameter == _up ? RandomTensors.Zeros(parameter.Shape, Layer.Device)
                : RandomTensors.Uniform(parameter.Shape, 1 / Math.Sqrt(parameter.Count / parameter.Shape[0]), generator, Layer.Device));
        }
    }

    /// <inheritdoc/>
    protected override Tensor Change(ScalarType type, Func<Tensor> bare) =>
        (LycorisLayer.WithCore(_core.Data, _up.Data.flatten(1).t(), _down.Data.flatten(1)) * _scale).to(type);
}
