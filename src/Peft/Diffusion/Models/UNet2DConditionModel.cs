using Peft.Engine;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Diffusion.Models;

/// <summary>What a UNet reads.</summary>
/// <param name="Sample">The noised image or latents, [rows, channels, height, width]; on a tape a root or another's output.</param>
/// <param name="Timesteps">The time of each row, [rows], or one for all.</param>
/// <param name="Text">What the text encoders gave; on a tape known to it.</param>
public sealed record UNetInputs(Tensor Sample, Tensor Timesteps, BackboneOutput Text)
{
    /// <summary>1 where a text has tokens, int64 [rows, length]; null for everywhere.</summary>
    public Tensor? TextMask { get; init; }

    /// <summary>The pooled text, [rows, width], which SDXL reads beside; on a tape known to it.</summary>
    public Tensor? PooledText { get; init; }

    /// <summary>Original size, corner of the crop and target size of each row, [rows, 6], which SDXL reads beside.</summary>
    public Tensor? Sizes { get; init; }
}

/// <summary>The UNet of Stable Diffusion 1, 2 and XL (Rombach et al. 2022; Podell et al. 2023), as diffusers lists it.</summary>
public sealed class UNet2DConditionModel : PretrainedModel
{
    // What a training step keeps until its backward pass is needed again in the next step.
    private const long TrainingWorthBytes = 256L << 20;

    private readonly UNetConfig _config;
    private readonly Convolution _input;
    private readonly TimestepEmbedding _time;
    private readonly TimestepEmbedding? _added;
    private readonly ModuleList<UNetDownBlock> _down;
    private readonly UNetMiddle _middle;
    private readonly ModuleList<UNetUpBlock> _up;
    private readonly GroupNorm _outputNorm;
    private readonly Convolution _output;

    /// <summary>Makes the structure.</summary>
    /// <param name="source">diffusers' <c>config.json</c>.</param>
    /// <exception cref="PeftException"><c>ModelConfigInvalid</c> or <c>ModelConfigIncomplete</c>.</exception>
    /// <exception cref="NotSupportedByPeftException"><c>ArchitectureNotSupported</c>: a UNet of another kind.</exception>
    public UNet2DConditionModel(ModelConfig source)
        : base(source, "UNet2DConditionModel")
    {
        var config = _config = new UNetConfig(source);
        var channels = config.Channels;
        _input = Add("conv_in", new Convolution(config.InputChannels, channels[0], [3, 3], new ConvolutionShape(Padding: 1)));
        Add("time_proj", new Placeholder("Timesteps"));
        _time = Add("time_embedding", new TimestepEmbedding(channels[0], config.TimeWidth));
        if (config.AddedTimeWidth is not null)
        {
            Add("add_time_proj", new Placeholder("Timesteps"));
            _added = Add("add_embedding", new TimestepEmbedding(config.AddedWidth, config.TimeWidth));
        }

        _down = Add("down_blocks", new ModuleList<UNetDownBlock>(channels.Select((_, i) => new UNetDownBlock(config, i))));
        _up = Add("up_blocks", new ModuleList<UNetUpBlock>(channels.Select((_, i) => new UNetUpBlock(config, i))));
        _middle = Add("mid_block", new UNetMiddle(config));
        _outputNorm = Add("conv_norm_out", new GroupNorm(config.Groups, channels[0], config.Epsilon));
        Add("conv_act", new Activation("silu", "SiLU"));
        _output = Add("conv_out", new Convolution(channels[0], config.OutputChannels, [3, 3], new ConvolutionShape(Padding: 1)));
        foreach (var convolution in Descendants().OfType<Convolution>())
        {
            convolution.IsByPosition = true;
        }
    }

    /// <summary>Channels that the sample has to have: latents, and for inpainting a mask and a masked image behind them.</summary>
    public long InputChannels => _config.InputChannels;

    /// <summary>Width of the texts that it reads.</summary>
    public long TextWidth => _config.CrossWidths[0];

    /// <summary>Whether it reads the pooled text and sizes as well, as SDXL does.</summary>
    public bool ReadsSizes => _added is not null;

    /// <summary>The model's estimate for a noised sample, of the sample's height and width.</summary>
    /// <param name="inputs">What it reads.</param>
    /// <param name="context">The forward pass; rows and lengths are the inputs'.</param>
    /// <returns>[rows, channels, height, width].</returns>
    /// <exception cref="PeftException"><c>TextMissing</c> or <c>SizesMissing</c>: SDXL without pooled text and sizes; <c>ShapeMismatch</c>.</exception>
    public Tensor Forward(UNetInputs inputs, ForwardContext context)
    {
        ArgumentNullException.ThrowIfNull(inputs);
        ArgumentNullException.ThrowIfNull(context);
        FreedMemory.GiveBackGrowth(context.Tape is null ? FreedMemory.WorthBytes : TrainingWorthBytes);
        using var scope = NewDisposeScope();
        context = context with { Rows = inputs.Sample.size(0) };
        var pass = new UNetPass(Time(inputs, context), inputs.Text, inputs.TextMask);
        var x = _input.Forward(Pixels.ByPosition(inputs.Sample, context), context);
        var skips = new Stack<Tensor>([x]);
        foreach (var block in _down.Items)
        {
            foreach (var output in block.Forward(x, pass, context))
            {
                skips.Push(x = output);
            }
        }

        x = _middle.Forward(x, pass, context);
        foreach (var block in _up.Items)
        {
            x = block.Forward(x, skips, pass, context);
        }

        return Pixels.ByChannel(ResnetBlock2D.Convolved(_outputNorm, null, _output, x, context), context).MoveToOuterDisposeScope();
    }

