using Peft.Diffusion.Models;
using Peft.Diffusion.Prompts;
using Peft.Models;
using Peft.Models.Architectures;
using Peft.Models.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Diffusion;

/// <content>The passes of a training, on its tape.</content>
public sealed partial class DiffusionModel
{
    private const string TextEncoderName = "text_encoder";

    /// <inheritdoc/>
    public int SizeStep => (int)Autoencoder.Reduction;

    /// <inheritdoc/>
    public int NativeSize => (int)(UNet.Config.Size("sample_size", 64) * Autoencoder.Reduction);

    /// <inheritdoc/>
    public bool ReadsSizes => IsLarge;

    /// <inheritdoc/>
    public bool IsOfTextEncoder(string path)
    {
        ArgumentNullException.ThrowIfNull(path);
        return path.StartsWith(TextEncoderName, StringComparison.Ordinal);
    }

    /// <inheritdoc/>
    public bool IsOfImageEncoder(string path)
    {
        ArgumentNullException.ThrowIfNull(path);
        return path.StartsWith(AutoencoderName, StringComparison.Ordinal);
    }

    /// <inheritdoc/>
    public IReadOnlyList<Tensor> Tokenize(string prompt, AdapterSelection? selection = null) =>
    [
        .. Enumerable.Range(0, TextEncoders.Count)
            .Select(i => PromptTokens.Of(TokenizerOf(i), prompt, TextLength(i), weighs: false, chunks: 1, words: PromptWords.Of(TextEncoders[i], selection)).ToTensor(Device)),
    ];

    /// <inheritdoc/>
    public TextCondition EncodeText(IReadOnlyList<Tensor> ids, ForwardContext context)
    {
        ArgumentNullException.ThrowIfNull(ids);
        ArgumentNullException.ThrowIfNull(context);
        using var scope = NewDisposeScope();
        List<Tensor> states = [];
        Tensor? pooled = null;
        for (var i = 0; i < TextEncoders.Count; i++)
        {
            var output = TextEncoders[i].Forward(ids[i], context with { KeepsHiddenStates = IsLarge });
            states.Add(IsLarge ? output.HiddenStates![^2] : output.Hidden);
            pooled = TextEncoders[i] is ClipTextProjectionModel projected ? projected.Project(output, output.In(context)) : pooled;
        }

        var joined = states.Count == 1 ? states[0] : Concatenation.Forward([.. states], context);
        var (rows, length) = (ids[0].size(0), ids[0].size(1));
        return new TextCondition(
            ParameterTensor.Run(given => given[0].view(rows, length, -1), [joined], [], context).MoveToOuterDisposeScope(),
            pooled?.MoveToOuterDisposeScope());
    }

    /// <inheritdoc/>
    public (Tensor Mean, Tensor Deviation) EncodeImages(Tensor pixels)
    {
        ArgumentNullException.ThrowIfNull(pixels);
        using var scope = NewDisposeScope();
        var latents = Autoencoder.Encode(pixels.to(Autoencoder.DataType), new ForwardContext());
        return (
            latents.Mean.to(ScalarType.Float32).sub(Autoencoder.ShiftFactor).mul(Autoencoder.ScalingFactor).MoveToOuterDisposeScope(),
            latents.Deviation.to(ScalarType.Float32).mul(Autoencoder.ScalingFactor).MoveToOuterDisposeScope());
    }

    /// <inheritdoc/>
    public Tensor Predict(Tensor latents, IReadOnlyList<double> timesteps, TextCondition text, Tensor? sizes, ForwardContext context)
    {
        ArgumentNullException.ThrowIfNull(latents);
        ArgumentNullException.ThrowIfNull(text);
        ArgumentNullException.ThrowIfNull(context);
        using var scope = NewDisposeScope();
        var (rows, length) = (text.States.size(0), text.States.size(1));
        var states = ParameterTensor.Run(static given => given[0].reshape(-1, given[0].size(2)), [text.States], [], context);
        var times = tensor([.. timesteps.Select(static time => (float)time)], ScalarType.Float32, latents.device);
        return UNet.Forward(
            new UNetInputs(latents, times, new BackboneOutput(states, rows, length)) { PooledText = text.Pooled, Sizes = sizes },
            context with { Noise = new NoiseTimes(timesteps, SchedulerConfig.TrainTimesteps) }).MoveToOuterDisposeScope();
    }

    /// <summary>Tokens that a text encoder reads at once.</summary>
    internal int TextLength(int encoder) => (int)TextEncoders[encoder].Config.Size("max_position_embeddings", 77);
}
