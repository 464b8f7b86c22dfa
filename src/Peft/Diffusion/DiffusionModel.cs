using Peft.Diffusion.Models;
using Peft.Diffusion.Schedulers;
using Peft.Models;
using Peft.Tensors;
using Peft.Tokenization;
using static TorchSharp.torch;

namespace Peft.Diffusion;

/// <summary>
/// A whole Stable Diffusion model: UNet, text encoders, autoencoder, tokenizers and noise schedule, as one model.
/// </summary>
/// <remarks>
/// A model of several models is a model whose children are models: <c>unet</c>, <c>text_encoder</c>, <c>text_encoder_2</c> and <c>vae</c> stand in one tree
/// under the names of diffusers' folders, each with its own configuration and its own names in files. So everything that works on a tree (listing modules,
/// counting, targets, slots, merging, freeing) works on the whole without knowing of parts, and one adapter can act on the UNet and the text encoders
/// at once, by paths such as <c>unet.mid_block.attentions.0…to_q</c>, which are the prefixes that adapter files have. Only loading, saving and the
/// pass itself go part by part. The autoencoder isn't adapted: it codes pixels, and what <c>to_q</c> means is the UNet's.
/// </remarks>
public sealed partial class DiffusionModel : PretrainedModel, ILatentDiffusion
{
    /// <summary>Name of the part that denoises.</summary>
    public const string UNetName = "unet";

    /// <summary>Name of the part that codes images.</summary>
    public const string AutoencoderName = "vae";

    private readonly List<(string Name, PretrainedModel Part)> _parts = [];

    /// <summary>Puts parts together.</summary>
    /// <param name="index">What <c>model_index.json</c> says.</param>
    /// <param name="parts">The parts by the names of their folders; disposed together with this.</param>
    /// <param name="scheduler">The noise schedule.</param>
    /// <param name="tokenizers">The tokenizers by the names of their folders.</param>
    /// <exception cref="PeftException"><c>ModelPartMissing</c> or <c>CheckpointMixed</c>: the parts aren't of one model.</exception>
    public DiffusionModel(
        ModelConfig index, IEnumerable<(string Name, PretrainedModel Part)> parts, SchedulerConfig scheduler, IReadOnlyDictionary<string, Tokenizer> tokenizers)
        : base(index, (index ?? throw new ArgumentNullException(nameof(index))).String("_class_name") ?? "StableDiffusionPipeline")
    {
        ArgumentNullException.ThrowIfNull(parts);
        foreach (var (name, part) in parts)
        {
            _parts.Add((name, Add(name, part)));
        }

        (SchedulerConfig, Tokenizers) = (scheduler, tokenizers);
        UNet = Part<UNet2DConditionModel>(UNetName);
        Autoencoder = Part<AutoencoderKL>(AutoencoderName);
        TextEncoders = [.. _parts.Where(static part => part.Part is not (UNet2DConditionModel or AutoencoderKL)).Select(static part => part.Part)];
        var width = TextEncoders.Sum(static encoder => encoder.Backbone.Width);
        if (width != UNet.TextWidth)
        {
            throw new PeftException("CheckpointMixed", FormattableString.Invariant($"The parts are of different models: the UNet reads texts of width {UNet.TextWidth}, and the text encoders give {width}.")) { Target = UNetName };
        }
    }

    /// <summary>The parts, by the names of their folders.</summary>
    public IReadOnlyList<(string Name, PretrainedModel Part)> Parts => _parts;

    /// <summary>What denoises.</summary>
    public UNet2DConditionModel UNet { get; }

    /// <summary>What codes images.</summary>
    public AutoencoderKL Autoencoder { get; }

    /// <summary>What reads texts: one, in SDXL two.</summary>
    public IReadOnlyList<PretrainedModel> TextEncoders { get; }

    /// <summary>The noise schedule that the model was published with.</summary>
    public SchedulerConfig SchedulerConfig { get; }

    /// <summary>The tokenizers, by the names of their folders: <c>tokenizer</c>, <c>tokenizer_2</c>. A single file has none of its own.</summary>
    public IReadOnlyDictionary<string, Tokenizer> Tokenizers { get; }

    /// <summary>Whether it is Stable Diffusion XL: its UNet reads the pooled text and sizes as well.</summary>
    public bool IsLarge => UNet.ReadsSizes;

    /// <inheritdoc/>
    public override IEnumerable<Module> AdaptableModules => [this, .. _parts.Where(part => part.Part != Autoencoder).SelectMany(static part => part.Part.Descendants())];

    /// <summary>The tokenizer of a text encoder.</summary>
    /// <param name="encoder">Which of the encoders, counted from 0.</param>
    /// <exception cref="PeftException"><c>TokenizerMissing</c>.</exception>
    public Tokenizer TokenizerOf(int encoder)
    {
        var name = encoder == 0 ? "tokenizer" : FormattableString.Invariant($"tokenizer_{encoder + 1}");
        return Tokenizers.GetValueOrDefault(name) ?? throw new PeftException("TokenizerMissing", $"The model has no '{name}', which its text encoder needs.")
        {
            Target = name,
            RecommendedAction = "A checkpoint in one file holds none: import it with -ConfigPath and the model's folder in diffusers' layout, or put a folder of this name beside the file.",
        };
    }

    /// <inheritdoc/>
    internal override IReadOnlyList<int>? TokensOf(Module table, string text)
    {
        var encoder = Enumerable.Range(0, TextEncoders.Count).Cast<int?>().FirstOrDefault(i => TextEncoders[i!.Value].Backbone.TokenEmbeddings == table);
        return encoder is { } index ? TokenizerOf(index).Encode(text, addSpecialTokens: false).Ids : null;
    }

    /// <inheritdoc/>
    internal override IReadOnlyList<string> SaveTo(string path, CompanionFiles? companions, ScalarType? dataType, long maxShardBytes, Action<long, long>? onProgress, CancellationToken cancellation) =>
        DiffusionModelFiles.Save(this, path, dataType, maxShardBytes, onProgress, cancellation);

    /// <inheritdoc/>
    public override bool IsSavedAsFile(string path) => DiffusionModelFiles.IsCheckpoint(path);

    private T Part<T>(string name)
        where T : PretrainedModel => _parts.Find(part => part.Name == name).Part as T
            ?? throw new PeftException("ModelPartMissing", $"A diffusion model has a part '{name}' ({typeof(T).Name}), and this one hasn't.") { Target = name };
}
