using System.Text.Json.Nodes;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Diffusion;
using Peft.Diffusion.Adapters;
using Peft.Models;
using Peft.Tests.Adapters;
using static TorchSharp.torch;

namespace Peft.Tests.Diffusion;

/// <summary>Strengths by block: which module has which, what they do, merged and not.</summary>
public sealed class BlockStrengthTests
{
    [Theory]
    [InlineData(BaseModelKind.First, 17, "BASE,IN01,IN02,IN04,IN05,IN07,IN08,M00,OUT03,OUT04,OUT05,OUT06,OUT07,OUT08,OUT09,OUT10,OUT11")]
    [InlineData(BaseModelKind.First, 26, "BASE,IN00,IN01,IN02,IN03,IN04,IN05,IN06,IN07,IN08,IN09,IN10,IN11,M00,OUT00,OUT01,OUT02,OUT03,OUT04,OUT05,OUT06,OUT07,OUT08,OUT09,OUT10,OUT11")]
    [InlineData(BaseModelKind.Large, 12, "BASE,IN04,IN05,IN07,IN08,M00,OUT00,OUT01,OUT02,OUT03,OUT04,OUT05")]
    [InlineData(BaseModelKind.Large, 20, "BASE,IN00,IN01,IN02,IN03,IN04,IN05,IN06,IN07,IN08,M00,OUT00,OUT01,OUT02,OUT03,OUT04,OUT05,OUT06,OUT07,OUT08")]
    public void Numbers_are_of_the_web_UIs_blocks(string kind, int count, string blocks)
    {
        using var model = PublishedModel.Of(kind);
        var names = blocks.Split(',');
        var strengths = BlockStrengths.Of(model, [.. Enumerable.Range(0, count).Select(static i => (float)i)]);
        foreach (var module in DiffusionModules.Of(model)!.All)
        {
            var original = module.OriginalPath?.Split('.');
            var block = module.Component != DiffusionModules.UNet ? "BASE" : original?[0] switch
            {
                "input_blocks" => "IN" + int.Parse(original[1], System.Globalization.CultureInfo.InvariantCulture).ToString("D2", System.Globalization.CultureInfo.InvariantCulture),
                "output_blocks" => "OUT" + int.Parse(original[1], System.Globalization.CultureInfo.InvariantCulture).ToString("D2", System.Globalization.CultureInfo.InvariantCulture),
                "middle_block" => "M00",
                _ => "none",
            };
            Assert.Equal(block == "none" ? 1 : Math.Max(0, Array.IndexOf(names, block)), strengths.Of(module.TreePath));
        }

        Assert.Equal("BlockStrengthsInvalid", Assert.Throws<PeftException>(() => BlockStrengths.Of(model, [1, 2, 3])).ErrorId);
    }

    [Fact]
    public void A_table_is_diffusers()
    {
        using var model = PublishedModel.Of(BaseModelKind.Large);
        var strengths = BlockStrengths.Of(model, (JsonObject)JsonNode.Parse("""{ "text_encoder": 0.5, "unet": { "down": 2, "mid": 3, "up": { "block_0": 4, "block_1": [5, 6, 7] } }, "IN04": 8 }""")!);
        const string Query = "transformer_blocks.0.attn1.to_q";
        Assert.Equal(
            [8f, 2, 3, 4, 5, 6, 7, 1, 0.5f, 1],
            new[]
            {
                $"unet.down_blocks.1.attentions.0.{Query}", $"unet.down_blocks.2.attentions.1.{Query}", $"unet.mid_block.attentions.0.{Query}", $"unet.up_blocks.0.attentions.2.{Query}",
                $"unet.up_blocks.1.attentions.0.{Query}", $"unet.up_blocks.1.attentions.1.{Query}", $"unet.up_blocks.1.resnets.2.conv1", "unet.conv_in",
                DiffusionModules.Of(model)!.Find("text_encoder.text_model.encoder.layers.3.mlp.fc1")!.TreePath,
                DiffusionModules.Of(model)!.Find("text_encoder_2.text_model.encoder.layers.3.mlp.fc1")!.TreePath,
            }.Select(strengths.Of));
    }

    [Theory]
    [InlineData("""{ "up": { "block_9": 1 } }""")]
    [InlineData("""{ "up": { "block_0": [1, 2] } }""")]
    [InlineData("""{ "up": { "first": 1 } }""")]
    [InlineData("""{ "up": "much" }""")]
    [InlineData("""{ "side": 1 }""")]
    public void What_the_model_has_not_is_refused(string table)
    {
        using var model = PublishedModel.Of(BaseModelKind.Large);
        Assert.Equal("BlockStrengthsInvalid", Assert.Throws<PeftException>(() => BlockStrengths.Of(model, (JsonObject)JsonNode.Parse(table)!)).ErrorId);
    }

    [Fact]
    public void Several_adapters_at_strengths_by_block_compute_the_same_merged_and_undo_gives_every_bit_back()
    {
        using var folder = new TemporaryFolder();
        using var model = TinyStableDiffusion.Create(folder.Path);
        using var noGradients = no_grad();
        foreach (var (name, seed) in new[] { ("one", 1ul), ("two", 2ul) })
        {
            model.AddAdapter(new LoraConfig { Rank = 2, Alpha = 2, TargetModules = ModuleNames.Of("to_q", "to_v", "conv1", "q_proj") }, name, seed).Perturb(seed);
        }

        ActiveAdapter one = new("one", 0.7f) { Modules = BlockStrengths.Of(model.Base, new JsonObject { ["down"] = 0.5, ["text_encoder"] = 0 }) }, two = new("two", -0.3f);
        var bits = ModelBits.Of(model.Base);
        model.SetActive([one, two]);
        using var beside = States(model);
        model.SetActive([new ActiveAdapter("one", 0.7f), two]);
        using var even = States(model);
        model.SetActive([one, two]);
        model.Merge();
        using var merged = States(model);
        model.UndoMerge();
        Assert.Equal(bits, ModelBits.Of(model.Base));
        Assert.True(beside.sub(even).abs().max().item<float>() > 1e-3);
        Assert.True(beside.sub(merged).abs().max().item<float>() < 1e-4);
        Assert.Equal([one, two], model.ActiveSet);
    }

    private static Tensor States(PeftModel model)
    {
        using var scope = NewDisposeScope();
        var parts = (DiffusionModel)model.Base;
        var pass = model.NewPass(new ForwardContext());
        var text = parts.EncodeText(parts.Tokenize("a red bird"), pass);
        return parts.Predict(ones(1, 4, 8, 8), [500], text, null, pass).MoveToOuterDisposeScope();
    }
}
