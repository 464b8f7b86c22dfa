using System.Text.Json.Nodes;
using Peft.Adapters.Model;
using Peft.Models;
using Peft.Models.Gguf;
using static TorchSharp.torch;

namespace Peft.Tests.Models;

/// <summary>Models made in code, whose configuration has numbers of any type, as GGUF files without a tokenizer.</summary>
public sealed class GgufWithoutTokenizerTests : TensorFileTests
{
    [Fact]
    public void A_file_without_a_tokenizer_is_read_and_written_again_with_a_word_about_it()
    {
        var (first, second) = (Path.Combine(Folder.Path, "first.gguf"), Path.Combine(Folder.Path, "second.gguf"));
        using (var model = Made(Llama()))
        {
            model.SaveGguf(first, "F32");
        }

        var messages = new List<string>();
        using var read = PeftModel.Load(first);
        Assert.Null(read.Tokenizer);
        read.SaveGguf(second, "F32", onMessage: messages.Add);

        Assert.Contains(messages, static message => message.StartsWith("The model has no tokenizer", StringComparison.Ordinal));
        Assert.Equal(File.ReadAllBytes(first).Length, File.ReadAllBytes(second).Length);
        using var again = PeftModel.Load(second);
        Assert.All(read.Base.NamedWeights().Zip(again.Base.NamedWeights()), static pair => Assert.True(pair.First.Parameter.Data.equal(pair.Second.Parameter.Data).all().item<bool>()));
    }

    [Fact]
    public void A_bound_that_is_a_whole_number_counts_as_one_that_is_not()
    {
        static JsonObject Hybrid(params JsonNode[] limits) => new()
        {
            ["model_type"] = "granitemoehybrid", ["hidden_size"] = 24, ["shared_intermediate_size"] = 32, ["num_hidden_layers"] = 2, ["num_attention_heads"] = 4, ["num_key_value_heads"] = 2,
            ["num_local_experts"] = 0, ["layer_types"] = new JsonArray("mamba", "attention"), ["mamba_n_heads"] = 6, ["mamba_d_head"] = 8, ["mamba_d_state"] = 4, ["mamba_n_groups"] = 1,
            ["time_step_limit"] = new JsonArray(limits), ["tie_word_embeddings"] = true, ["vocab_size"] = 64,
        };

        using var whole = Made(Hybrid(1L, 2));
        using var real = Made(Hybrid(1.0, 2.0));
        using var none = Made(Hybrid(0, double.PositiveInfinity));
        Assert.True(Logits(whole).equal(Logits(real)).all().item<bool>());
        Assert.False(Logits(whole).equal(Logits(none)).all().item<bool>());
        Assert.Equal("GgufSettingNotSupported", Assert.Throws<NotSupportedByPeftException>(() => whole.SaveGguf(Path.Combine(Folder.Path, "whole.gguf"), "F32")).ErrorId);
        none.SaveGguf(Path.Combine(Folder.Path, "none.gguf"), "F32");
    }

    private static JsonObject Llama() => new()
    {
        ["model_type"] = "llama", ["hidden_size"] = 24, ["intermediate_size"] = 32, ["num_hidden_layers"] = 2, ["num_attention_heads"] = 4, ["num_key_value_heads"] = 2,
        ["tie_word_embeddings"] = true, ["vocab_size"] = 64,
    };

    private static PeftModel Made(JsonObject document) => new(RandomModel.Create(document), "made");

    private static Tensor Logits(PeftModel model)
    {
        using var noGrad = no_grad();
        using var ids = tensor(new long[] { 5, 17, 3, 40 }, [1, 4]);
        var context = new ForwardContext { Rows = 1, Length = 4 };
        var causal = (Peft.Models.Heads.CausalModel)model.Base;
        return causal.Logits(causal.Forward(ids, context), context);
    }
}
