using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Images;
using Peft.Models;
using Peft.Models.Heads;
using Peft.Models.Layers;
using Peft.Tensors;
using Peft.Training;
using Peft.Training.Data;
using Peft.Training.Evaluation;
using static TorchSharp.torch;

namespace Peft.Tests.Models;

/// <summary>Vision encoders with heads for classes, beside what transformers recorded (tests/references/vision).</summary>
public sealed class VisionModelTests : IDisposable
{
    private static readonly string s_references = Path.Combine(RepositoryRoot.Folder, "tests", "references", "vision");
    private readonly TemporaryFolder _folder = new();

    public static IEnumerable<object[]> References() => Directory.GetDirectories(s_references).Select(static folder => new object[] { Path.GetFileName(folder) });

    public void Dispose() => _folder.Dispose();

    [Theory]
    [MemberData(nameof(References))]
    public void States_scores_loss_and_gradients_are_transformers(string name)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var model = Load(name);
        using var recorded = SafetensorsFile.Open(Path.Combine(s_references, name, "reference.safetensors"));
        var network = Assert.IsType<ImageClassificationModel>(model.Base);
        foreach (var parameter in model.Base.NamedParameters().Select(static named => named.Parameter))
        {
            parameter.Gradient = zeros([.. parameter.Shape]);
            parameter.Data.requires_grad_(true);
        }

