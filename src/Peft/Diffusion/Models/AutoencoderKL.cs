using Peft.Engine;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Diffusion.Models;

/// <summary>The distribution of an image's latents: a mean and a variance for each element.</summary>
/// <param name="Moments">Means and logarithms of variances one behind the other, [rows, 2 · channels, height, width].</param>
public sealed record LatentDistribution(Tensor Moments)
{
    /// <summary>[rows, channels, height, width].</summary>
    public Tensor Mean => Moments.chunk(2, 1)[0];

    /// <summary>Logarithms of the variances, held to [-30, 20].</summary>
    public Tensor LogVariance => Moments.chunk(2, 1)[1].clamp(-30.0, 20.0);

    /// <summary>Standard deviations.</summary>
    public Tensor Deviation => LogVariance.mul(0.5).exp();

    /// <summary>A sample.</summary>
    /// <param name="noise">Standard normal values of the mean's shape.</param>
    public Tensor Sample(Tensor noise) => Mean + (Deviation * noise);
}

/// <summary>The autoencoder of Stable Diffusion (Kingma and Welling 2014; Rombach et al. 2022): images to latents of an eighth of their size and back.</summary>
public sealed class AutoencoderKL : PretrainedModel
{
    // Published files have attention under the names it had first.
    private static readonly KeyMap s_keys = new(
        new KeyRule("attentions.0.to_q", "attentions.0.query"),
        new KeyRule("attentions.0.to_k", "attentions.0.key"),
        new KeyRule("attentions.0.to_v", "attentions.0.value"),
        new KeyRule("attentions.0.to_out.0", "attentions.0.proj_attn"));

    private readonly AutoencoderHalf _encoder;
    private readonly AutoencoderHalf _decoder;
    private readonly Convolution? _toMoments;
    private readonly Convolution? _fromLatents;

    /// <summary>Makes the structure.</summary>
    /// <param name="source">diffusers' <c>config.json</c>.</param>
    /// <exception cref="PeftException"><c>ModelConfigInvalid</c>.</exception>
    public AutoencoderKL(ModelConfig source)
        : base(source, "AutoencoderKL")
    {
        ArgumentNullException.ThrowIfNull(source);
        LatentChannels = source.Size("latent_channels", 4);
        ScalingFactor = source.Number("scaling_factor") ?? 0.18215;
        ShiftFactor = source.Number("shift_factor") ?? 0;
        _encoder = Add("encoder", new AutoencoderHalf(source, isDecoder: false));
        _decoder = Add("decoder", new AutoencoderHalf(source, isDecoder: true));
        _toMoments = source.Boolean("use_quant_conv") ?? true ? Add("quant_conv", new Convolution(2 * LatentChannels, 2 * LatentChannels, [1, 1])) : null;
        _fromLatents = source.Boolean("use_post_quant_conv") ?? true ? Add("post_quant_conv", new Convolution(LatentChannels, LatentChannels, [1, 1])) : null;
    }

    /// <summary>Channels of the latents.</summary>
    public long LatentChannels { get; }

    /// <summary>What latents are multiplied by before a UNet reads them.</summary>
    public double ScalingFactor { get; }

    /// <summary>What is taken from latents before that.</summary>
    public double ShiftFactor { get; }

    /// <summary>How many pixels of an image make a position of its latents, in each direction.</summary>
    public long Reduction => 1L << (_encoder.Blocks - 1);

    /// <inheritdoc/>
    public override KeyMap Keys => s_keys;

    /// <summary>The distribution of images' latents, not yet scaled.</summary>
    /// <param name="images">In [-1, 1], [rows, channels, height, width]; on a tape known to it.</param>
    /// <param name="context">The forward pass.</param>
    public LatentDistribution Encode(Tensor images, ForwardContext context)
    {
        ArgumentNullException.ThrowIfNull(images);
        using var scope = NewDisposeScope();
        var encoded = _encoder.Forward(images, context);
        return new LatentDistribution((_toMoments?.Forward(encoded, context) ?? encoded).MoveToOuterDisposeScope());
    }

    /// <summary>The images of latents.</summary>
    /// <param name="latents">Not scaled; on a tape known to it.</param>
    /// <param name="context">The forward pass.</param>
    /// <returns>About [-1, 1], [rows, channels, height, width].</returns>
    public Tensor Decode(Tensor latents, ForwardContext context)
    {
        ArgumentNullException.ThrowIfNull(latents);
        FreedMemory.GiveBackGrowth();
        using var scope = NewDisposeScope();
        return _decoder.Forward(_fromLatents?.Forward(latents, context) ?? latents, context).MoveToOuterDisposeScope();
    }
}

/// <summary>An encoder or a decoder of images.</summary>
internal sealed class AutoencoderHalf : Module
{
    private readonly bool _isDecoder;
    private readonly Convolution _input;
    private readonly ModuleList<AutoencoderBlock> _blocks;
    private readonly AutoencoderMiddle _middle;
    private readonly GroupNorm _outputNorm;
    private readonly Convolution _output;

