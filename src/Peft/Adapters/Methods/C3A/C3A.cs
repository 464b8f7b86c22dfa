using Peft.Adapters.Configuration;
using Peft.Adapters.Slots;
using Peft.Adapters.Targets;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.C3A;

/// <summary>C3A (Chen et al. 2024): the change is made of circulant blocks, each given by one row, so that it may have full rank with few parameters. Defaults are PEFT's.</summary>
[ConfigWithout("exclude_modules")]
public sealed record C3AConfig : LayerwiseConfig
{
    /// <summary>Starts at zero.</summary>
    private const string Zero = "true";

    /// <inheritdoc/>
    public override string PeftType => "C3A";

    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, ModuleNames> DefaultTargetModules => DefaultTargets.LoraWith(("gpt2", ["mlp.c_proj"]), ("gpt_bigcode", ["mlp.c_proj"]));

    /// <summary>Side of a block: a divisor of the inputs and outputs of every adapted layer. A larger one trains less.</summary>
    [ConfigField("block_size", Minimum = 1, ErrorId = "RankInvalid")]
    public int BlockSize { get; init; } = 256;

    /// <summary>Other sides for some modules: a table of name, path ending or regular expression of whole name parts to side; the first that matches counts.</summary>
    [ConfigField("block_size_pattern", Minimum = 1, ErrorId = "RankInvalid")]
    public IReadOnlyDictionary<string, int> BlockSizePattern { get; init; } = new Dictionary<string, int>();

    /// <summary>Which biases of the base are trained: <c>none</c>, <c>all</c>, or <c>c3a_only</c> for those of adapted layers.</summary>
    [ConfigField("bias", Choices = ["none", "all", "c3a_only"], ErrorId = "BiasUnknown")]
    public override BiasTraining Bias { get; init; }

    /// <summary>How the change starts: <c>true</c> at zero, else at random: <c>gaussian</c>, <c>kaiming_uniform</c>, or <c>xavier_uniform</c> and <c>false</c>.</summary>
    [ConfigField("init_weights", Parameter = "Initialization", Choices = [Zero, "false", "gaussian", "kaiming_uniform", "xavier_uniform"], ErrorId = "InitialisationUnknown")]
    public string Initialisation { get; init; } = "xavier_uniform";

    /// <inheritdoc/>
    public override LayerAdapter CreateLayer(IAdaptable layer, LayerwiseAdapter adapter, ICollection<string> messages)
    {
        if (layer is not Linear)
        {
            throw KindRefused(layer);
        }

        var size = TargetMatcher.Lookup(BlockSizePattern, layer.Path, BlockSize);
        return layer.Inputs % size == 0 && layer.Outputs % size == 0 ? new C3ALayer(layer, this, size) : throw new PeftException(
            "RankInvalid", $"block_size is {size}, which doesn't divide the {layer.Inputs} inputs and {layer.Outputs} outputs of '{layer.Path}'.")
        {
            Target = layer.Path,
            RecommendedAction = "Give a block_size that divides both, or one for this layer by block_size_pattern.",
        };
    }

    /// <summary>The first values of a layer's blocks.</summary>
    internal Tensor Start(Parameter blocks, IAdaptable layer, Generator generator) => Initialisation switch
    {
        Zero => RandomTensors.Zeros(blocks.Shape, layer.Device),
        "gaussian" => RandomTensors.Normal(blocks.Shape, 1, generator, layer.Device),
        "kaiming_uniform" => RandomTensors.Uniform(blocks.Shape, Math.Sqrt(1.0 / layer.Inputs), generator, layer.Device),
        _ => RandomTensors.Uniform(blocks.Shape, Math.Sqrt(6.0 / (layer.Inputs + layer.Outputs)), generator, layer.Device),
    };
}

/// <summary>The blocks of one layer, [out / size, in / size, size]: y[m, i] += Σ w[m, n, j - i] x[n, j] / in, indices within a block counted in a circle.</summary>
internal sealed class C3ALayer : LayerAdapter
{
    private readonly C3AConfig _config;
    private readonly long _size;
    private readonly Parameter _blocks;

    /// <summary>Makes the blocks, by shape alone.</summary>
    public C3ALayer(IAdaptable layer, C3AConfig config, long size)
        : base(layer)
    {
        _config = config;
        _size = size;
        _blocks = new Parameter("c3a_kernel", [layer.Outputs / size, layer.Inputs / size, size]);
        Parameters = [new("c3a_kernel", _blocks)];
    }

    /// <inheritdoc/>
    public override IReadOnlyList<LayerParameter> Parameters { get; }

    /// <inheritdoc/>
    public override void Initialise(Generator generator) => _blocks.Assign(_config.Start(_blocks, Layer, generator));

    /// <inheritdoc/>
    public override Tensor After(Tensor x, Tensor y, SlotCall call) => y + (Change(x).to(y.dtype) * call.Weight);

    /// <inheritdoc/>
    public override Affine Merge(Affine current, Affine bare)
    {
        var change = Change(eye(Layer.Inputs, dtype: ScalarType.Float32, device: Layer.Device)).t();
        current.Weight.add_(Layer.FromMatrix(change.to(current.Weight.dtype)));
        return current;
    }

    /// <summary>In Fourier space a correlation is a product for each frequency, so that the blocks are one small product of matrices each.</summary>
    private Tensor Change(Tensor x)
    {
        var parts = fft.rfft(x.to(ScalarType.Float32).reshape(-1, Layer.Inputs / _size, _size)).permute(2, 0, 1);
        var blocks = fft.rfft(_blocks.Data).conj().permute(2, 1, 0);
        var sums = fft.irfft(parts.bmm(blocks).permute(1, 2, 0), _size);
        return sums.reshape([.. x.shape[..^1], Layer.Outputs]) / Layer.Inputs;
    }
}
