using System.Text.Json.Nodes;
using Peft.Files;
using Peft.Models;
using Peft.Models.Heads;
using Peft.Tensors;
using Peft.Tests.Golden;
using static TorchSharp.torch;

namespace Peft.Tests.Models;

/// <summary>What a folder's files hold decides what is shared, what is read and what is refused.</summary>
public sealed class StoredWeightTests : IDisposable
{
    private const string Embedding = "model.embed_tokens.weight";
    private const string Output = "lm_head.weight";

    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void An_output_layer_with_weights_of_its_own_keeps_them_though_the_configuration_ties_it()
    {
        using var plain = Logits(PocketLlama.Folder, out _);
        Write(weights => weights[Output] = weights[Embedding].mul(2));
        using var found = Logits(_folder.Path, out var messages);
        Assert.True(found.sub(plain.mul(2)).abs().max().item<float>() < 1e-4);
        Assert.Contains(Output, Assert.Single(messages), StringComparison.Ordinal);

        using (var model = ModelLoader.Load(_folder.Path))
        {
            ModelLoader.Save(model, _folder["saved"]);
        }

        Assert.False((bool)JsonFile.ReadNode(Path.Combine(_folder["saved"], "config.json"))["tie_word_embeddings"]!);
        using var again = Logits(_folder["saved"], out messages);
        Assert.Empty(messages);
        Assert.True(again.sub(found).abs().max().item<float>() == 0);
    }

    [Fact]
    public void Equal_weights_under_both_names_stay_shared_and_one_name_alone_serves_both()
    {
        using var plain = Logits(PocketLlama.Folder, out _);
        Write(weights => weights[Output] = weights[Embedding].clone());
        using var both = Logits(_folder.Path, out var messages);
        Assert.Empty(messages);
        using (var model = ModelLoader.Load(_folder.Path))
        {
            Assert.False(model.FindParameter(Output)!.IsOwner);
        }

        Write(weights =>
        {
            weights[Output] = weights[Embedding];
            weights.Remove(Embedding);
        });
        using var head = Logits(_folder.Path, out messages);
        Assert.Empty(messages);
        Assert.True(both.sub(plain).abs().max().item<float>() == 0);
        Assert.True(head.sub(plain).abs().max().item<float>() == 0);
    }

    [Theory]
    [InlineData("""{"quant_method":"fp8","activation_scheme":"dynamic","weight_block_size":[128,128]}""", "fp8")]
    [InlineData("""{"quant_method":"gptq","bits":4}""", "gptq")]
    [InlineData("""{"load_in_4bit":true,"bnb_4bit_quant_type":"nf4"}""", "bitsandbytes")]
    public void Quantised_weights_are_named_before_a_tensor_is_read(string settings, string method)
    {
        Write(static _ => { }, config => config["quantization_config"] = JsonNode.Parse(settings));
        File.Delete(_folder["model.safetensors"]);
        var error = Assert.Throws<NotSupportedByPeftException>(() => ModelLoader.Load(_folder.Path));
        Assert.Equal("QuantizationNotSupported", error.ErrorId);
        Assert.Contains(method, error.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(null)]
    [InlineData("null")]
    public void A_quantisation_that_says_nothing_does_no_harm(string? text)
    {
        Write(static _ => { }, config => config["quantization_config"] = text);
        using var found = Logits(_folder.Path, out var messages);
        Assert.Empty(messages);
    }

    [Fact]
    public void Tensors_that_nothing_computes_with_are_said_but_for_tables_that_follow_from_the_configuration()
    {
        Write(static weights =>
        {
            weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = ones(4);
            weights["model.layers.0.self_attn.q_proj.weight_scale_inv"] = ones(2);
        });
        using var found = Logits(_folder.Path, out var messages);
        Assert.Contains("q_proj.weight_scale_inv", Assert.Single(messages), StringComparison.Ordinal);
        Assert.DoesNotContain("inv_freq", messages[0], StringComparison.Ordinal);
    }

    private static Tensor Logits(string path, out List<string> messages)
    {
        List<string> said = [];
        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        using var model = (CausalModel)ModelLoader.Load(path, new LoadOptions { DataType = ScalarType.Float32, OnMessage = said.Add });
        var context = new ForwardContext();
        messages = said;
        return model.Logits(model.Forward(tensor(new long[] { 43, 803, 82, 866, 300, 17 }, [1, 6]), context), context).MoveToOuterDisposeScope();
    }

    private void Write(Action<Dictionary<string, Tensor>> change, Action<JsonObject>? changeConfig = null)
    {
        using var scope = NewDisposeScope();
        using var store = TensorStore.OpenFolder(PocketLlama.Folder);
        var weights = store.Names.ToDictionary(static name => name, name => store.Read(name), StringComparer.Ordinal);
        change(weights);
        SafetensorsWriter.Write(_folder["model.safetensors"], weights.Select(static entry => (entry.Key, entry.Value)));
        var config = JsonFile.ReadNode(Path.Combine(PocketLlama.Folder, "config.json"));
        changeConfig?.Invoke(config);
        JsonFile.Write(_folder["config.json"], config);
    }
}
