using System.Security.Cryptography;
using System.Text;
using Peft.Adapters.Model;
using Peft.Images;
using Peft.Models.Heads;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Training.Data;

/// <summary>Images with a class each, ready for a vision encoder: in its size, as bytes until a batch needs them.</summary>
public sealed class ImageClassDataset : ITrainingData
{
    private readonly List<(PixelImage Image, RowTarget Target)> _rows = [];
    private readonly ImagePreprocessing _preprocessing;
    private readonly long _positions;

    private ImageClassDataset(PeftModel model)
    {
        (_preprocessing, _positions) = (ImagePreprocessing.Of(model.Base), model.Base.Backbone.Image!.Positions);
        Labels = ModelLabels.Of(model.Base);
    }

    /// <inheritdoc/>
    public int Count => _rows.Count;

    /// <inheritdoc/>
    public string Fingerprint { get; private set; } = "";

    /// <inheritdoc/>
    public ExampleKind ExampleKind => ExampleKind.Classified;

    /// <summary>The model's classes.</summary>
    public ModelLabels Labels { get; }

    /// <summary>Whether a model reads images and classifies them.</summary>
    /// <param name="model">The model.</param>
    public static bool AreFor(PeftModel model)
    {
        ArgumentNullException.ThrowIfNull(model);
        return model.Base is ImageClassificationModel;
    }

    /// <summary>Reads the images of a data set.</summary>
    /// <param name="data">Rows of the kind <see cref="RowKind.ImageClass"/>.</param>
    /// <param name="model">The model.</param>
    /// <param name="onProgress">Hears how many images are read.</param>
    /// <param name="cancellation">Stops between images.</param>
    /// <exception cref="PeftException">As <see cref="ImageFile.Read"/>, or <c>DatasetRowInvalid</c>: the class is none of the model's.</exception>
    /// <exception cref="NotSupportedByPeftException"><c>DatasetKindUnfit</c>.</exception>
    public static ImageClassDataset Read(TrainingDataset data, PeftModel model, Action<int>? onProgress = null, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(data);
        ArgumentNullException.ThrowIfNull(model);
        if (data.Columns.Kind != RowKind.ImageClass)
        {
            throw new NotSupportedByPeftException("DatasetKindUnfit", $"A model that classifies images learns from images with classes; the rows of '{data.Origin}' are {data.Columns.Kind}.")
            {
                Target = data.Origin,
                RecommendedAction = "Give a folder that has a folder of images for each class, or rows with the columns image and label.",
            };
        }

        var result = new ImageClassDataset(model);
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        for (var i = 0; i < data.Count; i++)
        {
            cancellation.ThrowIfCancellationRequested();
            var row = data.Rows[i];
            var image = result._preprocessing.Sized(ImageFile.Read(ImageFolder.PathOf(row, data.Columns[ColumnRole.Image]!)));
            var target = result.Labels.Target(row, data.Columns[ColumnRole.Label]!);
            hash.AppendData(image.Pixels);
            hash.AppendData(Encoding.UTF8.GetBytes(target.ToString()));
            result._rows.Add((image, target));
            onProgress?.Invoke(i + 1);
        }

        result.Fingerprint = Convert.ToHexStringLower(hash.GetCurrentHash());
        return result;
    }

    /// <summary>What is right of a row.</summary>
    /// <param name="row">Its index.</param>
    public RowTarget Target(int row) => _rows[row].Target;

    /// <inheritdoc/>
    public TrainingBatch Collate(IReadOnlyList<int> rows, Device device)
    {
        ArgumentNullException.ThrowIfNull(rows);
        using var scope = NewDisposeScope();
        RowTarget[] targets = [.. rows.Select(row => _rows[row].Target)];
        var labels = targets[0].IsClass ? tensor([.. targets.Select(static target => (long)target.Values[0])])
            : tensor([.. targets.SelectMany(static target => target.Values).Select(static value => (float)value)], [targets.Length, targets[0].Values.Count]);
        var batch = new TrainingBatch(zeros([rows.Count, _positions], ScalarType.Int64, device), labels.to(device))
        {
            Pixels = _preprocessing.Pixels(rows.Select(row => _rows[row].Image)).to(device),
            TokenCount = rows.Count * _positions,
            TargetCount = rows.Count,
        };
        foreach (var kept in new[] { batch.InputIds, batch.Labels, batch.Pixels })
        {
            kept.MoveToOuterDisposeScope();
        }

        return batch;
    }
}
