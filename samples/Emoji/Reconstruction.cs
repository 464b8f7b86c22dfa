using Peft.Diffusion.Models;
using Peft.Images;
using Peft.Training;
using Peft.Training.Data;
using Peft.Training.Objectives;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Samples.Emoji;

/// <summary>What an autoencoder learns: to give an image back, through latents that are held near noise (Kingma and Welling 2014). An objective of one's own is a class.</summary>
internal sealed class Reconstruction : IObjective
{
    private const double NoiseWeight = 1e-3;

    public string Name => "reconstruction";

    public ExampleKind ExampleKind => ExampleKind.Image;

    public long Items(TrainingBatch batch) => 1;

    public Tensor Loss(ObjectivePass pass)
    {
        var (model, images, context) = ((AutoencoderKL)pass.Model, pass.Batch.Labels, pass.Context);
        context.Tape?.AddRoot(images);
        var moments = model.Encode(images, context).Moments;
        var noise = randn_like(moments.narrow(1, 0, model.LatentChannels));
        var latents = pass.Formula(given => new LatentDistribution(given[0]).Sample(noise), moments);
        var divisor = pass.Divisor ?? 1;
        return pass.Formula(
            given =>
            {
                var held = new LatentDistribution(given[1]);
                return given[0].sub(images).abs().mean().add(held.Mean.square().add(held.LogVariance.exp()).sub(held.LogVariance).sub(1).mean(), NoiseWeight).div(divisor);
            },
            model.Decode(latents, context),
            moments);
    }
}

/// <summary>The images of a folder, all of one size.</summary>
internal sealed class Pictures(string folder) : ITrainingData
{
    private readonly PixelImage[] _images = [.. ImageFolder.Read(folder).Select(static row => ImageFile.Read((string)row["image"]!).Cover(64, 64))];

    public int Count => _images.Length;

    public string Fingerprint => folder;

    public ExampleKind ExampleKind => ExampleKind.Image;

    public TrainingBatch Collate(IReadOnlyList<int> rows, Device device)
    {
        using var scope = NewDisposeScope();
        var pixels = stack([.. rows.Select(row => _images[row].ToTensor())]).to(device);
        return new TrainingBatch(zeros([rows.Count, 1], ScalarType.Int64, device).MoveToOuterDisposeScope(), pixels.MoveToOuterDisposeScope()) { TokenCount = rows.Count, TargetCount = rows.Count };
    }
}
