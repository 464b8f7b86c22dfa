using Peft.Adapters;
using Peft.Adapters.Merging;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Models;
using Peft.Tensors;
using Peft.Tests.Models;
using static TorchSharp.torch;

namespace Peft.Tests.Adapters;

public class AddedTokenTests
{
    private const string Text = "The cat <think> sat </think> here";

    [Fact]
    public void Tokens_have_rows_that_start_as_the_mean_of_their_phrase_or_of_all_and_change_nothing_else()
    {
        using var model = Pocket();
        using var before = model.Base.FindParameter("model.embed_tokens.weight")!.Data.clone();
        using var logits = Logits(model, "The cat sat");

        var ids = Add(model);

        Assert.Equal([4096, 4097, model.Tokenizer!.TokenId("<|user|>")!.Value], ids);
        var after = model.Base.FindParameter("model.embed_tokens.weight")!.Data;
        Assert.Equal([4098, 192], after.shape);
        Assert.Equal(4098, model.Config.Integer("vocab_size"));
        Assert.Same(after, model.Base.FindParameter("lm_head.weight")!.Data);
        var phrase = model.Tokenizer.EncodeIds("a long thought", addSpecialTokens: false).Select(static id => (long)id).ToArray();
        Assert.True(before.index_select(0, tensor(phrase)).mean([0]).sub(after[4096]).abs().max().item<float>() < 1e-6);
        Assert.True(before.mean([0]).sub(after[4097]).abs().max().item<float>() < 1e-6);
        using var now = Logits(model, "The cat sat");
        Assert.True(logits.sub(now.narrow(-1, 0, 4096)).abs().max().item<float>() < 1e-4);
        var cut = model.Tokenizer.EncodeIds(Text);
        Assert.Contains(4096, cut);
        Assert.Contains(4097, cut);
        Assert.Equal(Text, model.Tokenizer.Decode(cut, skipSpecialTokens: false));
        Assert.Equal("The cat  sat  here", model.Tokenizer.Decode(cut));
    }

    [Theory]
    [InlineData("tokens")]
    [InlineData("modules")]
    [InlineData("plain")]
    public void They_come_along_with_an_adapter_however_it_trains_them(string kind)
    {
        using var folder = new TemporaryFolder();
        using var model = Pocket();
        var ids = Add(model);
        var config = new LoraConfig
        {
            Rank = 2,
            TaskType = "CAUSAL_LM",
            TargetModules = ModuleNames.Of("q_proj"),
            TrainableTokens = kind == "tokens" ? new([ids[0], ids[1]]) : null,
            ModulesToSave = kind == "modules" ? ["embed_tokens", "lm_head"] : null,
            EnsureWeightTying = kind == "modules",
        };
        model.AddAdapter(config, "a", 1).Perturb(2, 0.05);
        model.SaveAdapter("a", folder.Path);
        using var expected = Logits(model, Text);

        using var other = Pocket();
        var adapter = other.LoadAdapter(folder.Path, "b");

        Assert.Empty(adapter.Report.Missing);
        Assert.Empty(adapter.Report.Unexpected);
        Assert.Contains("came with", Assert.Single(adapter.Report.Messages), StringComparison.Ordinal);
        using var found = Logits(other, Text);
        Assert.True(expected.sub(found).abs().max().item<float>() < 1e-4);
        var merged = Path.Combine(folder.Path, "merged");
        other.Merge(["b"], new MergeOptions { Unload = true });
        other.Save(merged);
        using var exported = PeftModel.Load(merged, new LoadOptions { DataType = ScalarType.Float32 });
        using var again = Logits(exported, Text);
        Assert.True(expected.sub(again).abs().max().item<float>() < 1e-3);
        Assert.Equal(4098, exported.Config.Integer("vocab_size"));

        // From folder to folder too.
        var shards = Path.Combine(folder.Path, "shards");
        FolderMerge.Run(PocketLlama.Folder, [folder.Path], shards);
        using var written = PeftModel.Load(shards, new LoadOptions { DataType = ScalarType.Float32 });
        Assert.Equal(4098, written.Base.Backbone.TokenEmbeddings!.Count);
        Assert.Equal(model.Tokenizer!.EncodeIds(Text), written.Tokenizer!.EncodeIds(Text));
    }

