using System.Text.Json.Nodes;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Images;
using Peft.Models;
using Peft.Training;
using Peft.Training.Data;
using Peft.Training.Diffusion;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Diffusion;

/// <summary>Latents and captions that trainings share on the disk.</summary>
public sealed class EncoderCacheTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    public EncoderCacheTests()
    {
        Write("a.png", 16, 16);
        Write("b.png", 24, 12);
        Write("c.png", 16, 16);
    }

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void A_second_training_computes_nothing_and_learns_from_the_same_bits()
    {
        using var model = Create();
        using var plain = Read(model, cache: null);
        using var first = Read(model);
        using var again = Create();
        using var second = Read(again);
        Assert.Equal((0, 0), (plain.Cached, plain.Computed));
        Assert.Equal((0, 4), (first.Cached, first.Computed));
        Assert.Equal((4, 0), (second.Cached, second.Computed));
        Assert.Equal(plain.Fingerprint, second.Fingerprint);
        AssertSame(plain, first);
        AssertSame(plain, second);
    }

    [Fact]
    public void Only_what_changed_is_computed()
    {
        using var model = Create();
        Read(model).Dispose();
        Write("b.png", 24, 12, seed: 5);
        Write("d.png", 16, 16);
        using (var images = Read(model))
        {
            Assert.Equal((3, 2), (images.Cached, images.Computed));
        }

        using (var images = Read(model, caption: "a blue fish"))
        {
            Assert.Equal((4, 1), (images.Cached, images.Computed));
        }

        using (var images = Read(model, options: """{"resolution": 8}"""))
        {
            Assert.Equal((1, 4), (images.Cached, images.Computed));
        }

        using (var images = Read(model, options: """{"random_flip": true}"""))
        {
            Assert.Equal((5, 4), (images.Cached, images.Computed));
        }
    }

    [Fact]
    public void Mirrored_images_are_not_counted_as_images()
    {
        using var model = Create();
        using var plain = Read(model);
        using var mirrored = Read(model, options: """{"random_flip": true}""");
        Assert.Equal(2 * plain.Count, mirrored.Count);
        Assert.NotEmpty(plain.Messages);
        Assert.Equal(plain.Messages, mirrored.Messages);
    }

    [Theory]
    [InlineData("vae.encoder.conv_in", 1, 3)]
    [InlineData("text_encoder.encoder.layers.1.mlp.fc2", 3, 1)]
    [InlineData("unet.conv_in", 4, 0)]
    public void A_weight_that_changed_makes_what_its_encoder_computed_useless_and_nothing_else(string module, int cached, int computed)
    {
        using var model = Create();
        Read(model).Dispose();
        using (no_grad())
        {
            var weight = model.Base.Find(module)!.Parameters[0];
            weight.Value!.mul_(1.5f);
        }

        using var images = Read(model);
        Assert.Equal((cached, computed), (images.Cached, images.Computed));
    }

    [Fact]
    public void Another_type_of_the_weights_has_entries_of_its_own()
    {
        using var model = Create();
        Read(model).Dispose();
        using (no_grad())
        {
            foreach (var (_, parameter, _) in model.Base.NamedParameters())
            {
                parameter.Assign(parameter.Value!.to(ScalarType.BFloat16));
            }
        }

        using var images = Read(model);
        Assert.Equal((0, 4), (images.Cached, images.Computed));
    }

    [Theory]
    [InlineData("cut")]
    [InlineData("flipped")]
    [InlineData("empty")]
    [InlineData("exchanged")]
    [InlineData("text")]
    public void A_damaged_entry_is_computed_and_written_again(string damage)
    {
        using var model = Create();
        using var first = Read(model);
        var files = Entries("latents");
        var (whole, other) = (File.ReadAllBytes(files[0]), File.ReadAllBytes(files[1]));
        File.WriteAllBytes(files[0], damage switch
        {
            "cut" => whole[..^7],
            "flipped" => [.. whole[..^1], (byte)(whole[^1] ^ 1)],
            "empty" => [],
            "exchanged" => other,
            _ => "no tensors at all"u8.ToArray(),
        });
        using (var images = Read(model))
        {
            Assert.Equal((3, 1), (images.Cached, images.Computed));
            AssertSame(first, images);
        }

        Assert.Equal(whole, File.ReadAllBytes(files[0]));
    }

    [Fact]
    public async Task Trainings_at_the_same_time_share_a_folder()
    {
        var read = await Task.WhenAll(Enumerable.Range(0, 4).Select(_ => Task.Run(() =>
        {
            using var model = Create();
            return Read(model);
        })));
        Assert.All(read, images => AssertSame(read[0], images));
        Assert.Equal((3, 1), (Entries("latents").Length, Entries("texts").Length));
        Assert.Equal(4, Directory.GetFiles(_folder["cache"], "*", SearchOption.AllDirectories).Length);
        Array.ForEach(read, static images => images.Dispose());
    }

    [Fact]
    public void Captions_that_the_training_changes_are_not_kept_and_a_folder_that_is_only_read_stays_as_it_is()
    {
        using var model = Create();
        using (var images = Read(model, targets: ["to_q", "q_proj"]))
        {
            Assert.Equal((0, 3), (images.Cached, images.Computed));
        }

        Assert.False(Directory.Exists(_folder["cache/texts"]));
        using (var images = Read(model, cache: new EncoderCacheOptions(_folder["cache"]) { Writes = false }))
        {
            Assert.Equal((3, 1), (images.Cached, images.Computed));
        }

        Assert.False(Directory.Exists(_folder["cache/texts"]));
    }

    [Fact]
    public void A_folder_that_can_not_be_made_is_a_named_error()
    {
        using var model = Create();
        _folder.Write("file", "x");
        Assert.Equal("FileWriteFailed", Assert.Throws<PeftException>(() => Read(model, cache: new EncoderCacheOptions(_folder["file"]))).ErrorId);
    }

    private static void AssertSame(ImageDataset one, ImageDataset other)
    {
        for (var row = 0; row < one.Count; row++)
        {
            using var mine = (DiffusionBatch)one.Collate([row], CPU);
            using var theirs = (DiffusionBatch)other.Collate([row], CPU);
            Assert.True(mine.Latents.Equals(theirs.Latents));
            Assert.True(mine.Deviations!.Equals(theirs.Deviations!));
            Assert.True(mine.Text!.States.Equals(theirs.Text!.States));
        }
    }

    private string[] Entries(string kind) => [.. Directory.GetFiles(_folder["cache/" + kind], "*.safetensors", SearchOption.AllDirectories).Order(StringComparer.Ordinal)];

    private PeftModel Create() => TinyStableDiffusion.Create(_folder[Path.GetRandomFileName()]);

    private ImageDataset Read(PeftModel model, string caption = "a red bird", string options = "{}", string[]? targets = null) =>
        Read(model, new EncoderCacheOptions(_folder["cache"]), caption, options, targets);

    private ImageDataset Read(PeftModel model, EncoderCacheOptions? cache, string caption = "a red bird", string options = "{}", string[]? targets = null)
    {
        var adapter = Path.GetRandomFileName().Replace(".", "", StringComparison.Ordinal);
        model.AddAdapter(new LoraConfig { Rank = 2, Alpha = 4, TargetModules = ModuleNames.Of(targets ?? ["to_q"]) }, adapter, 1);
        var training = new TrainingOptions { Objective = "denoising", ObjectiveOptions = (JsonObject)JsonNode.Parse(options)! };
        return ImageDataset.Read(TrainingDataset.FromRows([.. ImageFolder.Read(_folder["pictures"], caption)], null, "pictures"), model, training, adapter, cache: cache);
    }

    private void Write(string name, int width, int height, int seed = 0)
    {
        var pixels = new byte[width * height * 3];
        new Random(name[0] + seed).NextBytes(pixels);
        ImageFile.Write(new PixelImage(width, height, pixels), _folder["pictures/" + name]);
    }
}