    private Tensor Time(UNetInputs inputs, ForwardContext context)
    {
        var (sample, channels) = (inputs.Sample, _config.Channels[0]);
        var times = inputs.Timesteps.reshape(-1).expand(context.Rows);
        var embedded = _time.Forward(Sinusoids(times, channels, sample, context), context);
        if (_added is not null)
        {
            if (inputs.PooledText is not { } pooled || inputs.Sizes is not { } sizes)
            {
                throw new PeftException("SizesMissing", "This UNet reads the pooled text and the sizes of the image as well, and was not given them.");
            }

            var each = Sinusoids(sizes.reshape(-1), _config.AddedTimeWidth!.Value, sample, context: null).view(context.Rows, -1);
            context.Tape?.AddRoot(each);
            embedded = ResidualSum.Forward(embedded, _added.Forward(Concatenation.Forward([pooled, each], context), context), context);
        }

        // All resnets read it through the same activation.
        return ParameterTensor.Run(static given => given[0].silu(), [embedded], [], context);
    }

    /// <summary>Sines and cosines of times at falling frequencies (Vaswani et al. 2017), [times, width].</summary>
    private Tensor Sinusoids(Tensor times, long width, Tensor like, ForwardContext? context)
    {
        const double LongestPeriod = 10000;
        using var scope = NewDisposeScope();
        var half = width / 2;
        var frequencies = arange(half, ScalarType.Float32, like.device).mul(-Math.Log(LongestPeriod) / (half - _config.FrequencyShift)).exp();
        var angles = times.to(ScalarType.Float32).to(like.device).unsqueeze(1).mul(frequencies.unsqueeze(0));
        var values = _config.CosineFirst ? cat([angles.cos(), angles.sin()], 1) : cat([angles.sin(), angles.cos()], 1);
        values = (width % 2 == 0 ? values : nn.functional.pad(values, [0, 1])).to(like.dtype);
        context?.Tape?.AddRoot(values);
        return values.MoveToOuterDisposeScope();
    }
}

/// <summary>Two layers that make a vector of a time's sinusoids.</summary>
internal sealed class TimestepEmbedding : Module
{
    private readonly Linear _first;
    private readonly Activation _activation;
    private readonly Linear _second;

    public TimestepEmbedding(long inputs, long width)
    {
        _first = Add("linear_1", new Linear(inputs, width, hasBias: true));
        _activation = Add("act", new Activation("silu", "SiLU"));
        _second = Add("linear_2", new Linear(width, width, hasBias: true));
    }

    public Tensor Forward(Tensor x, ForwardContext context) => _second.Forward(_activation.Forward(_first.Forward(x, context), context), context);
}

/// <summary>Resnets, each with a transformer behind it where the block has attention, as one step that can be recomputed.</summary>
internal static class UNetStep
{
    public static Tensor Run(ResnetBlock2D resnet, Transformer2DModel? transformer, Tensor x, UNetPass pass, ForwardContext context)
    {
        context.Cancellation.ThrowIfCancellationRequested();
        if (context is not { Checkpointing: true, Tape: { } tape })
        {
            return Step(x, pass, context);
        }

        var text = pass.Text;
        return tape.Checkpoint(
            (values, inner) => [Step(values[0], pass with { Time = values[1], Text = text is null ? null : text with { Hidden = values[2] } }, inner)],
            text is null ? [x, pass.Time!] : [x, pass.Time!, text.Hidden],
            context,
            DecoderStack.Trains(resnet, context) || (transformer is not null && DecoderStack.Trains(transformer, context)))[0];

        Tensor Step(Tensor given, UNetPass own, ForwardContext inner)
        {
            using var scope = NewDisposeScope();
            var y = resnet.Forward(given, own, inner);
            return (transformer?.Forward(y, own, inner) ?? y).MoveToOuterDisposeScope();
        }
    }
}

/// <summary>A block on the way down.</summary>
internal sealed class UNetDownBlock : Module
{
    private readonly ModuleList<ResnetBlock2D> _resnets;
    private readonly ModuleList<Transformer2DModel>? _attentions;
    private readonly ModuleList<Downsample2D>? _downsamplers;

