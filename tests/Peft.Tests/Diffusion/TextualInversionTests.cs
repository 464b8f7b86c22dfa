using Peft.Adapters.Methods.TextualInversion;
using Peft.Adapters.Model;
using Peft.Diffusion;
using Peft.Diffusion.Adapters;
using Peft.Diffusion.Pipelines;
using Peft.Images;
using Peft.Models;
using Peft.Tensors;
using Peft.Tests.Golden;
using Peft.Training;
using Peft.Training.Data;
using Peft.Training.Diffusion;
using static TorchSharp.torch;

namespace Peft.Tests.Diffusion;

/// <summary>Words of textual inversions: in prompts, learnt, in files of every form.</summary>
public sealed class TextualInversionTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();
    private readonly PeftModel _model;

    public TextualInversionTests() => _model = TinyStableDiffusion.Create(_folder.Path);

    private DiffusionModel Parts => (DiffusionModel)_model.Base;

    public void Dispose()
    {
        _model.Dispose();
        _folder.Dispose();
    }

    [Fact]
    public void A_word_stands_for_its_vectors_where_its_adapter_acts_and_for_itself_elsewhere()
    {
        Add("toy", "<toy>", vectors: 2);
        Add("hat", "<hat>");
        Assert.Equal([0L, 2, 10, 11, 5, 1, 1, 1], Ids("a <TOY> bird", "toy"));
        Assert.Equal([0L, 12, 10, 11, 1, 1, 1, 1], Ids("<hat><toy>", "toy", "hat"));
        Assert.DoesNotContain(Ids("a <toy> bird"), static id => id > 9);
    }

    [Theory]
    [InlineData("a mystyle bird", true)]
    [InlineData("a mystyles bird", false)]
    [InlineData("a (mystyle:1.2) bird", true)]
    public void A_word_of_letters_is_found_whole(string prompt, bool isFound)
    {
        Add("style", "mystyle");
        Assert.Equal(isFound, Peft.Diffusion.Prompts.PromptTokens.Of(Parts.TokenizerOf(0), prompt, 8, words: Peft.Diffusion.Prompts.PromptWords.Of(Parts.TextEncoders[0], _model.Select("style"))).Ids[0].Contains(10));
    }

    [Fact]
    public void The_vectors_of_a_word_stay_in_one_chunk()
    {
        Add("toy", "<toy>", vectors: 3);
        var tokens = Peft.Diffusion.Prompts.PromptTokens.Of(Parts.TokenizerOf(0), "a a a a <toy>", 8, words: Peft.Diffusion.Prompts.PromptWords.Of(Parts.TextEncoders[0], _model.Select("toy")));
        Assert.Equal([0, 10, 11, 12, 1, 1, 1, 1], tokens.Ids[1]);
    }

    [Fact]
    public void A_picture_of_the_word_changes_with_its_vectors_and_at_its_strength()
    {
        Add("toy", "<toy>").TrainableParameters[0].Parameter.Assign(randn(1, 64).mul(3));
        var with = Picture("a <toy> bird", new ActiveAdapter("toy"));
        Assert.NotEqual(with, Picture("a <toy> bird", new ActiveAdapter("toy", 0.2f)));
        Assert.NotEqual(with, Picture("a <toy> bird"));
        Assert.Equal(Picture("a bird"), Picture("a bird", new ActiveAdapter("toy")));
    }

    [Fact]
    public void A_word_begins_as_the_text_that_is_given()
    {
        var started = _model.AddAdapter(new TextualInversionConfig { Token = "<x>", Vectors = 3, StartText = "red bird" }, "x").TrainableParameters[0].Parameter.Data;
        var table = Parts.TextEncoders[0].Backbone.TokenEmbeddings!.Weight.Data;
        Assert.True(started.equal(table.index_select(0, tensor(new[] { 3L, 5, 3 }))).all().item<bool>());
        Assert.Equal("PlaceholderTokenInvalid", Assert.Throws<PeftException>(() => _model.AddAdapter(new TextualInversionConfig { Token = "two words" }, "y")).ErrorId);
        Assert.Equal("PlaceholderTokenInvalid", Assert.Throws<PeftException>(() => _model.AddAdapter(new TextualInversionConfig(), "y")).ErrorId);
    }

    [Fact]
    public void A_training_moves_the_vectors_alone_and_its_folder_is_read_again()
    {
        var table = Parts.TextEncoders[0].Backbone.TokenEmbeddings!.Weight.Data.clone();
        var adapter = Add("toy", "<toy>", vectors: 2);
        var before = adapter.TrainableParameters[0].Parameter.Data.clone();
        Train("a photo of a <toy>");
        Assert.True(before.sub(adapter.TrainableParameters[0].Parameter.Data).abs().min().item<float>() > 0);
        Assert.True(table.equal(Parts.TextEncoders[0].Backbone.TokenEmbeddings!.Weight.Data).all().item<bool>());
        var again = _model.LoadAdapter(_folder["out/toy"], "again");
        Assert.True(again.TrainableParameters[0].Parameter.Data.equal(adapter.TrainableParameters[0].Parameter.Data).all().item<bool>());
        Assert.Equal("<toy>", ((TextualInversionConfig)again.Config).Token);
    }

    [Fact]
    public void Captions_without_the_word_are_refused()
    {
        Add("toy", "<toy>");
        Assert.Equal("PlaceholderTokenUnused", Assert.Throws<PeftException>(() => Train("a photo of a bird")).ErrorId);
    }

    [Theory]
    [InlineData(DiffusionAdapterFormat.Kohya, "emb_params")]
    [InlineData(DiffusionAdapterFormat.Diffusers, "<toy>")]
    public void It_is_written_in_both_forms_and_read_again(DiffusionAdapterFormat format, string key)
    {
        var adapter = Add("toy", "<toy>", vectors: 2);
        DiffusionAdapterFile.Save(_model, "toy", _folder["toy.safetensors"], format);
        using (var file = SafetensorsFile.Open(_folder["toy.safetensors"]))
        {
            Assert.Equal([key], file.Names);
        }

        var other = format == DiffusionAdapterFormat.Kohya ? DiffusionAdapterFormat.Diffusers : DiffusionAdapterFormat.Kohya;
        DiffusionAdapterFile.Convert(_folder["toy.safetensors"], _folder["converted.safetensors"], other);
        foreach (var name in new[] { "toy", "converted" })
        {
            var read = DiffusionAdapterFile.Load(_model, _folder[name + ".safetensors"], "read");
            Assert.True(read.TrainableParameters[0].Parameter.Data.equal(adapter.TrainableParameters[0].Parameter.Data).all().item<bool>());
        }

        Assert.Equal("AdapterFormatLosesAll", Assert.Throws<PeftException>(() => DiffusionAdapterFile.Save(_model, "toy", _folder["no.safetensors"], DiffusionAdapterFormat.LyCORIS)).ErrorId);
    }

    [Fact]
    public void A_file_of_another_width_is_refused_and_so_is_half_a_file_of_two_encoders()
    {
        SafetensorsWriter.Write(_folder["wide.safetensors"], [("emb_params", randn(2, 48))]);
        SafetensorsWriter.Write(_folder["large.safetensors"], [("clip_l", randn(2, 64)), ("clip_g", randn(2, 80))]);
        SafetensorsWriter.Write(_folder["odd.safetensors"], [("clip_l", randn(2, 64)), ("clip_g", randn(1, 80))]);
        Assert.Equal("AdapterModelMismatch", ErrorOf("wide"));
        Assert.Equal("AdapterModelMismatch", ErrorOf("large"));
        Assert.Equal("TextualInversionInvalid", ErrorOf("odd"));
        Assert.Empty(_model.Adapters);

        string ErrorOf(string name) => Assert.Throws<PeftException>(() => DiffusionAdapterFile.Load(_model, _folder[name + ".safetensors"])).ErrorId;
    }

    /// <summary>SDXL: one file for both encoders in the web UI's form, one each in diffusers'.</summary>
    [SkippableFact]
    public void Two_text_encoders_read_vectors_of_their_own_of_one_word()
    {
        var models = GoldenCases.DomainFolder("diffusion") is { } domain ? Path.Combine(domain, "models") : "";
        var path = Directory.Exists(models) ? Directory.GetDirectories(models).FirstOrDefault(static folder => Directory.Exists(Path.Combine(folder, "text_encoder_2"))) : null;
        Skip.If(path is null, "no model of two text encoders in this set");
        using var model = DiffusionModelFiles.Load(path);
        var parts = (DiffusionModel)model.Base;
        var tables = parts.TextEncoders.Select(static encoder => encoder.Backbone.TokenEmbeddings!).ToArray();
        SafetensorsWriter.Write(_folder["style.safetensors"], [("clip_l", randn(2, tables[0].Size)), ("clip_g", randn(2, tables[1].Size))]);
        var adapter = DiffusionAdapterFile.Load(model, _folder["style.safetensors"]);
        Assert.Equal(2, adapter.TrainableParameters.Count);
        Assert.All(parts.Tokenize("in the style", model.Select("style")).Zip(tables), static pair => Assert.Contains(pair.Second.Count + 1, pair.First.data<long>().ToArray()));

        DiffusionAdapterFile.Save(model, "style", _folder["kohya.safetensors"], DiffusionAdapterFormat.Kohya);
        DiffusionAdapterFile.Save(model, "style", _folder["diffusers.safetensors"], DiffusionAdapterFormat.Diffusers);
        using var kohya = SafetensorsFile.Open(_folder["kohya.safetensors"]);
        using var second = SafetensorsFile.Open(_folder["diffusers_2.safetensors"]);
        Assert.Equal(["clip_g", "clip_l"], kohya.Names.Order(StringComparer.Ordinal));
        Assert.True(kohya.Read("clip_g").equal(second.Read("style")).all().item<bool>());

        // The pooled text is that of the end of the prompt, whatever ids words have.
        using var noGradients = no_grad();
        var selection = model.Select("style");
        var pooled = parts.EncodeText(parts.Tokenize("in the style", selection), new ForwardContext { Selection = selection }).Pooled!;
        Assert.False(pooled.isnan().any().item<bool>());
    }

    private PeftAdapter Add(string name, string token, int vectors = 1) => _model.AddAdapter(new TextualInversionConfig { Token = token, Vectors = vectors, StartText = "bird" }, name);

    private long[] Ids(string prompt, params string[] adapters) => Parts.Tokenize(prompt, _model.Select(adapters))[0].data<long>().ToArray();

    private byte[] Picture(string prompt, params ActiveAdapter[] active) =>
        new ImageGenerator(_model, new AdapterSelection(active)).Generate(prompt, new ImageOptions { Steps = 2, Seed = 1, Width = 16, Height = 16 }).Image.Pixels;

    private void Train(string caption)
    {
        Directory.CreateDirectory(_folder["images"]);
        var pixels = new byte[16 * 16 * 3];
        new Random(1).NextBytes(pixels);
        ImageFile.Write(new PixelImage(16, 16, pixels), _folder["images/a.png"]);
        var options = new TrainingOptions { Objective = "denoising", MaxSteps = 3, BatchSize = 1, LearningRate = 0.01, ObjectiveOptions = new() { ["resolution"] = 16 } };
        using var images = ImageDataset.Read(TrainingDataset.FromRows([.. ImageFolder.Read(_folder["images"], caption)], null, "images"), _model, options, "toy");
        new Trainer(new TrainingRequest { Model = _model, AdapterName = "toy", Data = images, Options = options, OutputPath = _folder["out"] }).Train();
    }
}
