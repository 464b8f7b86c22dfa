using System.Text.Json.Nodes;
using Peft.Adapters.Model;
using Peft.Generation;
using Peft.Models;
using Peft.Tests.Adapters;
using Peft.Tests.Models;
using TorchSharp;

namespace Peft.Tests.Generation;

/// <summary>Continuing texts with the embedded model; alone, for one of the tests counts live tensors.</summary>
[Collection(LiveTensors.Name)]
public sealed class TextGeneratorTests : IDisposable
{
    private readonly PeftModel _model = PeftModel.Load(PocketLlama.Folder, new LoadOptions { DataType = torch.ScalarType.Float32 });

    public void Dispose() => _model.Dispose();

    [Fact]
    public void Rows_padded_on_the_left_continue_as_they_do_alone()
    {
        var prompts = new[] { "The people of the United States", "Call me", "whale: " };
        var options = new GenerationOptions { MaxNewTokens = 16 };
        var generator = new TextGenerator(_model);
        var together = generator.Generate(prompts, options);
        for (var i = 0; i < prompts.Length; i++)
        {
            Assert.Equal(generator.Generate([prompts[i]], options)[0].TokenIds, together[i].TokenIds);
        }
    }

    [Theory]
    [InlineData(-1)]
    [InlineData(1_000_000)]
    public void A_padding_token_outside_the_vocabulary_does_no_harm(int padding)
    {
        _model.Config.Document["pad_token_id"] = padding;
        var results = new TextGenerator(_model).Generate(["The people of the United States", "Call me"], new GenerationOptions { MaxNewTokens = 2 });
        Assert.All(results, static result => Assert.NotEmpty(result.TokenIds));
    }

    [Fact]
    public void Values_that_only_sampling_reads_do_not_stop_greedy_work()
    {
        var published = GenerationOptions.FromDefaults(new JsonObject { ["do_sample"] = false, ["temperature"] = 0.0, ["top_k"] = -1, ["top_p"] = 0.0 });
        var results = new TextGenerator(_model).Generate(["Once upon a time"], published with { MaxNewTokens = 3 });
        Assert.Equal(new TextGenerator(_model).Generate(["Once upon a time"], new GenerationOptions { MaxNewTokens = 3 })[0].TokenIds, results[0].TokenIds);
        Assert.Equal("GenerationOptionInvalid", Assert.Throws<PeftException>((published with { Sample = true }).Validate).ErrorId);
    }

    [Fact]
    public void The_tokenizers_own_end_is_among_what_ends_a_text_and_stays_so_in_a_saved_folder()
    {
        using var folder = new TemporaryFolder();
        foreach (var file in Directory.GetFiles(PocketLlama.Folder))
        {
            File.Copy(file, folder[System.IO.Path.GetFileName(file)]);
        }

        var configuration = JsonNode.Parse(File.ReadAllText(folder["tokenizer_config.json"]))!;
        configuration["eos_token"] = "<|user|>";
        folder.Write("tokenizer_config.json", configuration.ToJsonString());
        using var changed = PeftModel.Load(folder.Path);
        var own = changed.Tokenizer!.EosTokenId!.Value;
        Assert.Equal([own, 0], changed.EndOfTextIds);
        changed.Save(folder["saved"]);
        using var saved = PeftModel.Load(folder["saved"]);
        Assert.Equal([own, 0], new ModelConfig(saved.GenerationDefaults!).TokenIds("eos_token_id"));
        Assert.Equal([0], _model.EndOfTextIds);
    }

    [Fact]
    public void The_cache_changes_nothing()
    {
        var options = new GenerationOptions { MaxNewTokens = 24 };
        var generator = new TextGenerator(_model);
        Assert.Equal(
            generator.Generate(["It was a dark night at sea"], options with { UseCache = false })[0].TokenIds,
            generator.Generate(["It was a dark night at sea"], options)[0].TokenIds);
    }