    public UNetDownBlock(UNetConfig config, int index)
        : base(config.DownHaveAttention[index] ? "CrossAttnDownBlock2D" : "DownBlock2D")
    {
        var (width, layers) = (config.Channels[index], (int)config.LayersPerBlock[index]);
        _attentions = config.DownHaveAttention[index]
            ? Add("attentions", new ModuleList<Transformer2DModel>(Enumerable.Range(0, layers).Select(_ =>
                new Transformer2DModel(config, width, config.Heads[index], config.CrossWidths[index], config.Transformers[index]))))
            : null;
        _resnets = Add("resnets", new ModuleList<ResnetBlock2D>(Enumerable.Range(0, layers).Select(i => new ResnetBlock2D(
            i > 0 ? width : config.Channels[Math.Max(0, index - 1)], width, config.TimeWidth, (config.Groups, config.Epsilon), config.DropoutRate, config.OutputScale))));
        _downsamplers = index < config.Channels.Count - 1 ? Add("downsamplers", new ModuleList<Downsample2D>([new Downsample2D(width)])) : null;
    }

    /// <summary>What each step gave, which the way up reads again; the last goes on.</summary>
    public IEnumerable<Tensor> Forward(Tensor x, UNetPass pass, ForwardContext context)
    {
        for (var i = 0; i < _resnets.Items.Count; i++)
        {
            yield return x = UNetStep.Run(_resnets.Items[i], _attentions?.Items[i], x, pass, context);
        }

        if (_downsamplers is not null)
        {
            yield return _downsamplers.Items[0].Forward(x, context);
        }
    }
}

/// <summary>The block at the bottom.</summary>
internal sealed class UNetMiddle : Module
{
    private readonly ModuleList<Transformer2DModel> _attentions;
    private readonly ModuleList<ResnetBlock2D> _resnets;

    public UNetMiddle(UNetConfig config)
        : base("UNetMidBlock2DCrossAttn")
    {
        var width = config.Channels[^1];
        _attentions = Add("attentions", new ModuleList<Transformer2DModel>(
            [new Transformer2DModel(config, width, config.Heads[^1], config.CrossWidths[^1], config.Transformers[^1])]));
        _resnets = Add("resnets", new ModuleList<ResnetBlock2D>(Enumerable.Range(0, 2).Select(_ => new ResnetBlock2D(
            width, width, config.TimeWidth, (config.Groups, config.Epsilon), config.DropoutRate, config.MiddleScale))));
    }

    public Tensor Forward(Tensor x, UNetPass pass, ForwardContext context)
    {
        using var between = UNetStep.Run(_resnets.Items[0], _attentions.Items[0], x, pass, context);
        return UNetStep.Run(_resnets.Items[1], null, between, pass, context);
    }
}

/// <summary>A block on the way up, which reads beside its input what the way down gave at the same height.</summary>
internal sealed class UNetUpBlock : Module
{
    private readonly ModuleList<ResnetBlock2D> _resnets;
    private readonly ModuleList<Transformer2DModel>? _attentions;
    private readonly ModuleList<Upsample2D>? _upsamplers;

    public UNetUpBlock(UNetConfig config, int index)
        : base(config.UpHaveAttention[index] ? "CrossAttnUpBlock2D" : "UpBlock2D")
    {
        var count = config.Channels.Count;
        var at = count - 1 - index;
        var (width, layers) = (config.Channels[at], (int)config.LayersPerBlock[at] + 1);
        _attentions = config.UpHaveAttention[index]
            ? Add("attentions", new ModuleList<Transformer2DModel>(Enumerable.Range(0, layers).Select(_ =>
                new Transformer2DModel(config, width, config.Heads[at], config.CrossWidths[at], config.UpTransformers[index]))))
            : null;
        _resnets = Add("resnets", new ModuleList<ResnetBlock2D>(Enumerable.Range(0, layers).Select(i => new ResnetBlock2D(
            (i > 0 ? width : config.Channels[Math.Min(count - 1, at + 1)]) + (i < layers - 1 ? width : config.Channels[Math.Max(0, at - 1)]),
            width,
            config.TimeWidth,
            (config.Groups, config.Epsilon),
            config.DropoutRate,
            config.OutputScale))));
        _upsamplers = index < count - 1 ? Add("upsamplers", new ModuleList<Upsample2D>([new Upsample2D(width)])) : null;
    }

    /// <summary>Runs the block.</summary>
    /// <param name="x">From below; freed, as the skips are, which the block alone reads from here on.</param>
    /// <param name="skips">What the way down gave, the last on top; the block takes what is its own.</param>
    /// <param name="pass">What is read beside.</param>
    /// <param name="context">The forward pass.</param>
    public Tensor Forward(Tensor x, Stack<Tensor> skips, UNetPass pass, ForwardContext context)
    {
        for (var i = 0; i < _resnets.Items.Count; i++)
        {
            using var before = x;
            using var skip = skips.Pop();
            using var both = Concatenation.Forward([before, skip], context);
            x = UNetStep.Run(_resnets.Items[i], _attentions?.Items[i], both, pass, context);
        }

        // Of the size of what comes next, which is odd where the sample's size can't be halved evenly.
        if (_upsamplers is null)
        {
            return x;
        }

        using var small = x;
        return _upsamplers.Items[0].Forward(small, (skips.Peek().size(2), skips.Peek().size(3)), context);
    }
}
