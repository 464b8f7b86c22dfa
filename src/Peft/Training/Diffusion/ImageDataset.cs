using System.Globalization;
using System.Security.Cryptography;
using System.Text;
using Peft.Adapters.Methods.TextualInversion;
using Peft.Adapters.Model;
using Peft.Diffusion;
using Peft.Images;
using Peft.Models;
using Peft.Training.Data;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Training.Diffusion;

/// <summary>
/// Images with captions, ready for a diffusion model: their latents are computed once, and what the text encoders make of the captions too, unless these are trained.
/// </summary>
public sealed class ImageDataset : ITrainingData, IDisposable
{
    private readonly List<LearntImage> _images = [];
    private readonly List<LearntImage> _priors = [];
    private readonly Dictionary<string, Caption> _captions = new(StringComparer.Ordinal);
    private readonly ILatentDiffusion _model;
    private readonly PeftModel _peft;
    private readonly DiffusionOptions _options;
    private readonly bool _asksEncoders;
    private readonly EncoderCache? _cache;
    private readonly AdapterSelection _learning;
    private readonly IncrementalHash _hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);

    private ImageDataset(PeftModel model, DiffusionOptions options, bool asksEncoders, AdapterSelection learning, EncoderCacheOptions? cache)
    {
        _peft = model;
        _model = model.Base as ILatentDiffusion ?? throw new NotSupportedByPeftException("ImagesNotSupported", $"Images with captions are for diffusion models; '{model.Name}' is a {model.Base.ClassName}.")
        {
            Target = model.Name,
            RecommendedAction = "Import a diffusion model, or give the model a data set of texts.",
        };
        (_options, _asksEncoders, _learning) = (options, asksEncoders, learning);
        _cache = cache is null ? null : new EncoderCache(cache, model, _model);
    }

    /// <inheritdoc/>
    public int Count => _images.Count;

    /// <inheritdoc/>
    public string Fingerprint { get; private set; } = "";

    /// <inheritdoc/>
    public ExampleKind ExampleKind => ExampleKind.Image;

    /// <inheritdoc/>
    public IReadOnlyList<int>? Shapes { get; private set; }

    /// <inheritdoc/>
    public IReadOnlyList<string> Messages { get; private set; } = [];

    /// <summary>Latents and captions that were read from the cache; 0 without one.</summary>
    public int Cached => _cache?.Found ?? 0;

    /// <summary>Latents and captions that were computed, for the cache hadn't got them; 0 without one.</summary>
    public int Computed => _cache?.Missing ?? 0;

    /// <summary>Reads the images of a data set and computes their latents. The model is held for the time.</summary>
    /// <param name="data">Rows of the kind <see cref="RowKind.Image"/>.</param>
    /// <param name="model">The model.</param>
    /// <param name="options">The training's, with what diffusion models have beside in <see cref="TrainingOptions.ObjectiveOptions"/>.</param>
    /// <param name="adapterName">The adapter that learns; null for the base. Where it has parts in a text encoder, captions are read in every step.</param>
    /// <param name="onProgress">Hears how many images are read.</param>
    /// <param name="cache">Where latents and encoded captions are kept for other trainings; null for nowhere.</param>
    /// <param name="cancellation">Stops between images.</param>
    /// <exception cref="PeftException">As <see cref="ImageFile.Read"/>, <c>DatasetRowInvalid</c>, <c>DatasetEmpty</c> where there are only images that keep the class, or as <see cref="Files.AtomicFile.Write"/> where the cache can't be written.</exception>
    /// <exception cref="NotSupportedByPeftException"><c>ImagesNotSupported</c>, or <c>DatasetKindUnfit</c>.</exception>
    public static ImageDataset Read(TrainingDataset data, PeftModel model, TrainingOptions options, string? adapterName, Action<int>? onProgress = null, EncoderCacheOptions? cache = null, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(data);
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(options);
        using var held = model.Acquire("reading images");
        var diffusion = model.Base as ILatentDiffusion;
        var trainsText = adapterName is null || model[adapterName].TrainableParameters.Any(parameter => parameter.Module is { } module && diffusion?.IsOfTextEncoder(module.Path) == true);
        var result = new ImageDataset(model, DiffusionOptions.Of(new NamedOptions("training", options.ObjectiveOptions)), trainsText, adapterName is null ? AdapterSelection.Base : AdapterSelection.Of(adapterName), cache);
        try
        {
            result.Read(data, onProgress, cancellation);
            result.RequireWord(adapterName is null ? null : model[adapterName].Config as TextualInversionConfig);
            return result;
        }
        catch
        {
            result.Dispose();
            throw;
        }
    }

    /// <inheritdoc/>
    public TrainingBatch Collate(IReadOnlyList<int> rows, Device device)
    {
        ArgumentNullException.ThrowIfNull(rows);
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        LearntImage[] own = [.. rows.Select(row => _images[row])];

        // Images that keep the class take their turns, in the size of the others.
        LearntImage[] prior = _priors.Count == 0 ? [] : [.. rows.Select(row => PriorFor(row))];
        LearntImage[] all = [.. own, .. prior];
        Caption[] captions = [.. all.Select(image => _captions[image.Text])];
        var encoders = captions[0].Ids.Count;
        var ids = Enumerable.Range(0, encoders).Select(encoder => cat([.. captions.Select(caption => caption.Ids[encoder])]).to(device)).ToArray();
        var empty = _captions.GetValueOrDefault("");
        var batch = new DiffusionBatch(ids[0], cat([.. all.Select(static image => image.Mean)]).to(device))
        {
            MoreIds = ids[1..],
            Deviations = cat([.. all.Select(static image => image.Deviation)]).to(device),
            Text = captions[0].States is null ? null : Joined(captions, device),
            EmptyText = empty?.States is null ? null : Joined([empty], device),
            EmptyIds = empty is null ? [] : [.. empty.Ids.Select(tokens => tokens.to(device, copy: true))],
            Sizes = _model.ReadsSizes ? stack([.. all.Select(static image => tensor(image.Sizes))]).to(device) : null,
            PriorRows = prior.Length,
            TokenCount = all.Length,
            TargetCount = all.Length,
        };
        foreach (var kept in new[] { batch.Latents, batch.Deviations, batch.Text?.States, batch.Text?.Pooled, batch.EmptyText?.States, batch.EmptyText?.Pooled, batch.Sizes }.Concat(batch.Ids).Concat(batch.EmptyIds))
        {
            kept?.MoveToOuterDisposeScope();
        }

        return batch;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (var image in _images.Concat(_priors))
        {
            image.Mean.Dispose();
            image.Deviation.Dispose();
        }

        foreach (var tensor in _captions.Values.SelectMany(static caption => caption.Ids.Append(caption.States?.States).Append(caption.States?.Pooled)))
        {
            tensor?.Dispose();
        }

        _captions.Clear();
        _hash.Dispose();
    }

    private LearntImage PriorFor(int row)
    {
        var shape = Shapes![row];
        var fitting = _priors.Where(image => image.Shape == shape).ToArray();
        return fitting.Length > 0 ? fitting[row % fitting.Length] : throw new PeftException("ImageSizesDiffer", "No image that keeps the class has the shape of one that is learnt, so that they can't share a batch.")
        {
            RecommendedAction = "Cut all images to squares (center_crop), or give images of the class in the same shapes.",
        };
    }

    private void Read(TrainingDataset data, Action<int>? onProgress, CancellationToken cancellation)
    {
        if (data.Columns.Kind != RowKind.Image)
        {
            throw new NotSupportedByPeftException("DatasetKindUnfit", $"A diffusion model learns from images with captions; the rows of '{data.Origin}' are {data.Columns.Kind}.")
            {
                Target = data.Origin,
                RecommendedAction = "Give a folder of images, or rows with the columns image and text.",
            };
        }

        var step = _model.SizeStep;
        var buckets = new AspectBuckets(_options.Resolution ?? _model.NativeSize, step, _options.CenterCrop);
        using var noGrad = no_grad();
        for (var i = 0; i < data.Count; i++)
        {
            cancellation.ThrowIfCancellationRequested();
            var row = data.Rows[i];
            var text = row.Text(data.Columns[ColumnRole.Text]!);
            var isPrior = data.Columns[ColumnRole.Prior] is { } column && row.Truth(column);
            var image = ImageFile.Read(ImageFolder.PathOf(row, data.Columns[ColumnRole.Image]!));
            ReadCaption(text);
            foreach (var shown in _options.RandomFlip ? [image, image.Mirror()] : new[] { image })
            {
                (isPrior ? _priors : _images).Add(Encode(shown, text, buckets));
            }

            onProgress?.Invoke(i + 1);
        }

        if (_options.CaptionDropout > 0)
        {
            ReadCaption("");
        }

        Finish(data, buckets);
    }

    /// <summary>A word that no caption has is never read, so that nothing would be learnt.</summary>
    private void RequireWord(TextualInversionConfig? inversion)
    {
        if (inversion is { Token: { } token } && !_captions.Keys.Any(text => text.Contains(token, StringComparison.OrdinalIgnoreCase)))
        {
            throw new PeftException("PlaceholderTokenUnused", $"No caption has the word '{token}', which stands for what is learnt.")
            {
                Target = token,
                RecommendedAction = $"Write captions with it, or give all images one, such as Import-TrainingDataset -InstancePrompt 'a photo of {token}'.",
            };
        }
    }

    private void Finish(TrainingDataset data, AspectBuckets buckets)
    {
        if (_images.Count == 0)
        {
            throw new PeftException("DatasetEmpty", $"'{data.Origin}' has no image to learn, only such that keep a class.") { Target = data.Origin, RecommendedAction = "Give images to learn as well." };
        }

        Shapes = [.. _images.Select(static image => image.Shape)];
        _hash.AppendData(Encoding.UTF8.GetBytes(_options with { NoiseOffset = 0, SnrGamma = null, PriorLossWeight = 0 } + ""));
        Fingerprint = Convert.ToHexStringLower(_hash.GetCurrentHash());
        var sizes = string.Join(", ", _images.GroupBy(static image => image.Shape).Select(group => string.Create(CultureInfo.InvariantCulture, $"{group.Count() / (_options.RandomFlip ? 2 : 1)} of {buckets.Sizes[group.Key].Width} x {buckets.Sizes[group.Key].Height}")));
        Messages = _images.Select(static image => image.Shape).Distinct().Count() > 1 ? [$"The images were cut to several sizes: {sizes}."] : [];
    }

    private LearntImage Encode(PixelImage image, string text, AspectBuckets buckets)
    {
        using var scope = NewDisposeScope();
        var size = buckets.For(image.Width, image.Height);
        var cut = image.Cover(size.Width, size.Height);
        _hash.AppendData(Encoding.UTF8.GetBytes(text));
        _hash.AppendData(cut.Pixels);
        var (mean, deviation) = _cache?.LatentsOf(cut, () => LatentsOf(cut)) ?? LatentsOf(cut);
        return new(
            Array.IndexOf([.. buckets.Sizes], size), text, mean.MoveToOuterDisposeScope(), deviation.MoveToOuterDisposeScope(),
            [image.Height, image.Width, 0, 0, size.Height, size.Width]);
    }

    private (Tensor Mean, Tensor Deviation) LatentsOf(PixelImage cut)
    {
        var (mean, deviation) = _model.EncodeImages(cut.ToTensor().unsqueeze(0).to(_peft.DataType).to(_peft.Device));
        return (mean.to(ScalarType.Float32).cpu(), deviation.to(ScalarType.Float32).cpu());
    }

    private void ReadCaption(string text)
    {
        if (_captions.ContainsKey(text))
        {
            return;
        }

        using var scope = NewDisposeScope();
        Tensor[] ids = [.. _model.Tokenize(text, _learning).Select(static tokens => tokens.cpu().MoveToOuterDisposeScope())];
        TextCondition? states = null;
        if (!_asksEncoders)
        {
            var read = _cache?.TextOf(ids, () => TextOf(ids)) ?? TextOf(ids);
            states = new(read.States.MoveToOuterDisposeScope(), read.Pooled?.MoveToOuterDisposeScope());
        }

        _captions[text] = new(ids, states);
    }

    private TextCondition TextOf(IReadOnlyList<Tensor> ids)
    {
        var read = _model.EncodeText([.. ids.Select(tokens => tokens.to(_peft.Device))], new ForwardContext { Selection = AdapterSelection.Base, Rows = 1, Length = ids[0].size(1) });
        return new(read.States.cpu(), read.Pooled?.cpu());
    }

    private static TextCondition Joined(Caption[] captions, Device device) => new(
        cat([.. captions.Select(static caption => caption.States!.States)]).to(device),
        captions[0].States!.Pooled is null ? null : cat([.. captions.Select(static caption => caption.States!.Pooled!)]).to(device));

    private sealed record LearntImage(int Shape, string Text, Tensor Mean, Tensor Deviation, float[] Sizes);

    private sealed record Caption(IReadOnlyList<Tensor> Ids, TextCondition? States);
}