    [Fact]
    public void A_seed_repeats_a_draw_and_does_not_depend_on_neighbours()
    {
        var options = new GenerationOptions { MaxNewTokens = 12, Sample = true, Temperature = 1.2, TopK = 50, TopP = 0.95, Seed = 7 };
        var generator = new TextGenerator(_model);
        var alone = generator.Generate(["The whale"], options)[0];
        Assert.Equal(alone.TokenIds, generator.Generate(["The whale"], options)[0].TokenIds);
        Assert.Equal(alone.TokenIds, generator.Generate(["The whale", "My fellow citizens"], options)[0].TokenIds);
        Assert.NotEqual(alone.TokenIds, generator.Generate(["The whale"], options with { Seed = 8 })[0].TokenIds);
    }

    [Fact]
    public void A_stop_string_ends_a_row_alone()
    {
        var options = new GenerationOptions { MaxNewTokens = 20 };
        var generator = new TextGenerator(_model);
        var whole = generator.Generate(["The people of the United States", "Call me"], options);
        var stop = whole[0].Text[3..6];
        var stopped = generator.Generate(["The people of the United States", "Call me"], options with { StopStrings = [stop] });
        Assert.Equal(FinishReason.StopString, stopped[0].FinishReason);
        Assert.Equal(whole[0].Text[..whole[0].Text.IndexOf(stop, StringComparison.Ordinal)], stopped[0].Text);
    }

    [Fact]
    public void Streamed_pieces_are_the_text()
    {
        var pieces = new List<GenerationChunk>();
        var result = new TextGenerator(_model).Generate(["whale: "], new GenerationOptions { MaxNewTokens = 20 }, onChunk: pieces.Add)[0];
        Assert.Equal(result.Text, string.Concat(pieces.Select(piece => piece.Text)));
        Assert.Equal(result.TokenIds, pieces.Select(piece => piece.TokenId));
    }

    [Fact]
    public void Cancelling_ends_the_work_and_leaves_the_model_usable()
    {
        using var source = new CancellationTokenSource();
        var generator = new TextGenerator(_model);
        Assert.ThrowsAny<OperationCanceledException>(() => generator.Generate(
            ["whale: "], new GenerationOptions { MaxNewTokens = 100 }, onChunk: _ => source.Cancel(), cancellation: source.Token));
        Assert.Single(generator.Generate(["whale: "], new GenerationOptions { MaxNewTokens = 2 }));
    }

    [Fact]
    public void A_second_operation_on_the_same_model_is_refused()
    {
        var generator = new TextGenerator(_model);
        Exception? error = null;
        generator.Generate(["whale: "], new GenerationOptions { MaxNewTokens = 1 }, onChunk: _ =>
        {
            // A thread of its own: a task that is waited for may run on the thread that holds the model.
            var second = new Thread(() => error = Record.Exception(() => generator.Generate(["x"], new GenerationOptions { MaxNewTokens = 1 })));
            second.Start();
            second.Join();
        });
        Assert.Equal("PeftModelBusy", Assert.IsType<PeftException>(error).ErrorId);
    }

    [Fact]
    public void Two_hundred_tokens_leave_no_tensor_behind()
    {
        var generator = new TextGenerator(_model);
        generator.Generate(["whale: "], new GenerationOptions { MaxNewTokens = 3 });
        LiveTensors.Settle();
        var before = torch.Tensor.TotalCount;
        generator.Generate(["whale: ", "Call me"], new GenerationOptions { MaxNewTokens = 200, MinNewTokens = 200 });
        Assert.Equal(before, torch.Tensor.TotalCount);
    }

    [Fact]
    public void Perplexity_is_the_peers()
    {
        var expected = JsonNode.Parse(File.ReadAllText(PocketLlama.Reference("reference.json")))!["perplexity"]!;
        var found = PerplexityResult.Measure(_model, File.ReadAllText(PocketLlama.Reference((string)expected["passage"]!)), windowLength: 256);
        Assert.Equal((int)expected["tokens"]!, found.Tokens);
        Assert.Equal((double)expected["value"]!, found.Value, 0.01);
    }

    [Theory]
    [InlineData(0, 1, 1)]
    [InlineData(5, 0, 1)]
    [InlineData(5, 1, 0)]
    public void Options_that_cannot_be_are_named(int tokens, double temperature, double topP)
    {
        var error = Assert.Throws<PeftException>(() => new GenerationOptions { MaxNewTokens = tokens, Sample = true, Temperature = temperature, TopP = topP }.Validate());
        Assert.Equal("GenerationOptionInvalid", error.ErrorId);
    }
}
