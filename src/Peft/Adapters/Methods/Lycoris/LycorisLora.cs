using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Slots;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Lycoris;

/// <summary>LoRA under LyCORIS's names (LoCon on convolutions; DyLoRA's files are the same).</summary>
internal sealed class LycorisLora : LoraLayer
{
    /// <summary>Makes the factors, by shape alone.</summary>
    /// <param name="layer">The layer.</param>
    /// <param name="config">Rank and alpha.</param>
    public LycorisLora(IAdaptable layer, LoraConfig config)
        : base(layer, config) => Parameters = [new("lora_down.weight", A), new("lora_up.weight", B)];

    /// <inheritdoc/>
    public override IReadOnlyList<LayerParameter> Parameters { get; }
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
