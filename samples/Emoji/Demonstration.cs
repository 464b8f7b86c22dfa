using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Diffusion;
using Peft.Diffusion.Models;
using Peft.Diffusion.Pipelines;
using Peft.Diffusion.Training;
using Peft.Images;
using Peft.Models;
using Peft.Training;
using Peft.Training.Data;
using Peft.Training.Diffusion;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Samples.Emoji;

/// <summary>The steps of the demonstration, one after the other; what is there already isn't made again.</summary>
internal sealed class Demonstration(string folder, int steps)
{
    private const int Side = 64;
    private readonly string _emoji = Path.Combine(folder, "images");
    private readonly string _blue = Path.Combine(folder, "blue");
    private readonly string _model = Path.Combine(folder, "model");

    public void Run()
    {
        using var noGrad = no_grad();
        manual_seed(1);
        Directory.CreateDirectory(folder);
        EmojiSet.Prepare(_emoji, "face-", "cat-face");
        EmojiSet.PrepareBlue(_blue, _emoji, 24);
        if (!Directory.Exists(Path.Combine(_model, "unet")) || Directory.GetFiles(_model, "*.safetensors", SearchOption.AllDirectories).Length == 0)
        {
            TinyModel.Write(_model, ImageFolder.Read(_emoji).Select(static row => (string)row["text"]!));
            Train();
        }

        using var model = DiffusionModelFiles.Load(_model);
        string[] prompts = [.. ImageFolder.Read(_emoji).Select(static row => (string)row["text"]!).Where(static (_, i) => i % 9 == 4).Take(8)];
        Show(model, "learnt.png", prompts);
        LearnStyle(model);
        Show(model, "blue.png", prompts);
    }

    /// <summary>Autoencoder first, then UNet and text encoder on its latents.</summary>
    private void Train()
    {
        using var autoencoder = new PeftModel(new AutoencoderKL(ModelConfig.FromFile(Path.Combine(_model, "vae", "config.json"))), "autoencoder");
        TinyModel.Initialise(autoencoder.Base);
        Learn(autoencoder, new Pictures(_emoji), steps / 2, 2e-3, 8, objective: new Reconstruction());
        var (mean, deviation) = Latents((AutoencoderKL)autoencoder.Base);
        TinyModel.SetScale(_model, mean, deviation);
        using var index = DiffusionModelFiles.Load(_model, new LoadOptions { StructureOnly = true });
        TinyModel.Initialise(index.Base);
        foreach (var (path, parameter, _) in autoencoder.Base.NamedParameters())
        {
            index.Base.FindParameter($"vae.{path}")!.Assign(parameter.Data.clone());
        }

        index.Base.Prepare();
        using var model = new PeftModel(index.Base, "emoji", _model);
        Learn(model, "caption_dropout", 0.1, 16, 2e-3, steps);
        model.Save(_model);
    }

    private void Learn(PeftModel model, string option, double value, int batch, double rate, int count)
    {
        var options = new TrainingOptions { Objective = "denoising", ObjectiveOptions = new() { [option] = value }, MaxSteps = count, BatchSize = batch, LearningRate = rate, Schedule = "cosine", Warmup = 50 };
        using var images = ImageDataset.Read(TrainingDataset.FromRows(ImageFolder.Read(_emoji), origin: _emoji), model, options, null);

        // The average of the weights makes better pictures than those of the last step.
        Parameter[] weights = [.. model.Base.NamedParameters().Select(static named => named.Parameter).Where(static parameter => parameter.IsOwner)];
        using var average = new MovingAverage(weights.Select(static weight => weight.Data), 0.995);
        Learn(model, images, options, afterStep: _ => average.Update(weights.Select(static weight => weight.Data)));
        foreach (var (weight, mean) in weights.Zip(average.Averages))
        {
            weight.Assign(mean.clone());
        }
    }

    private static void Learn(PeftModel model, ITrainingData data, int count, double rate, int batch, Peft.Training.Objectives.IObjective objective) =>
        Learn(model, data, new TrainingOptions { MaxSteps = count, BatchSize = batch, LearningRate = rate, Schedule = "cosine", Warmup = 50 }, objective: objective);

    private static void Learn(PeftModel model, ITrainingData data, TrainingOptions options, string? adapter = null, Peft.Training.Objectives.IObjective? objective = null, Action<int>? afterStep = null)
    {
        var record = new Trainer(new TrainingRequest
        {
            Model = model,
            AdapterName = adapter,
            Data = data,
            Options = options with { LoggingInterval = 100 },
            Objective = objective,
            AfterStep = afterStep,
            Progress = new Lines(model.Name),
        }).Train();
        Console.WriteLine($"{model.Name}: {record.StepCount} steps in {record.Steps[^1].Seconds:0} s, loss {record.Losses.Take(20).Average():0.000} became {record.Losses.TakeLast(50).Average():0.000}");
    }

    private void LearnStyle(PeftModel model)
    {
        var options = new TrainingOptions { Objective = "denoising", MaxSteps = Math.Max(1, steps / 6), BatchSize = 8, LearningRate = 3e-3, Schedule = "cosine" };
        model.AddAdapter(new LoraConfig { Rank = 8, Alpha = 16, TargetModules = ModuleNames.Of("to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2", "proj_in", "proj_out") }, "blue");
        using var images = ImageDataset.Read(TrainingDataset.FromRows(ImageFolder.Read(_blue), origin: _blue), model, options, "blue");
        Learn(model, images, options, "blue");
        model.SetActive("blue");
        model.SaveAdapter("blue", Path.Combine(folder, "blue-lora"));
    }

    /// <summary>Pictures side by side, as one file.</summary>
    private void Show(PeftModel model, string name, string[] prompts)
    {
        var generator = new ImageGenerator(model);
        var options = new ImageOptions { Steps = 25, GuidanceScale = 3, Seed = 7, Width = Side, Height = Side };
        Tensor[] pictures = [.. prompts.Select(prompt => generator.Generate(prompt, options).Image.ToTensor())];
        using var sheet = cat([.. pictures.Chunk(4).Select(static row => cat(row, 2))], 1);
        ImageFile.Write(PixelImage.FromTensor(sheet), Path.Combine(folder, name), new Dictionary<string, string> { ["parameters"] = string.Join("; ", prompts) });
        Console.WriteLine($"{Path.Combine(folder, name)}: {string.Join(", ", prompts)}");
    }

    private (double Mean, double Deviation) Latents(AutoencoderKL autoencoder)
    {
        using var scope = NewDisposeScope();
        using var batch = new Pictures(_emoji).Collate([.. Enumerable.Range(0, 64)], CPU);
        var latents = autoencoder.Encode(batch.Labels, new ForwardContext()).Mean;
        return (latents.mean().item<float>(), latents.std().item<float>());
    }

    private sealed class Lines(string name) : IProgress<TrainingProgress>
    {
        public void Report(TrainingProgress value) => Console.WriteLine($"{name}: step {value.Step}/{value.TotalSteps}, loss {value.Loss:0.0000}, {value.Remaining:mm\\:ss} left");
    }
}