    [Fact]
    public void Tables_that_were_filled_up_to_a_round_number_come_along_as_they_are()
    {
        using var folder = new TemporaryFolder();
        using var model = Pocket();
        Add(model);
        model.AddAdapter(new LoraConfig { Rank = 2, TaskType = "CAUSAL_LM", TargetModules = ModuleNames.Of("q_proj") }, "a", 1).Perturb(2, 0.05);
        model.SaveAdapter("a", folder.Path);
        using var expected = Logits(model, Text);
        var path = Path.Combine(folder.Path, "adapter_model.safetensors");
        Dictionary<string, Tensor> tensors;
        using (var file = SafetensorsFile.Open(path))
        {
            tensors = file.Names.ToDictionary(static name => name, name => file.Read(name).clone());
        }

        // As resize_token_embeddings(…, pad_to_multiple_of=64) does.
        SafetensorsWriter.Write(path, tensors.Select(static entry => (entry.Key, entry.Key.Contains("embed_tokens", StringComparison.Ordinal) ? cat([entry.Value, ones(62, 192)]) : entry.Value)));

        using var other = Pocket();
        var adapter = other.LoadAdapter(folder.Path, "b");

        Assert.Empty(adapter.Report.Unexpected);
        Assert.Contains("2 tokens", Assert.Single(adapter.Report.Messages), StringComparison.Ordinal);
        Assert.Equal(4160, other.Config.Integer("vocab_size"));
        using var found = Logits(other, Text);
        Assert.True(expected.sub(found.narrow(-1, 0, 4098)).abs().max().item<float>() < 1e-4);
        Assert.Equal(192, other.Base.FindParameter("model.embed_tokens.weight")!.Data[4159].sum().item<float>());
    }

    [Fact]
    public void An_adapter_that_does_not_fit_leaves_the_vocabulary_as_it_was()
    {
        using var folder = new TemporaryFolder();
        using var model = Pocket();
        var ids = Add(model);
        model.AddAdapter(new LoraConfig { Rank = 2, TargetModules = ModuleNames.Of("q_proj"), TrainableTokens = new([ids[0]]) }, "a", 1);
        model.SaveAdapter("a", folder.Path);
        var config = Path.Combine(folder.Path, AdapterConfig.FileName);
        File.WriteAllText(config, File.ReadAllText(config).Replace("\"r\": 2", "\"r\": 3", StringComparison.Ordinal));

        using var other = Pocket();
        var bits = ModelBits.Of(other.Base);
        Assert.Equal("AdapterShapeMismatch", Assert.Throws<PeftException>(() => other.LoadAdapter(folder.Path)).ErrorId);

        Assert.Equal(bits, ModelBits.Of(other.Base));
        Assert.Equal(4096, other.Config.Integer("vocab_size"));
        Assert.Null(other.Tokenizer!.TokenId("<think>"));
    }

    [Fact]
    public void A_vocabulary_in_use_and_texts_that_are_no_tokens_are_refused()
    {
        using var model = Pocket();
        Assert.Equal("TokenInvalid", Assert.Throws<PeftException>(() => model.AddTokens([new NewToken(" x")])).ErrorId);
        model.AddAdapter(new LoraConfig { Rank = 2, TargetModules = ModuleNames.Of("embed_tokens") }, "a", 1);
        Assert.Equal("VocabularyInUse", Assert.Throws<PeftException>(() => Add(model)).ErrorId);
        Assert.Null(model.Tokenizer!.TokenId("<think>"));
    }

    private static IReadOnlyList<int> Add(PeftModel model) => model.AddTokens([new NewToken("<think>", "a long thought", IsSpecial: true), new NewToken("</think>", IsSpecial: true), new NewToken("<|user|>")]);

    private static PeftModel Pocket() => PeftModel.Load(PocketLlama.Folder, new LoadOptions { DataType = ScalarType.Float32 });

    private static Tensor Logits(PeftModel model, string text) => ModelRun.Logits(model, new Dictionary<string, Tensor>
    {
        ["input_ids"] = tensor([.. model.Tokenizer!.EncodeIds(text).Select(static id => (long)id)]).unsqueeze(0),
    });
}
