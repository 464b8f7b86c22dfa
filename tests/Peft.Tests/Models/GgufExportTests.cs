using Peft.Adapters.Model;
using Peft.Models;
using Peft.Models.Heads;
using Peft.Models.Layers;
using Peft.Tensors;
using Peft.Tensors.Gguf;
using Peft.Tests.Golden;
using Peft.Tests.Peer;
using Peft.Training;
using Peft.Training.Data;
using static TorchSharp.torch;

namespace Peft.Tests.Models;

/// <summary>What GGUF files hold as they are written: blocks of every type, tokenizer, and what is said or refused.</summary>
public sealed class GgufExportTests : TensorFileTests
{
    [GoldenTheory]
    [GoldenData("gguf", "quantise")]
    public void Blocks_are_those_of_the_formats_own_package(string path) => GoldenCases.Run("gguf", path, folder =>
    {
        using var file = GgufFile.Open(Path.Combine(folder, "model.gguf"));
        using var reference = SafetensorsFile.Open(Path.Combine(folder, "reference.safetensors"));
        var values = reference.Read("values").data<float>().ToArray();
        var bytes = File.ReadAllBytes(Path.Combine(folder, "model.gguf"));
        foreach (var tensor in file.Tensors.Values.Where(static tensor => tensor.Type.Writer is not null))
        {
            Assert.Equal(bytes.AsSpan((int)tensor.Offset, (int)tensor.Length).ToArray(), GgufWriter.Quantized(values, tensor.Type));
        }
    });

    [Theory]
    [InlineData("Q4_K", 0.09)]
    [InlineData("Q5_K", 0.05)]
    [InlineData("Q6_K", 0.025)]
    public void Blocks_of_256_lose_as_little_as_their_bits_allow(string name, double share)
    {
        var values = randn(64, 512).mul_(0.02);
        values[3] = zeros(512);
        var type = GgufType.Named(name);
        var bytes = GgufWriter.Quantized(values.data<float>().ToArray(), type);
        var back = new float[values.NumberOfElements];
        for (var block = 0; block < back.Length / type.BlockValues; block++)
        {
            type.Reader!(bytes.AsSpan(block * type.BlockBytes, type.BlockBytes), back.AsSpan(block * type.BlockValues, type.BlockValues));
        }

        var difference = tensor(back).view(values.shape) - values;
        Assert.Equal(0, difference[3].abs().max().item<float>());
        Assert.True(difference.square().mean().sqrt().item<float>() < share * 0.02, $"{difference.square().mean().sqrt().item<float>()}");
    }

    [Theory]
    [InlineData("Q4_K")]
    [InlineData("Q5_K")]
    [InlineData("Q6_K")]
    public void Blocks_lose_less_where_it_counts_when_that_is_known(string name)
    {
        var type = GgufType.Named(name);
        var values = randn(32, 512).mul_(0.02);
        var importance = randn(512).mul_(2).exp_();
        var given = values.data<float>().ToArray();
        var (usual, weighted) = (Error(GgufWriter.Quantized(given, type)), Error(GgufWriter.Quantized(given, type, importance.data<float>().ToArray())));
        Assert.True(weighted < 0.9 * usual, $"{weighted} of {usual}");

        double Error(byte[] bytes)
        {
            var back = new float[given.Length];
            for (var block = 0; block < back.Length / type.BlockValues; block++)
            {
                type.Reader!(bytes.AsSpan(block * type.BlockBytes, type.BlockBytes), back.AsSpan(block * type.BlockValues, type.BlockValues));
            }

            return (tensor(back).view(values.shape) - values).square().mul(importance).mean().item<float>();
        }
    }

    [Fact]
    public void A_data_set_says_which_inputs_count()
    {
        using var model = PeftModel.Load(PocketLlama.Folder);
        var data = TrainingDataset.FromRows([Row("Question: What is the capital of Texas?\nAnswer: Austin"), Row("Question: What is the capital of Ohio?\nAnswer: Columbus")]).Tokenize(model.RequiredTokenizer, new TokenizationOptions());
        var importance = ColumnImportance.Measure(model, data);
        var layers = model.Base.Descendants().OfType<Linear>().Where(static layer => layer.Weight.IsOwner).ToArray();
        Assert.All(layers, layer => Assert.Equal(layer.Inputs, importance[layer.Path + ".weight"].Length));
        Assert.All(importance.Values, static squares => Assert.All(squares, static square => Assert.True(square >= 0 && float.IsFinite(square))));
        var (plain, calibrated) = (Path.Combine(Folder.Path, "a.gguf"), Path.Combine(Folder.Path, "b.gguf"));
        model.SaveGguf(plain, "Q4_K_M");
        model.SaveGguf(calibrated, "Q4_K_M", importance: importance);
        Assert.Equal(new FileInfo(plain).Length, new FileInfo(calibrated).Length);
        using var read = PeftModel.Load(calibrated);
        GgufLogits.Close(GgufLogits.Of((CausalModel)read.Base, GgufLogits.Ids), LlamaCpp.Logits(calibrated, GgufLogits.Ids), 2e-2);

        static Dictionary<string, object?> Row(string text) => new() { ["text"] = text };
    }