        using var tape = new Tape();
        var context = new ForwardContext { Tape = tape, IsTraining = true };
        var output = network.Forward(new ModelInputs { Pixels = recorded.Read("pixels") }, context);
        var pass = output.In(context);
        var logits = network.Logits(output, pass);
        var loss = network.Loss(logits, recorded.Read("labels"), pass);
        AssertClose(recorded.Read("hidden"), output.Hidden.view(recorded.Read("hidden").shape), "states");
        AssertClose(recorded.Read("logits"), logits, "scores");
        AssertClose(recorded.Read("loss"), loss, "loss");
        tape.Backward(loss);
        var gradients = recorded.Names.Where(static key => key.StartsWith("gradient.", StringComparison.Ordinal)).ToArray();
        Assert.NotEmpty(gradients);
        Assert.All(gradients, key => AssertClose(recorded.Read(key), model.Base.FindParameter(key["gradient.".Length..])!.Gradient!, key));
    }

    [Theory]
    [MemberData(nameof(References))]
    public void It_is_saved_under_the_names_it_came_with_and_has_the_numbers_of_its_classes(string name)
    {
        using var model = Load(name);
        model.Base.PreprocessorConfig = new() { ["image_mean"] = new System.Text.Json.Nodes.JsonArray(0.1, 0.2, 0.3) };
        model.Save(_folder["saved"]);
        using var before = SafetensorsFile.Open(Path.Combine(s_references, name, "model.safetensors"));
        using var after = SafetensorsFile.Open(_folder["saved/model.safetensors"]);
        Assert.Equal(before.Names.Order(StringComparer.Ordinal), after.Names.Order(StringComparer.Ordinal));
        Assert.Equal(["circle", "square", "star"], ModelLabels.Of(model.Base).Names);
        using var again = PeftModel.Load(_folder["saved"]);
        Assert.Equal(0.2, (double)again.Base.PreprocessorConfig!["image_mean"]![1]!);
    }

    /// <summary>LoRA on linear layers and on the patches' convolution, by today's names and those of older files.</summary>
    [Theory]
    [InlineData("vit", "q_proj,v_proj,projection", 5)]
    [InlineData("vit", "query,value,projection", 5)]
    [InlineData("clip", "q_proj,v_proj,patch_embedding", 5)]
    public void An_adapter_on_layers_and_patches_is_learnt_merged_and_read_again(string name, string targets, int layers)
    {
        using var model = Load(name);
        using var noGradients = no_grad();
        var adapter = model.AddAdapter(new LoraConfig { Rank = 4, Alpha = 8, TargetModules = ModuleNames.Of(targets.Split(',')), ModulesToSave = ["classifier"] }, "shapes", 1);
        Assert.Equal(layers, adapter.Adapter.Layers.Count);
        var data = Shapes();
        Assert.Equal(RowKind.ImageClass, data.Columns.Kind);
        var options = new TrainingOptions { Objective = "sequence_classification", MaxSteps = 60, BatchSize = 6, LearningRate = 0.01, Schedule = "constant" };
        var record = new Trainer(new TrainingRequest { Model = model, AdapterName = "shapes", Data = ImageClassDataset.Read(data, model), Options = options, OutputPath = _folder["out"] }).Train();
        Assert.True(record.Steps[^1].Loss < 0.3 * record.Steps[0].Loss, $"{record.Steps[0].Loss} to {record.Steps[^1].Loss}");
        var found = ClassificationMeasurement.Measure(model, data);
        Assert.Equal(found.Count, found.Answers.Count(static answer => answer.Expected == answer.Answer));

        model.Merge();
        Assert.Equal(found.Answers, ClassificationMeasurement.Measure(model, data).Answers);
        model.UndoMerge();
        using var fresh = Load(name);
        Assert.Empty(fresh.LoadAdapter(_folder["out/shapes"], "read").Report.Missing);
        fresh.SetActive("read");
        Assert.Equal(found.Answers, ClassificationMeasurement.Measure(fresh, data).Answers);
    }

    [Fact]
    public void Classes_are_the_names_of_folders_and_a_new_head_has_them()
    {
        var rows = ImageFolder.ReadClasses(Fill());
        Assert.Equal(["circle", "square", "star"], rows.Select(static row => (string)row["label"]!).Distinct());
        Assert.True(ImageFolder.HasClasses(_folder["images"]));
        File.WriteAllText(_folder["images/circle/0.txt"], "a caption");
        Assert.False(ImageFolder.HasClasses(_folder["images"]));
        using var model = PeftModel.Load(Path.Combine(s_references, "vit"), new LoadOptions { Task = ImageClassificationModel.Task, Labels = ["one", "two"] });
        Assert.Equal(2, ((ImageClassificationModel)model.Base).LabelCount);
    }

    [Fact]
    public void Pixels_are_normed_as_the_preprocessor_says()
    {
        using var model = Load("vit");
        model.Base.PreprocessorConfig = new() { ["image_mean"] = new System.Text.Json.Nodes.JsonArray(0.1, 0.2, 0.3), ["image_std"] = new System.Text.Json.Nodes.JsonArray(0.5, 0.25, 1) };
        var image = new PixelImage(16, 16, [.. Enumerable.Repeat(new byte[] { 255, 0, 51 }, 256).SelectMany(static colour => colour)]);
        using var pixels = ImagePreprocessing.Of(model.Base).Pixels([image]);
        Assert.Equal([1.8f, -0.8f, -0.1f], new[] { 0, 1, 2 }.Select(channel => MathF.Round(pixels[0, channel, 3, 3].item<float>(), 5)));
    }

    [Fact]
    public void What_does_not_fit_is_named()
    {
        using var model = Load("vit");
        using var small = randn(1, 3, 8, 8);
        Assert.Equal("ImageSizeUnfit", Assert.Throws<PeftException>(() => model.Base.Forward(new ModelInputs { Pixels = small }, new ForwardContext())).ErrorId);
        Assert.Equal("PixelsMissing", Assert.Throws<PeftException>(() => model.Base.Forward(new ModelInputs { Ids = zeros([1, 5], ScalarType.Int64) }, new ForwardContext())).ErrorId);
        Assert.Equal("DatasetKindUnfit", Assert.Throws<NotSupportedByPeftException>(() => ImageClassDataset.Read(TrainingDataset.FromRows([new Dictionary<string, object?> { ["text"] = "a", ["label"] = "star" }], null, "rows"), model)).ErrorId);
        var rows = new[] { new Dictionary<string, object?> { ["image"] = Path.Combine(Fill(), "circle", "0.png"), ["label"] = "moon" } };
        Assert.Equal("DatasetRowInvalid", Assert.Throws<PeftException>(() => ImageClassDataset.Read(TrainingDataset.FromRows(rows, null, "rows"), model)).ErrorId);
        File.WriteAllText(_folder["images/circle/0.png"], "no image");
        Assert.Equal("ImageUnreadable", Assert.Throws<PeftException>(() => ImageClassDataset.Read(Shapes(refill: false), model)).ErrorId);
    }

    private static PeftModel Load(string name) => PeftModel.Load(Path.Combine(s_references, name));

    private TrainingDataset Shapes(bool refill = true)
    {
        if (refill)
        {
            Fill();
        }

        return TrainingDataset.FromRows(ImageFolder.ReadClasses(_folder["images"]), null, _folder["images"]);
    }

    /// <summary>Classes by colour and brightness, four images each.</summary>
    private string Fill()
    {
        var random = new Random(1);
        foreach (var (label, colour) in new[] { ("circle", 0), ("square", 1), ("star", 2) })
        {
            Directory.CreateDirectory(_folder[$"images/{label}"]);
            for (var i = 0; i < 4; i++)
            {
                var pixels = new byte[16 * 16 * 3];
                random.NextBytes(pixels);
                for (var at = colour; at < pixels.Length; at += 3)
                {
                    pixels[at] = 250;
                }

                ImageFile.Write(new PixelImage(16, 16, pixels), _folder[$"images/{label}/{i}.png"]);
            }
        }

        return _folder["images"];
    }

    private static void AssertClose(Tensor expected, Tensor actual, string what)
    {
        var gap = expected.sub(actual.view(expected.shape)).abs().max().item<float>();
        Assert.True(gap < 2e-5 * (1 + expected.abs().max().item<float>()), FormattableString.Invariant($"{what}: {gap:G3}"));
    }
}
