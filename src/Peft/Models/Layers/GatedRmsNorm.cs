using static TorchSharp.torch;

namespace Peft.Models.Layers;

/// <summary>A root mean square norm beside a gate, silu(gate): before it (Qwen3.5) or after it (Mamba-2).</summary>
internal sealed class GatedRmsNorm : Module
{
    private readonly long _size;
    private readonly double _epsilon;
    private readonly bool _gatesFirst;

    /// <summary>Makes a norm without weights.</summary>
    /// <param name="width">Number of weights.</param>
    /// <param name="size">Elements that are normed together; a divisor of <paramref name="width"/>.</param>
    /// <param name="epsilon">Added to the mean square.</param>
    /// <param name="className">transformers' class name.</param>
    /// <param name="gatesFirst">Whether the gate comes before the norm.</param>
    public GatedRmsNorm(long width, long size, double epsilon, string className, bool gatesFirst)
        : base(className)
    {
        _size = size;
        _epsilon = epsilon;
        _gatesFirst = gatesFirst;
        Weight = AddParameter("weight", [width], keepsFloat32: !gatesFirst);
    }

    /// <summary>[width].</summary>
    public Parameter Weight { get; }

    /// <summary>Bytes that are kept of a token for a width: input, gate, what is normed and scaled, in float32.</summary>
    /// <param name="width">Elements of a token.</param>
    public static long KeptBytesOf(long width) => 5 * width * sizeof(float);

    /// <summary>Runs the norm.</summary>
    /// <param name="x">[rows, n · width].</param>
    /// <param name="gate">Of the same shape.</param>
    /// <param name="context">The forward pass.</param>
    public Tensor Forward(Tensor x, Tensor gate, ForwardContext context) => ParameterTensor.Run(inputs => Form(inputs[0], inputs[1], inputs[2]), [x, gate], [Weight], context);

    private Tensor Form(Tensor x, Tensor gate, Tensor weight)
    {
        var (wide, open) = (x.to(ScalarType.Float32), gate.to(ScalarType.Float32).silu());
        wide = _gatesFirst ? wide * open : wide;
        var groups = wide.view(-1, _size);
        groups = groups * (groups.square().mean([-1], keepdim: true) + _epsilon).rsqrt();
        var scaled = (groups.view(-1, weight.size(0)) * weight.to(ScalarType.Float32)).view(x.shape);
        return (_gatesFirst ? scaled : scaled * open).to(x.dtype);
    }
}