    public AutoencoderHalf(ModelConfig source, bool isDecoder)
        : base(isDecoder ? "Decoder" : "Encoder")
    {
        _isDecoder = isDecoder;
        long[] channels = [.. source.Numbers("block_out_channels")?.Select(static number => (long)number) ?? [64]];
        if (channels.Length == 0 || channels.Any(static width => width is < 1 or > ModelConfig.MaxSize))
        {
            throw new PeftException("ModelConfigInvalid", "'block_out_channels' of the autoencoder's configuration must be a list of sizes.");
        }

        var layers = (int)source.Size("layers_per_block", 1, most: 1000) + (isDecoder ? 1 : 0);
        var norm = (Groups: source.Size("norm_num_groups", 32), Epsilon: 1e-6);
        var (latents, images) = (source.Size("latent_channels", 4), source.Size(isDecoder ? "out_channels" : "in_channels", 3));
        var order = isDecoder ? [.. channels.Reverse()] : channels;
        _input = Add("conv_in", Padded(isDecoder ? latents : images, order[0]));
        _blocks = Add(isDecoder ? "up_blocks" : "down_blocks", new ModuleList<AutoencoderBlock>(order.Select((width, i) =>
            new AutoencoderBlock(order[Math.Max(0, i - 1)], width, layers, norm, isDecoder, resizes: i < order.Length - 1))));
        _middle = Add("mid_block", new AutoencoderMiddle(channels[^1], norm, source.Boolean("mid_block_add_attention") ?? true));
        _outputNorm = Add("conv_norm_out", new GroupNorm(norm.Groups, order[^1], norm.Epsilon));
        Add("conv_act", new Activation("silu", "SiLU"));
        _output = Add("conv_out", Padded(order[^1], isDecoder ? images : 2 * latents));

        static Convolution Padded(long inputs, long outputs) => new(inputs, outputs, [3, 3], new ConvolutionShape(Padding: 1));
    }

    public int Blocks => _blocks.Items.Count;

    public Tensor Forward(Tensor x, ForwardContext context)
    {
        var steps = _blocks.Items.Select(block => (Func<Tensor, Tensor>)(given => block.Forward(given, context)));
        Func<Tensor, Tensor> middle = given => _middle.Forward(given, context);
        using var last = Chain.Run(_input.Forward(x, context), _isDecoder ? steps.Prepend(middle) : steps.Append(middle), context);
        return ResnetBlock2D.Convolved(_outputNorm, null, _output, last, context);
    }
}

/// <summary>Resnets, and a change of size behind them but in the last block.</summary>
internal sealed class AutoencoderBlock : Module
{
    private readonly ModuleList<ResnetBlock2D> _resnets;
    private readonly ModuleList<Downsample2D>? _downsamplers;
    private readonly ModuleList<Upsample2D>? _upsamplers;

    public AutoencoderBlock(long inputs, long width, int layers, (long Groups, double Epsilon) norm, bool isDecoder, bool resizes)
        : base(isDecoder ? "UpDecoderBlock2D" : "DownEncoderBlock2D")
    {
        _resnets = Add("resnets", new ModuleList<ResnetBlock2D>(Enumerable.Range(0, layers).Select(i => new ResnetBlock2D(i > 0 ? width : inputs, width, null, norm))));
        _upsamplers = isDecoder && resizes ? Add("upsamplers", new ModuleList<Upsample2D>([new Upsample2D(width)])) : null;
        _downsamplers = !isDecoder && resizes ? Add("downsamplers", new ModuleList<Downsample2D>([new Downsample2D(width, padsBehind: true)])) : null;
    }

    public Tensor Forward(Tensor x, ForwardContext context)
    {
        var first = _resnets.Items[0].Forward(x, new UNetPass(), context);
        var steps = _resnets.Items.Skip(1).Select(resnet => (Func<Tensor, Tensor>)(given => resnet.Forward(given, new UNetPass(), context)));
        steps = _downsamplers is null ? steps : steps.Append(given => _downsamplers.Items[0].Forward(given, context));
        steps = _upsamplers is null ? steps : steps.Append(given => _upsamplers.Items[0].Forward(given, null, context));
        return Chain.Run(first, steps, context);
    }
}

/// <summary>The block at the smallest size.</summary>
internal sealed class AutoencoderMiddle : Module
{
    private readonly ModuleList<UNetAttention>? _attentions;
    private readonly ModuleList<ResnetBlock2D> _resnets;

    public AutoencoderMiddle(long width, (long Groups, double Epsilon) norm, bool hasAttention)
        : base("UNetMidBlock2D")
    {
        _attentions = hasAttention ? Add("attentions", new ModuleList<UNetAttention>([new UNetAttention(width, 1, norm: norm)])) : null;
        _resnets = Add("resnets", new ModuleList<ResnetBlock2D>(Enumerable.Range(0, 2).Select(_ => new ResnetBlock2D(width, width, null, norm))));
    }

    public Tensor Forward(Tensor x, ForwardContext context)
    {
        var first = _resnets.Items[0].Forward(x, new UNetPass(), context);
        IEnumerable<Func<Tensor, Tensor>> steps = [given => _resnets.Items[1].Forward(given, new UNetPass(), context)];
        return Chain.Run(first, _attentions is null ? steps : steps.Prepend(given => _attentions.Items[0].Forward(given, context)), context);
    }
}

/// <summary>Layers one after the other, each freeing what the one before gave.</summary>
internal static class Chain
{
    public static Tensor Run(Tensor x, IEnumerable<Func<Tensor, Tensor>> steps, ForwardContext context)
    {
        foreach (var step in steps)
        {
            context.Cancellation.ThrowIfCancellationRequested();
            using var before = x;
            x = step(before);
        }

        return x;
    }
}