    [Theory]
    [InlineData("F32")]
    [InlineData("F16")]
    [InlineData("BF16")]
    [InlineData("Q8_0")]
    [InlineData("Q6_K")]
    [InlineData("Q5_K_M")]
    [InlineData("Q5_1")]
    [InlineData("Q5_0")]
    [InlineData("Q4_K_M")]
    [InlineData("Q4_1")]
    [InlineData("Q4_0")]
    public void A_file_of_a_type_is_read_by_llama_cpp_and_by_us_alike(string type)
    {
        using var model = PeftModel.Load(PocketLlama.Folder, new LoadOptions { DataType = ScalarType.Float32 });
        var file = Path.Combine(Folder.Path, "model.gguf");
        Assert.Equal([file, Path.Combine(Folder.Path, "Modelfile")], model.SaveGguf(file, type));
        using var read = PeftModel.Load(file);
        var ours = GgufLogits.Of((CausalModel)read.Base, GgufLogits.Ids);
        var theirs = LlamaCpp.Logits(file, GgufLogits.Ids);
        GgufLogits.Close(ours, theirs, type[0] is 'Q' or 'B' ? 2e-2 : 1e-3);

        // It rounds activations as well where weights are: single logits of a model as small as this one differ by up to 1.4 % of their range, the mean by far less.
        var mean = (ours - tensor(theirs.SelectMany(static row => row).ToArray()).view(ours.shape)).square().mean().sqrt();
        Assert.True(mean.item<float>() <= 5e-3 * (ours.max() - ours.min()).item<float>());

        // What the types lose on the way: the plain ones next to nothing.
        var loss = (ours - GgufLogits.Of((CausalModel)model.Base, GgufLogits.Ids)).abs().max().item<float>();
        var most = type switch { "F32" => 1e-4, "F16" => 0.05, "BF16" => 0.5, "Q8_0" => 0.5, _ => 12 };
        Assert.True(loss <= most, $"{loss} with {type}");
    }

    [Fact]
    public void Texts_are_the_same_tokens_there()
    {
        using var model = PeftModel.Load(PocketLlama.Folder);
        var file = Path.Combine(Folder.Path, "model.gguf");
        model.SaveGguf(file, "F16");
        using var back = PeftModel.Load(file);
        foreach (var text in new[] { "Question: What is the capital of Texas?\nAnswer:", "  two  blanks, 1234 and it's über-naïve", "<|user|>\nHello<|assistant|>\n", "日本語 🙂" })
        {
            var wanted = model.Tokenizer!.EncodeIds(text);
            Assert.Equal(wanted, LlamaCpp.Tokens(file, text));
            Assert.Equal(wanted, back.Tokenizer!.EncodeIds(text));
        }

        Assert.Equal(model.Tokenizer!.ChatTemplates.Source("default"), back.Tokenizer!.ChatTemplates.Source("default"));
    }

    [Fact]
    public void Types_whose_blocks_fill_no_row_are_said_to_be_replaced()
    {
        using var model = new PeftModel(RandomModel.Create("""{ "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 41, "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 1, "num_attention_heads": 4 }"""), "narrow");
        List<string> messages = [];
        var file = Path.Combine(Folder.Path, "model.gguf");
        model.SaveGguf(file, "Q4_K_M", onMessage: messages.Add);
        Assert.Contains(messages, static message => message.Contains("are Q5_0 instead of Q4_K", StringComparison.Ordinal) && message.Contains("blocks of 256 don't fill rows of 64", StringComparison.Ordinal) && message.Contains("blk.0.attn_q.weight", StringComparison.Ordinal));
        Assert.Contains(messages, static message => message.Contains("are Q8_0 instead of Q6_K", StringComparison.Ordinal));
        Assert.DoesNotContain(messages, static message => message.Contains("ffn_down", StringComparison.Ordinal));
        messages.Clear();
        model.SaveGguf(file, "Q8_0", onMessage: messages.Add);
        Assert.DoesNotContain(messages, static message => message.Contains("instead of", StringComparison.Ordinal));
    }

    [Fact]
    public void What_can_not_be_written_is_refused_before_anything_is()
    {
        using var model = PeftModel.Load(PocketLlama.Folder);
        var file = Path.Combine(Folder.Path, "model.gguf");
        Assert.Equal("GgufTypeNotSupported", Assert.Throws<NotSupportedByPeftException>(() => model.SaveGguf(file, "Q4_K_XL")).ErrorId);
        using var cancelled = new CancellationTokenSource();
        cancelled.Cancel();
        Assert.Throws<OperationCanceledException>(() => model.SaveGguf(file, "F16", cancellation: cancelled.Token));
        Assert.Empty(Directory.GetFiles(Folder.Path));
    }
}
