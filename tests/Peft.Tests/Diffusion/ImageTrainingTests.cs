using System.Text.Json.Nodes;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Diffusion;
using Peft.Images;
using Peft.Tests.Golden;
using Peft.Training;
using Peft.Training.Data;
using Peft.Training.Diffusion;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Diffusion;

/// <summary>Images with captions from a folder to a trained adapter.</summary>
public sealed class ImageTrainingTests
{
    [Fact]
    public void Captions_stand_in_metadata_or_beside_the_image_or_are_given_for_all()
    {
        using var folder = new TemporaryFolder();
        Write(folder, "a.png", 16, 16);
        Write(folder, "b.png", 16, 16);
        Write(folder, "c.jpg", 16, 16);
        folder.Write("metadata.jsonl", "{\"file_name\": \"a.png\", \"text\": \"a red cat\"}\n");
        folder.Write("b.txt", "two dogs\n");
        Assert.Equal("ImageCaptionMissing", Assert.Throws<PeftException>(() => ImageFolder.Read(folder.Path)).ErrorId);
        Assert.Equal(["a red cat", "two dogs", "a photo of sks dog"], ImageFolder.Read(folder.Path, "a photo of sks dog").Select(static row => (string)row["text"]!));
        Assert.Equal(RowKind.Image, Data(folder, "a photo").Columns.Kind);
        Assert.True(ImageFolder.IsOne(folder.Path));
    }

    [Fact]
    public void A_folder_without_images_and_one_that_is_none_are_named_errors()
    {
        using var folder = new TemporaryFolder();
        Assert.Equal("DatasetEmpty", Assert.Throws<PeftException>(() => ImageFolder.Read(folder.Path)).ErrorId);
        Assert.Equal("FolderNotFound", Assert.Throws<PeftException>(() => ImageFolder.Read(folder["none"])).ErrorId);
    }

    [Theory]
    [InlineData(512, 512, 512, 512)]
    [InlineData(1000, 1000, 512, 512)]
    [InlineData(1920, 1080, 640, 384)]
    [InlineData(300, 3000, 256, 1024)]
    public void An_image_is_cut_to_the_size_nearest_to_its_shape(int width, int height, int wide, int high)
    {
        var buckets = new AspectBuckets(512, 64);
        Assert.Equal((wide, high), buckets.For(width, height));
        Assert.All(buckets.Sizes, static size => Assert.True(size.Width % 64 == 0 && size.Height % 64 == 0 && size.Width * size.Height <= 512 * 512));
        Assert.Equal([(512, 512)], new AspectBuckets(512, 64, squareOnly: true).Sizes);
    }

    [Fact]
    public void Batches_hold_images_of_one_size_and_every_image_once_an_epoch()
    {
        int[] shapes = [0, 1, 0, 1, 0, 2, 0];
        var plan = new TrainingPlan(new TrainingOptions { BatchSize = 2, Seed = 3 }, [.. Enumerable.Range(0, shapes.Length)], shapes: shapes);
        Assert.Equal(4, plan.StepsPerEpoch);
        foreach (var epoch in new[] { 0, 1 })
        {
            var batches = Enumerable.Range(0, plan.StepsPerEpoch).SelectMany(step => plan.MicroBatches((epoch * plan.StepsPerEpoch) + step)).ToArray();
            Assert.All(batches, batch => Assert.Single(batch.Select(row => shapes[row]).Distinct()));
            Assert.Equal(Enumerable.Range(0, shapes.Length), batches.SelectMany(static batch => batch).Order());
        }
    }

    [Theory]
    [InlineData("{}")]
    [InlineData("""{"snr_gamma": 5, "noise_offset": 0.1, "random_flip": true, "caption_dropout": 0.2}""")]
    public void An_adapter_learns_from_images_and_goes_on_bit_for_bit(string options)
    {
        using var folder = new TemporaryFolder();
        Fill(folder);
        var whole = Train(folder, options, "whole", steps: 12, out _);
        Assert.True(whole.Steps.Take(3).Average(static step => step.Loss) > whole.Steps.TakeLast(3).Average(static step => step.Loss));
        Assert.Equal((whole.TargetCount, 0), (whole.TokenCount, whole.MaskedShare));
        Train(folder, options, "parts", steps: 12, out _, stopAfter: 5);
        var resumed = Train(folder, options, "parts", steps: 12, out _, resume: true);
        Assert.Equal(whole.Steps.Select(static step => step.Loss), resumed.Steps.Select(static step => step.Loss));
    }

    [Fact]
    public void A_text_encoder_learns_with_it_where_the_adapter_has_parts_there()
    {
        using var folder = new TemporaryFolder();
        Fill(folder);
        Train(folder, "{}", "text", steps: 3, out var moved, targets: ["unet", "text_encoder"]);
        Assert.All(moved, static change => Assert.True(change > 0));
    }

    [Fact]
    public void Images_that_keep_the_class_share_each_batch_and_count_by_their_weight()
    {
        using var folder = new TemporaryFolder();
        using var classes = new TemporaryFolder();
        Fill(folder);
        Write(classes, "d.png", 40, 40);
        using var model = TinyDiffusion.Create();
        model.AddAdapter(Config(["unet"]), "a", 1);
        var rows = ImageFolder.Read(folder.Path, "sks dog").Concat(ImageFolder.Read(classes.Path, "dog", isPrior: true)).ToArray();
        using var images = ImageDataset.Read(TrainingDataset.FromRows(rows, null, "folders"), model, new TrainingOptions { ObjectiveOptions = new JsonObject { ["center_crop"] = true } }, "a");
        using var batch = (DiffusionBatch)images.Collate([0, 1], CPU);
        Assert.Equal((3, 2L, 4L), (images.Count, batch.PriorRows, batch.Latents.size(0)));
        Assert.NotNull(batch.Text);
        Assert.Equal(0, batch.Latents[2].sub(batch.Latents[3]).abs().max().item<float>());
    }

