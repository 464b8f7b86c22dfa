using System.Text.Json.Nodes;
using Peft.Adapters.Model;
using Peft.Files;
using Peft.Generation;
using Peft.Models;

namespace Peft.Tests.Generation;

/// <summary>Texts of decoders and encoder-decoders, greedy and searched, against what transformers' <c>generate</c> gave under the same options.</summary>
public class GenerationReferenceTests
{
    private static readonly string s_folder = Path.Combine(RepositoryRoot.Folder, "tests", "references", "generation");
    private static readonly JsonObject s_reference = JsonFile.ReadNode(Path.Combine(s_folder, "reference.json"));

    public static IEnumerable<object[]> Cases() => s_reference["cases"]!.AsArray().Select((entry, i) => new object[] { i, (string)entry!["model"]!, entry["options"]!.ToJsonString() });

    [Theory]
    [MemberData(nameof(Cases))]
    public void Tokens_and_scores_are_transformers(int index, string model, string options)
    {
        var expected = s_reference["cases"]![index]!;
        using var loaded = PeftModel.Load(Path.Combine(s_folder, model));
        var results = new TextGenerator(loaded).Generate(Rows(expected["prompts"]!), new GenerationOptions().With(JsonNode.Parse(options)!.AsObject()));
        Assert.Equal(Rows(expected["added"]!), results.Select(static result => result.TokenIds));
        if (expected["scores"] is JsonArray scores)
        {
            var (absolute, relative) = ((double)s_reference["tolerance"]!["atol"]!, (double)s_reference["tolerance"]!["rtol"]!);
            Assert.All(scores.Zip(results), pair => Assert.Equal((double)pair.First!, pair.Second.Score!.Value, absolute + (relative * Math.Abs((double)pair.First!))));
        }
        else
        {
            Assert.All(results, static result => Assert.Null(result.Score));
        }
    }

    [Theory]
    [InlineData("t5")]
    [InlineData("bart")]
    [InlineData("llama")]
    public void A_row_alone_is_the_row_of_a_batch(string model)
    {
        using var loaded = PeftModel.Load(Path.Combine(s_folder, model));
        var generator = new TextGenerator(loaded);
        var prompts = Rows(s_reference["cases"]!.AsArray().First(entry => (string)entry!["model"]! == model)!["prompts"]!);
        foreach (var options in new[] { new GenerationOptions { MaxNewTokens = 9 }, new GenerationOptions { MaxNewTokens = 9, BeamCount = 3, ReturnCount = 2 } })
        {
            var together = generator.Generate(prompts, options);
            Assert.Equal(together.Select(static result => result.TokenIds), prompts.SelectMany(prompt => generator.Generate([prompt], options)).Select(static result => result.TokenIds));
        }
    }

    [Fact]
    public void Names_that_nobody_knows_are_named_and_those_that_ask_for_nothing_are_not()
    {
        var values = JsonNode.Parse("""{ "num_beams": 2, "guidance_scale": 1.0, "penalty_alpha": 0.0, "constraints": null, "transformers_version": "5.0" }""")!.AsObject();
        Assert.Equal(2, new GenerationOptions().With(values).BeamCount);
        values["penalty_alpha"] = 0.6;
        values["num_beam"] = 3;
        var error = Assert.Throws<NotSupportedByPeftException>(() => new GenerationOptions().With(values));
        Assert.Equal("GenerationOptionNotSupported", error.ErrorId);
        Assert.Contains("penalty_alpha, num_beam", error.Message, StringComparison.Ordinal);
        List<string> unsupported = [];
        Assert.Equal(2, GenerationOptions.FromDefaults(values, unsupported).BeamCount);
        Assert.Equal(["penalty_alpha", "num_beam"], unsupported);
    }

    [Fact]
    public void Several_draws_of_a_prompt_come_one_after_another()
    {
        using var loaded = PeftModel.Load(Path.Combine(s_folder, "t5"));
        var options = new GenerationOptions { MaxNewTokens = 6, Sample = true, ReturnCount = 3, Seed = 5 };
        var results = new TextGenerator(loaded).Generate([(IReadOnlyList<int>)[5, 6, 7], [8, 9]], options);
        Assert.Equal([3, 3, 3, 2, 2, 2], results.Select(static result => result.PromptTokens));
        Assert.True(results.Take(3).Select(static result => string.Join(' ', result.TokenIds)).Distinct().Count() > 1);
    }

    private static IReadOnlyList<IReadOnlyList<int>> Rows(JsonNode rows) => [.. rows.AsArray().Select(static row => (IReadOnlyList<int>)[.. row!.AsArray().Select(static id => (int)id!)])];
}
