using Peft.Adapters.Conversion;
using Peft.Adapters.Merging;
using Peft.Adapters.Model;
using Peft.Diffusion;
using Peft.Diffusion.Adapters;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Tests.Diffusion;

/// <summary>Adapters extracted from two checkpoints, as kohya's scripts and LyCORIS do by singular values, and merged into checkpoints of one file.</summary>
public sealed class ExtractionTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();
    private readonly PeftModel _base;
    private readonly PeftModel _tuned;

    public ExtractionTests() => (_base, _tuned) = (TinyStableDiffusion.Create(_folder.Path), TinyStableDiffusion.Create(_folder.Path));

    private static IReadOnlyList<string> Changed { get; } =
    [
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", "unet.down_blocks.0.attentions.0.proj_in", "unet.down_blocks.0.resnets.0.conv1", "text_encoder.encoder.layers.0.mlp.fc1",
    ];

    public void Dispose()
    {
        _base.Dispose();
        _tuned.Dispose();
        _folder.Dispose();
    }

    [Fact]
    public void The_change_at_a_rank_is_the_nearest_of_that_rank_and_convolutions_may_have_their_own()
    {
        Change(rank: null);
        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        var adapter = AdapterConversion.Extract(_base, _tuned.Base, "difference", new ConversionOptions { Rank = 3, ConvolutionRank = 5 });
        Assert.Equal(Changed.Order(StringComparer.Ordinal), adapter.AdaptedModules.Order(StringComparer.Ordinal));
        var expected = Changed.ToDictionary(static path => path, path =>
        {
            var (u, s, vh) = linalg.svd(Difference(path), fullMatrices: false);
            var rank = path.EndsWith("conv1", StringComparison.Ordinal) ? 5 : 3;
            return (u.narrow(1, 0, rank) * s.narrow(0, 0, rank)).mm(vh.narrow(0, 0, rank));
        });
        var before = Changed.ToDictionary(static path => path, path => Weight(_base, path).clone());
        _base.SetActive("difference");
        _base.Merge();
        Assert.All(expected, entry => Assert.True((Weight(_base, entry.Key) - before[entry.Key] - entry.Value).abs().max().item<float>() < 1e-5, entry.Key));
    }

    [Theory]
    [InlineData(0.3)]
    [InlineData(0.9)]
    public void By_energy_each_layer_has_the_smallest_rank_that_keeps_it(double energy)
    {
        Change(rank: null);
        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        var report = AdapterConversion.Extract(_base, _tuned.Base, "difference", new ConversionOptions { Energy = energy }).Conversion!;
        Assert.All(report.Layers, layer =>
        {
            var squares = linalg.svdvals(Difference(layer.Module)).square();
            var kept = (squares.cumsum(0) / squares.sum()).data<float>().ToArray();
            Assert.Equal(Array.FindIndex(kept, share => share >= energy) + 1, layer.Rank);
        });
    }

    /// <summary>Norms and biases are held too, where the format holds them; the autoencoder, which adapters don't reach, is said.</summary>
    [Fact]
    public void What_was_extracted_makes_the_tuned_model_of_the_base_in_every_format_that_holds_it()
    {
        const string Norm = "unet.down_blocks.0.resnets.0.norm1", Coder = "vae.quant_conv";
        Change(rank: 2);
        using var noGradients = no_grad();
        _tuned.Base.Find(Norm)!.Parameters[0].Data.add_(0.5);
        _tuned.Base.Find(Coder)!.Parameters[0].Data.add_(0.5);
        var adapter = AdapterConversion.Extract(_base, _tuned.Base, "difference", new ConversionOptions { Rank = 2 });
        Assert.Empty(adapter.Report.Messages);
        Assert.Equal(["vae"], adapter.Conversion!.Unreached);
        foreach (var format in Enum.GetValues<DiffusionAdapterFormat>())
        {
            var report = DiffusionAdapterFile.Save(_base, "difference", _folder[$"{format}.safetensors"], format);
            Assert.Equal(format == DiffusionAdapterFormat.LyCORIS, report.Lost.Count == 0);
            DiffusionAdapterFile.Load(_base, _folder[$"{format}.safetensors"], "read");
            _base.Merge(["read"]);
            Assert.All(Changed, path => Assert.True((Weight(_base, path) - Weight(_tuned, path)).abs().max().item<float>() < 1e-4, path));
            Assert.Equal(format == DiffusionAdapterFormat.LyCORIS, _base.Base.Find(Norm)!.Parameters[0].Data.sub(_tuned.Base.Find(Norm)!.Parameters[0].Data).abs().max().item<float>() < 1e-5);
            _base.UndoMerge();
            _base.RemoveAdapter("read");
        }
    }

    [Fact]
    public void A_merge_into_a_checkpoint_of_one_file_is_written_and_read_again_at_the_strength_it_had()
    {
        Change(rank: 2);
        using var noGradients = no_grad();
        _base.Save(_folder["folder"]);
        _base.Save(_folder["base.safetensors"]);
        AdapterConversion.Extract(_base, _tuned.Base, "difference", new ConversionOptions { Rank = 2 });
        DiffusionAdapterFile.Save(_base, "difference", _folder["lora.safetensors"], DiffusionAdapterFormat.Kohya);
        using var model = DiffusionModelFiles.Load(_folder["base.safetensors"], configPath: _folder["folder"]);
        DiffusionAdapterFile.Load(model, _folder["lora.safetensors"], "lora");
        model.SetActive([new ActiveAdapter("lora", 0.5f)]);
        model.Merge(options: new MergeOptions { Unload = true });
        model.Save(_folder["merged.safetensors"]);
        using var merged = DiffusionModelFiles.Load(_folder["merged.safetensors"], configPath: _folder["folder"]);
        Assert.All(Changed, path => Assert.True((Weight(merged, path) - Weight(_base, path) - (Difference(path) * 0.5)).abs().max().item<float>() < 1e-4, path));
        Assert.Equal(["base.safetensors", "lora.safetensors", "merged.safetensors"], Directory.GetFiles(_folder.Path).Select(Path.GetFileName).Order(StringComparer.Ordinal));
    }

    [Fact]
    public void Models_of_other_sizes_and_models_alike_are_refused()
    {
        Assert.Equal("AdapterConversionNotPossible", Assert.Throws<PeftException>(() => AdapterConversion.Extract(_base, _tuned.Base, "same")).ErrorId);
        using var other = PublishedModel.Of(BaseModelKind.First);
        Assert.Equal("ModelsDiffer", Assert.Throws<PeftException>(() => AdapterConversion.Extract(_base, other, "other")).ErrorId);
    }

    private static Tensor Weight(PeftModel model, string path) => ((IAdaptable)model.Base.Find(path)!).Weight.Data.flatten(1);

    private Tensor Difference(string path) => Weight(_tuned, path) - Weight(_base, path);

    private void Change(int? rank)
    {
        using var noGradients = no_grad();
        manual_seed(3);
        foreach (var path in Changed)
        {
            var weight = ((IAdaptable)_tuned.Base.Find(path)!).Weight.Data;
            var (rows, columns) = (weight.size(0), weight.numel() / weight.size(0));
            weight.add_((rank is { } low ? randn(rows, low).mm(randn(low, columns)) : randn(rows, columns)).view(weight.shape) * 0.1);
        }
    }
}
