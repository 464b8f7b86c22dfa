using System.Text.Json.Nodes;
using Peft.Generation;
using Peft.Generation.LogitsProcessors;
using Peft.Tensors;
using TorchSharp;

namespace Peft.Tests.Golden;

/// <summary>The sampling rules against what transformers makes of the same scores.</summary>
[Trait("Category", "Golden")]
[GoldenClaim("families", Holding = "io.safetensors", HoldingTensor = "scores")]
public sealed class LogitsProcessorGoldenTests
{
    public static IEnumerable<object[]> Cases() => GoldenCases.Enumerate("families")
        .Where(path => ReadCase(GoldenCases.PathOf("families", path))["arguments"]?["processors"] is not null)
        .SelectMany(path => ((JsonObject)ReadCase(GoldenCases.PathOf("families", path))["arguments"]!["processors"]!)
            .Select(rule => new object[] { path, rule.Key }))
        .DefaultIfEmpty(["", ""]);

    [SkippableTheory]
    [MemberData(nameof(Cases))]
    public void Rules_change_scores_as_the_peer_does(string path, string rule)
    {
        Skip.If(path.Length == 0, "no such case in this set");
        GoldenCases.Run("families", path, folder => Check(folder, rule));
    }

    private static void Check(string folder, string rule)
    {
        var document = ReadCase(folder);
        var arguments = document["arguments"]!;
        var endOfText = new[] { (int)arguments["eos_token_id"]! };
        var options = OptionsOf((JsonObject)arguments["processors"]![rule]!["options"]!);
        options.Validate();
        var chain = LogitsProcessorChain.Create(options, endOfText);
        var promptLength = (int)arguments["prompt_length"]!;
        using var file = SafetensorsFile.Open(Path.Combine(folder, "io.safetensors"));
        using var scope = torch.NewDisposeScope();
        var ids = file.Read("input_ids");
        var mask = file.Read("attention_mask");
        var scores = file.Read("scores");
        var expected = file.Read($"processed.{rule}");
        for (var row = 0; row < ids.shape[0]; row++)
        {
            var isToken = mask[row].data<long>().ToArray();
            var rowIds = ids[row].data<long>().ToArray().Where((_, i) => isToken[i] == 1).Select(id => (int)id).ToArray();
            var actual = scores[row].data<float>().ToArray();
            foreach (var process in chain)
            {
                process(rowIds, (int)ids.shape[1] - promptLength, actual);
            }

            AssertRow(expected[row].data<float>().ToArray(), actual, (float)document["tolerance"]!["atol"]!, (float)document["tolerance"]!["rtol"]!, $"{rule}, row {row}");
        }
    }

    private static void AssertRow(float[] expected, float[] actual, float absolute, float relative, string what)
    {
        // Which of several equal scores stays at a limit is free, how many is not: compare sorted.
        var left = expected.Order().ToArray();
        var right = actual.Order().ToArray();
        for (var i = 0; i < left.Length; i++)
        {
            if (float.IsNegativeInfinity(left[i]) || float.IsNegativeInfinity(right[i]))
            {
                Assert.True(left[i] == right[i], $"{what}: another number of tokens was removed");
            }
            else
            {
                Assert.True(Math.Abs(left[i] - right[i]) <= absolute + (relative * Math.Abs(left[i])), $"{what}: {left[i]} expected, {right[i]} found");
            }
        }

        for (var i = 0; i < expected.Length; i++)
        {
            if (!float.IsNegativeInfinity(expected[i]) && !float.IsNegativeInfinity(actual[i]))
            {
                Assert.True(Math.Abs(expected[i] - actual[i]) <= absolute + (relative * Math.Abs(expected[i])), $"{what}, id {i}: {expected[i]} expected, {actual[i]} found");
            }
        }
    }

    private static GenerationOptions OptionsOf(JsonObject given)
    {
        var known = new HashSet<string>
        {
            "temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "top_h", "repetition_penalty", "no_repeat_ngram_size",
            "bad_words_ids", "suppress_tokens", "min_new_tokens", "sequence_bias", "renormalize_logits",
        };
        foreach (var (key, _) in given)
        {
            Assert.True(known.Contains(key), $"nobody knows the option {key}");
        }

        return new GenerationOptions
        {
            Sample = true,
            Temperature = (double?)given["temperature"] ?? 1,
            TopK = (int?)given["top_k"] ?? 0,
            TopP = (double?)given["top_p"] ?? 1,
            MinP = (double?)given["min_p"] ?? 0,
            TypicalP = (double?)given["typical_p"] ?? 1,
            EpsilonCutoff = (double?)given["epsilon_cutoff"] ?? 0,
            EtaCutoff = (double?)given["eta_cutoff"] ?? 0,
            TopH = (double?)given["top_h"],
            RepetitionPenalty = (double?)given["repetition_penalty"] ?? 1,
            NoRepeatNgramSize = (int?)given["no_repeat_ngram_size"] ?? 0,
            BadWords = [.. (given["bad_words_ids"] as JsonArray ?? []).Select(word => (IReadOnlyList<int>)[.. word!.AsArray().Select(id => (int)id!)])],
            SuppressedTokens = [.. (given["suppress_tokens"] as JsonArray ?? []).Select(id => (int)id!)],
            MinNewTokens = (int?)given["min_new_tokens"] ?? 0,
            SequenceBias = [.. (given["sequence_bias"] as JsonArray ?? []).Select(bias =>
                ((IReadOnlyList<int>)[.. bias![0]!.AsArray().Select(id => (int)id!)], (double)bias[1]!))],
            RenormalizeLogits = (bool?)given["renormalize_logits"] ?? false,
        };
    }

    private static JsonNode ReadCase(string folder) => JsonNode.Parse(File.ReadAllText(Path.Combine(folder, "case.json")))!;
}
