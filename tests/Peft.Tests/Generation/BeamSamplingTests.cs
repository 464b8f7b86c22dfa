using System.Text.Json.Nodes;
using Peft.Adapters.Model;
using Peft.Files;
using Peft.Generation;
using Peft.Generation.LogitsProcessors;
using Peft.Models;

namespace Peft.Tests.Generation;

/// <summary>A search that samples, and what a configuration says of generation, against what transformers gave (<c>beam_sampling.py</c>).</summary>
public class BeamSamplingTests
{
    private static readonly string s_folder = Path.Combine(RepositoryRoot.Folder, "tests", "references", "generation");
    private static readonly JsonObject s_reference = JsonFile.ReadNode(Path.Combine(s_folder, "beam_sampling.json"));

    public static TheoryData<int> Rules() => Indices("rules");

    public static TheoryData<int> Draws() => Indices("draws");

    public static TheoryData<int> Configurations() => Indices("configurations");

    [Theory]
    [MemberData(nameof(Rules))]
    public void Rules_keep_as_many_tokens_as_a_search_needs(int index)
    {
        var entry = s_reference["rules"]![index]!;
        var keep = (int)entry["keep"]!;
        var options = new GenerationOptions { Sample = true, BeamCount = keep > 1 ? 2 : 1 }.With(new JsonObject { [(string)entry["name"]!] = entry["value"]!.DeepClone() });
        var rule = Assert.Single(LogitsProcessorChain.Create(options, [.. Enumerable.Range(0, keep - 1)]));
        var scores = Scores(entry["scores"]!);
        rule([], 0, scores);
        Assert.Equal(Scores(entry["kept"]!), scores);
    }

    /// <summary>The peer drew 20,000 times and we draw 4,000: a share differs by chance by 5.5 standard deviations once in many million comparisons.</summary>
    [Theory]
    [MemberData(nameof(Draws))]
    public void Continuations_come_as_often_as_transformers(int index)
    {
        const int Rows = 500, Runs = 8;
        var entry = s_reference["draws"]![index]!;
        var options = new GenerationOptions().With(entry["options"]!.AsObject());
        IReadOnlyList<int> prompt = Ids(entry["prompt"]!);
        using var model = PeftModel.Load(Path.Combine(s_folder, (string)entry["model"]!));
        var generator = new TextGenerator(model);
        var counts = new Dictionary<string, int>(StringComparer.Ordinal);
        for (var run = 0; run < Runs; run++)
        {
            var results = generator.Generate([.. Enumerable.Repeat(prompt, Rows)], options with { Seed = (ulong)run + 1 });
            foreach (var group in results.Chunk(options.ReturnCount))
            {
                var key = Key(group.Select(static result => result.TokenIds));
                counts[key] = counts.GetValueOrDefault(key) + 1;
            }
        }

        var runs = (double)entry["runs"]!;
        foreach (var expected in entry["counts"]!.AsArray())
        {
            var share = (int)expected!["count"]! / runs;
            var ours = counts.GetValueOrDefault(Key(expected["added"]!.AsArray().Select(static row => Ids(row!)))) / (double)(Rows * Runs);
            Assert.InRange(ours, share - Margin(share), share + Margin(share));
        }

        double Margin(double share) => 5.5 * Math.Sqrt(share * (1 - share) * ((1 / runs) + (1.0 / (Rows * Runs))));
    }

    [Theory]
    [MemberData(nameof(Configurations))]
    public void A_model_without_generation_config_generates_as_its_configuration_says(int index)
    {
        var entry = s_reference["configurations"]![index]!;
        List<string> ours = [], theirs = [];
        var taken = GenerationOptions.FromDefaults(entry["taken"]!.AsObject(), theirs);
        var config = entry["config"]!.DeepClone().AsObject();
        Assert.Equivalent(taken, GenerationOptions.FromDefaults(GenerationFields.OfConfiguration(config), ours), strict: true);
        Assert.Equal(theirs, ours);
    }

    [Fact]
    public void A_file_of_generation_goes_before_the_configurations_fields()
    {
        using var folder = new TemporaryFolder();
        foreach (var path in Directory.GetFiles(Path.Combine(s_folder, "bart")))
        {
            File.Copy(path, Path.Combine(folder.Path, Path.GetFileName(path)));
        }

        var name = Path.Combine(folder.Path, "config.json");
        var config = JsonFile.ReadNode(name);
        (config["num_beams"], config["max_length"], config["forced_eos_token_id"]) = (3, 12, 1);
        File.WriteAllText(name, config.ToJsonString());
        using (var model = PeftModel.Load(folder.Path))
        {
            Assert.Equal(1, GenerationOptions.FromModel(model).BeamCount);
        }

        File.Delete(Path.Combine(folder.Path, "generation_config.json"));
        using (var model = PeftModel.Load(folder.Path))
        {
            var options = GenerationOptions.FromModel(model);
            Assert.Equal((3, 12, "1"), (options.BeamCount, options.MaxLength, string.Join(' ', options.ForcedEndIds)));
        }
    }

    private static TheoryData<int> Indices(string name) => [.. Enumerable.Range(0, s_reference[name]!.AsArray().Count)];

    private static float[] Scores(JsonNode row) => [.. row.AsArray().Select(static value => value is null ? float.NegativeInfinity : (float)value)];

    private static int[] Ids(JsonNode row) => [.. row.AsArray().Select(static id => (int)id!)];

    private static string Key(IEnumerable<IReadOnlyList<int>> rows) => string.Join('|', rows.Select(static row => string.Join(' ', row)));
}