    [SkippableFact]
    public void Pictures_of_prompts_are_drawn_along_the_way_with_the_adapter()
    {
        var models = GoldenCases.DomainFolder("diffusion") is { } domain ? Path.Combine(domain, "models") : "";
        var path = Directory.Exists(models) ? Directory.GetDirectories(models).Order(StringComparer.Ordinal).FirstOrDefault() : null;
        Skip.If(path is null, "no diffusion model in this set");
        using var folder = new TemporaryFolder();
        Fill(folder);
        using var model = DiffusionModelFiles.Load(path);
        model.AddAdapter(Config(["to_q", "to_v"]), "a", 1);
        var options = new TrainingOptions { Objective = "denoising", MaxSteps = 4, BatchSize = 2, LearningRate = 0.01, EvaluationInterval = 2 };
        using var images = ImageDataset.Read(Data(folder, "a cat"), model, options, "a");
        new Trainer(new TrainingRequest { Model = model, AdapterName = "a", Data = images, Options = options, OutputPath = folder["out"], SamplePrompts = ["a cat", "a dog"] }).Train();
        var pictures = Directory.GetFiles(folder["out/a/samples"]).Select(static file => Path.GetFileName(file)!).Order(StringComparer.Ordinal);
        Assert.Equal(["step-2-1.png", "step-2-2.png", "step-4-1.png", "step-4-2.png"], pictures);
        Assert.NotEqual(File.ReadAllBytes(folder["out/a/samples/step-2-1.png"]), File.ReadAllBytes(folder["out/a/samples/step-4-1.png"]));
        Assert.Contains("Seed: ", ImageFile.ReadTexts(folder["out/a/samples/step-4-1.png"])["parameters"], StringComparison.Ordinal);
    }

    [Fact]
    public void A_language_model_refuses_images_and_a_diffusion_model_texts()
    {
        using var folder = new TemporaryFolder();
        Fill(folder);
        using var model = TinyDiffusion.Create();
        var texts = TrainingDataset.FromRows([new Dictionary<string, object?> { ["text"] = "a" }], null, "rows");
        Assert.Equal("DatasetKindUnfit", Assert.Throws<NotSupportedByPeftException>(() => ImageDataset.Read(texts, model, new TrainingOptions(), null)).ErrorId);
        folder.Write("a.png", "no image at all");
        Assert.Equal("ImageUnreadable", Assert.Throws<PeftException>(() => ImageDataset.Read(Data(folder, "x"), model, new TrainingOptions(), null)).ErrorId);
    }

    private static TrainingRecord Train(TemporaryFolder folder, string options, string name, int steps, out IReadOnlyList<float> moved, string[]? targets = null, int? stopAfter = null, bool resume = false)
    {
        using var model = TinyDiffusion.Create();
        var adapter = model.AddAdapter(Config(targets ?? ["unet"]), "a", 1);
        var before = adapter.TrainableParameters.Select(static parameter => parameter.Parameter.Value!.clone()).ToArray();
        var own = (JsonObject)JsonNode.Parse(options)!;
        using var images = ImageDataset.Read(Data(folder, "a cat"), model, new TrainingOptions { ObjectiveOptions = own }, "a");
        using var stop = new CancellationTokenSource();
        var request = new TrainingRequest
        {
            Model = model,
            AdapterName = "a",
            Data = images,
            Options = new TrainingOptions { Objective = "denoising", ObjectiveOptions = own, MaxSteps = steps, BatchSize = 2, LearningRate = 0.05, Schedule = "constant" },
            OutputPath = folder["out-" + name],
            Resume = resume,
            OnStep = step =>
            {
                if (step.Step == stopAfter)
                {
                    stop.Cancel();
                }
            },
        };
        TrainingRecord record;
        try
        {
            record = new Trainer(request).Train(stop.Token);
        }
        catch (OperationCanceledException)
        {
            record = new TrainingRecord { AdapterName = "a", Options = request.Options, Objective = "denoising", Steps = [], Evaluations = [], TrainedParameters = 0 };
        }

        moved = [.. adapter.TrainableParameters.Zip(before, static (parameter, value) => parameter.Parameter.Value!.sub(value).abs().max().item<float>())];
        return record;
    }

    private static LoraConfig Config(string[] targets) => new() { Rank = 2, Alpha = 4, TargetModules = ModuleNames.Of(targets) };

    private static TrainingDataset Data(TemporaryFolder folder, string caption) => TrainingDataset.FromRows([.. ImageFolder.Read(folder.Path, caption)], null, folder.Path);

    private static void Fill(TemporaryFolder folder)
    {
        Write(folder, "a.png", 40, 40);
        Write(folder, "b.png", 80, 40);
        Write(folder, "c.png", 44, 40);
    }

    private static void Write(TemporaryFolder folder, string name, int width, int height)
    {
        var pixels = new byte[width * height * 3];
        new Random(name[0]).NextBytes(pixels);
        ImageFile.Write(new PixelImage(width, height, pixels), folder[name]);
    }
}
