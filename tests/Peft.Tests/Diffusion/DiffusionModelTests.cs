using Peft.Adapters.Configuration;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Diffusion;
using Peft.Diffusion.Pipelines;
using Peft.Images;
using Peft.Models;
using Peft.Tensors;
using Peft.Tests.Models;
using static TorchSharp.torch;

namespace Peft.Tests.Diffusion;

/// <summary>Diffusion models as folders and as files, whole, damaged and mixed.</summary>
public sealed class DiffusionModelTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();
    private readonly PeftModel _model;

    public DiffusionModelTests() => _model = TinyStableDiffusion.Create(_folder.Path);

    public void Dispose()
    {
        _model.Dispose();
        _folder.Dispose();
    }

    [Fact]
    public void A_folder_that_was_written_makes_the_same_pictures()
    {
        _model.Save(_folder["saved"]);
        using var again = DiffusionModelFiles.Load(_folder["saved"]);
        Assert.Equal("saved", again.Name);
        Assert.Equal(Pixels(_model), Pixels(again));
    }

    [Fact]
    public void A_prompt_that_is_too_long_is_read_piece_by_piece_or_cut_off()
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        const string Begin = "a red bird with many feathers", End = " a blue fish";
        Tensor Encoded(string prompt, bool truncates) =>
            new PromptEncoder(_model, (DiffusionModel)_model.Base).Encode(prompt, null, new ImageOptions { TruncatesPrompts = truncates }, default).Prompt.States;
        Assert.Equal([1L, TinyStableDiffusion.Length, 64], Encoded(Begin + End, true).shape);
        Assert.Equal([1L, 2 * TinyStableDiffusion.Length, 64], Encoded(Begin + End, false).shape);
        TensorAssert.CloseToScale(Encoded(Begin, true), Encoded(Begin + End, true), 0);
    }

    [Fact]
    public void A_checkpoint_in_one_file_is_told_by_its_shapes_and_makes_the_same_pictures()
    {
        _model.Save(_folder["saved"]);
        Directory.Move(Path.Combine(_folder["saved"], "tokenizer"), _folder["tokenizer"]);
        _model.Save(_folder["one.safetensors"]);
        using var again = DiffusionModelFiles.Load(_folder["one.safetensors"]);
        Assert.Equal(Parameters(_model), Parameters(again));
        Assert.Equal(Pixels(_model), Pixels(again, "DDIM"));
    }

    [Fact]
    public void A_checkpoint_without_tokenizers_says_how_to_give_them()
    {
        _model.Save(_folder["one.safetensors"]);
        using var again = DiffusionModelFiles.Load(_folder["one.safetensors"]);
        var error = Assert.Throws<PeftException>(() => Pixels(again));
        Assert.Equal("TokenizerMissing", error.ErrorId);
        Assert.Contains("-ConfigPath", error.RecommendedAction, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("model.diffusion_model.out.2.weight", null, "CheckpointIncomplete")]
    [InlineData("model.diffusion_model.middle_block.1.norm.weight", null, "WeightsMissing")]
    [InlineData("first_stage_model.decoder.norm_out.bias", null, "WeightsMissing")]
    [InlineData(null, "conditioner.embedders.0.transformer.text_model.final_layer_norm.bias", "CheckpointMixed")]
    [InlineData(null, "model.diffusion_model.label_emb.0.0.weight", "CheckpointMixed")]
    [InlineData(null, "model.diffusion_model.input_blocks.1.2.weight", "CheckpointKeysUnknown")]
    public void A_checkpoint_that_is_half_or_mixed_or_built_otherwise_is_refused_by_name(string? without, string? with, string errorId)
    {
        using var scope = NewDisposeScope();
        _model.Save(_folder["one.safetensors"]);
        using var file = SafetensorsFile.Open(_folder["one.safetensors"]);
        var tensors = file.Names.Where(name => name != without).Select(name => (name, file.Read(name)));
        SafetensorsWriter.Write(_folder["bad.safetensors"], with is null ? tensors : tensors.Append((with, zeros(4, 4))));
        var error = Assert.Throws<PeftException>(() => DiffusionModelFiles.Load(_folder["bad.safetensors"]));
        Assert.Equal(errorId, error.ErrorId);
        Assert.NotNull(error.RecommendedAction);
    }

    [Fact]
    public void A_file_of_an_adapter_or_of_anything_else_is_no_checkpoint()
    {
        using var scope = NewDisposeScope();
        SafetensorsWriter.Write(_folder["lora.safetensors"], [("lora_unet_mid_block_attentions_0_proj_in.lora_down.weight", zeros(4, 4))]);
        Assert.Equal("CheckpointNotRecognised", Assert.Throws<PeftException>(() => DiffusionModelFiles.Load(_folder["lora.safetensors"])).ErrorId);
    }

    [Fact]
    public void A_folder_that_lacks_a_part_names_it()
    {
        _model.Save(_folder["saved"]);
        File.Delete(Path.Combine(_folder["saved"], "vae", "config.json"));
        var error = Assert.Throws<PeftException>(() => DiffusionModelFiles.Load(_folder["saved"]));
        Assert.Equal("ModelPartMissing", error.ErrorId);
        Assert.Contains("vae", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Adapters_find_the_UNet_and_the_text_encoder_by_names_and_leave_the_autoencoder_alone()
    {
        var adapter = _model.AddAdapter(new LoraConfig { Rank = 2, TargetModules = ModuleNames.Of("to_q", "to_k", "to_v", "to_out.0", "q_proj") });
        var paths = adapter.AdaptedModules;
        Assert.Contains("unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k", paths);
        Assert.Contains("text_encoder.encoder.layers.0.self_attn.q_proj", paths);
        Assert.DoesNotContain(paths, static path => path.StartsWith("vae.", StringComparison.Ordinal));
    }

    [Fact]
    public void A_merged_adapter_is_in_the_file_that_is_written()
    {
        using var scope = NewDisposeScope();
        _model.AddAdapter(new LoraConfig { Rank = 2, TargetModules = ModuleNames.Of("to_q") }, seed: 1);
        foreach (var parameter in _model.Adapters[0].Adapter.Parameters())
        {
            parameter.Parameter.Data.fill_(0.1);
        }

        var adapted = Pixels(_model);
        _model.Merge(options: new Peft.Adapters.Merging.MergeOptions { Unload = true });
        _model.Save(_folder["merged"]);
        using var again = DiffusionModelFiles.Load(_folder["merged"]);
        Assert.Equal(Pixels(_model), Pixels(again));
        Assert.True(Difference(adapted, Pixels(again)) <= 2, "rounding alone");
    }

    [Fact]
    public void A_seed_repeats_a_picture_and_another_makes_another()
    {
        Assert.Equal(Pixels(_model, seed: 5), Pixels(_model, seed: 5));
        Assert.NotEqual(Pixels(_model, seed: 5), Pixels(_model, seed: 6));
    }

    [Fact]
    public void Where_a_mask_is_black_the_latents_of_the_picture_stay()
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        var parts = (DiffusionModel)_model.Base;
        var options = new ImageOptions { Steps = 4, Strength = 0.6 };
        var (prompt, negative) = new PromptEncoder(_model, parts).Encode("a bird", null, options, default);
        var (original, mask) = (randn(1, 4, 8, 8), zeros(1, 1, 8, 8));
        mask.narrow(3, 4, 4).fill_(1);
        using var scheduler = options.CreateScheduler(parts.SchedulerConfig);
        var made = new DenoisingRun(_model, parts, options).Run(scheduler, prompt, negative, new LatentStart(randn(1, 4, 8, 8)) { Original = original, Mask = mask }, () => randn(1, 4, 8, 8), null, default);
        TensorAssert.Close(original.narrow(3, 0, 4), made.narrow(3, 0, 4), 1e-6, 1e-6);
        Assert.True((original.narrow(3, 4, 4) - made.narrow(3, 4, 4)).abs().max().item<float>() > 0.1);
    }

    /// <summary>A UNet of nine channels reads the mask and the picture without what is changed beside the noise.</summary>
    [Fact]
    public void A_model_made_for_filling_reads_the_picture_and_the_mask_and_wants_both()
    {
        using var model = TinyStableDiffusion.Create(_folder.Path, channels: 9);
        var mask = Plain(0, right: 255);
        byte[] Filled(byte left, byte right, PixelImage? over) =>
            new ImageGenerator(model).Generate("a bird", new ImageOptions { Steps = 2, Seed = 1, Strength = 1, Image = Plain(left, right), Mask = over }).Image.Pixels;

        Assert.NotEqual(Filled(0, 128, mask), Filled(255, 128, mask));
        Assert.NotEqual(Filled(0, 128, mask), Filled(0, 128, Plain(255, 0)));
        Assert.Equal(Filled(0, 128, mask).Length, Filled(0, 128, null).Length);
        Assert.Equal("ImageOptionsInvalid", Assert.Throws<PeftException>(() => new ImageGenerator(model).Generate("a bird")).ErrorId);
        model.Save(_folder["filling.safetensors"]);
        model.Save(_folder["filling"]);
        using var again = DiffusionModelFiles.Load(_folder["filling.safetensors"], configPath: _folder["filling"]);
        Assert.Equal(9, ((DiffusionModel)again.Base).UNet.InputChannels);

        static PixelImage Plain(byte left, byte right) => new(16, 16, [.. Enumerable.Range(0, 256).SelectMany(at => Enumerable.Repeat(at % 16 < 8 ? left : right, 3))]);
    }

    [Fact]
    public void Cancelling_ends_between_steps_and_the_model_goes_on_working()
    {
        using var source = new CancellationTokenSource();
        var steps = 0;
        Assert.ThrowsAny<OperationCanceledException>(() => new ImageGenerator(_model).Generate("a bird", new ImageOptions { Steps = 10 }, _ =>
        {
            if (++steps == 2)
            {
                source.Cancel();
            }
        }, source.Token));
        Assert.Equal(2, steps);
        Assert.NotEmpty(Pixels(_model));
    }

    [Theory]
    [InlineData("a red bird with many feathers a red bird with many feathers", 2)]
    [InlineData("a red bird", 1)]
    public void A_prompt_beyond_what_the_encoder_reads_at_once_is_read_in_chunks(string text, int chunks)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        var (prompt, negative) = new PromptEncoder(_model, (DiffusionModel)_model.Base).Encode(text, "a fish", new ImageOptions(), default);
        Assert.Equal([1, chunks * TinyStableDiffusion.Length, 64], prompt.States.shape);
        Assert.Equal(prompt.States.shape, negative.States.shape);
    }

    private static byte[] Pixels(PeftModel model, string? scheduler = null, ulong seed = 1) =>
        new ImageGenerator(model).Generate("a red bird", new ImageOptions { Steps = 2, Seed = seed, Scheduler = scheduler, Width = 16, Height = 16 }).Image.Pixels;

    private static int Difference(byte[] one, byte[] other) => one.Zip(other, static (a, b) => Math.Abs(a - b)).Max();

    private static IEnumerable<string> Parameters(PeftModel model) => model.Base.NamedParameters().Select(static named => $"{named.Path} {string.Join('x', named.Parameter.Shape)}");
}
