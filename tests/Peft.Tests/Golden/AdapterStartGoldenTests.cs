using System.Globalization;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using Peft.Adapters;
using Peft.Adapters.Model;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Tests.Golden;

/// <summary>How the tensors of a method start: their kind of distribution and its width, as measured on the peer over several seeds.</summary>
[Trait("Category", "Golden")]
public class AdapterStartGoldenTests
{
    private const int Seeds = 4;

    /// <summary>What the table's arguments leave out although the layers' sizes need it.</summary>
    private static readonly Dictionary<string, (string Field, string Value)> s_unsaid = new()
    {
        ["POLY"] = ("n_tasks", "64"),
        ["ROAD"] = ("group_size", "32"),
        ["TRAINABLE_TOKENS"] = ("token_indices", $"[{string.Join(',', Enumerable.Range(0, 50))}]"),
    };

    public static IEnumerable<object[]> Methods() => (Table()?["methods"] as JsonObject ?? []).Select(static entry => new object[] { entry.Key }).DefaultIfEmpty([""]);

    [SkippableTheory]
    [MemberData(nameof(Methods))]
    public void A_method_starts_as_the_peers(string method)
    {
        Skip.If(method.Length == 0, "no such table in this set");
        GoldenCases.Run(AdapterGolden.Domain, method, _ =>
        {
            var table = Table()!;
            var row = table["methods"]![method]!;
            var arguments = (JsonObject)row["arguments"]!.DeepClone();
            if (s_unsaid.TryGetValue((string)arguments["peft_type"]!, out var unsaid))
            {
                arguments.TryAdd(unsaid.Field, JsonNode.Parse(unsaid.Value));
            }

            // The table leaves this argument out; that there are cores between factors tells it.
            if (((JsonObject)row["tensors"]!).Any(static entry => entry.Key.EndsWith("_t2", StringComparison.Ordinal)))
            {
                arguments["use_effective_conv2d"] = true;
            }

            var config = AdapterConfig.FromJson(arguments);
            config.Validate();
            Dictionary<string, List<float>> values = [];
            for (ulong seed = 0; seed < Seeds; seed++)
            {
                using var model = new PeftModel(new Wide((JsonObject)table["layers"]!, seed), "wide");
                foreach (var parameter in model.AddAdapter(config, "default", seed).Adapter.Parameters().Where(static parameter => parameter.Role != ParameterRole.Derived))
                {
                    var key = (parameter.FileKey ?? parameter.FullKey).Replace("base_model.model.", "", StringComparison.Ordinal);
                    values.TryAdd(key, []);
                    using var numbers = parameter.Parameter.Data.to(ScalarType.Float32);
                    values[key].AddRange(numbers.data<float>());
                }
            }

            var tensors = (JsonObject)row["tensors"]!;
            Assert.Equal(tensors.Select(static entry => entry.Key).Where(key => tensors[key]!["rule"] is not null).Except(values.Keys), []);
            Assert.All(values, entry => AssertLike(tensors[entry.Key]!["measured"]!, entry.Value, entry.Key));
        });
    }

    private static void AssertLike(JsonNode measured, List<float> values, string key)
    {
        var mean = values.Average(static value => (double)value);
        var deviation = Math.Sqrt(values.Average(value => Math.Pow(value - mean, 2)));
        if ((string)measured["kind"]! == "constant")
        {
            Assert.All(values, value => Assert.Equal((float)(double)measured["value"]!, value));
            return;
        }

        var kurtosis = values.Average(value => Math.Pow(value - mean, 4)) / Math.Pow(deviation, 4);
        Assert.True(Math.Abs((deviation / (double)measured["std"]!) - 1) < 0.12, $"{key}: standard deviation {deviation}, the peer's {measured["std"]}");

        // Two samples of a normal distribution differ in it by the root of 48 / n in the mean; a method that copies what the base has starts with few values.
        var allowed = Math.Max(0.4, 4 * Math.Sqrt(48.0 / values.Count));
        Assert.True(Math.Abs(kurtosis - (double)measured["kurtosis"]!) < allowed, $"{key}: kurtosis {kurtosis}, the peer's {measured["kurtosis"]}");
        // And by the root of 2 / n deviations in the mean.
        Assert.True(Math.Abs(mean - (double)measured["mean"]!) < Math.Max(0.1, 4 * Math.Sqrt(2.0 / values.Count)) * deviation, $"{key}: mean {mean}, the peer's {measured["mean"]}");
        if ((string)measured["kind"]! == "uniform")
        {
            var bound = values.Max(Math.Abs);
            Assert.True(Math.Abs((bound / (double)measured["bound"]!) - 1) < 0.1, $"{key}: bound {bound}, the peer's {measured["bound"]}");
        }
    }

    private static JsonObject? Table()
    {
        var path = GoldenCases.DomainFolder(AdapterGolden.Domain) is { } folder ? Path.Combine(folder, "initial_state.json") : "";
        return File.Exists(path) ? AdapterGolden.Read(path) : null;
    }

    /// <summary>The layers of the table.</summary>
    private sealed class Wide : PretrainedModel
    {
        public Wide(JsonObject layers, ulong seed)
            : base(new ModelConfig([]), "Wide")
        {
            foreach (var (name, shape) in layers)
            {
                if (shape is not JsonArray sizes)
                {
                    // Written as PyTorch prints it: Conv2d(16, 24, 3).
                    long[] numbers = [.. Regex.Matches((string)shape!, @"(?<=[ (])\d+").Select(static match => long.Parse(match.Value, CultureInfo.InvariantCulture))];
                    Add(name, new Convolution(numbers[0], numbers[1], [numbers[2], numbers[2]]));
                }
                else if (name.StartsWith("emb", StringComparison.Ordinal))
                {
                    Add(name, new Embedding((long)sizes[0]!, (long)sizes[1]!));
                }
                else
                {
                    Add(name, new Linear((long)sizes[1]!, (long)sizes[0]!, hasBias: true));
                }
            }

            Add("norm", new LayerNorm(192, 1e-5));
            using var generator = new Generator(seed);
            foreach (var (_, parameter, module) in NamedParameters())
            {
                // The start of a linear layer in PyTorch, from which some methods start.
                var values = empty([.. parameter.Shape]);
                parameter.Assign(module is LayerNorm ? values.fill_(parameter.Name == "weight" ? 1 : 0) : module is Linear linear ? values.uniform_(-1 / Math.Sqrt(linear.Inputs), 1 / Math.Sqrt(linear.Inputs), generator) : values.normal_(0, 1, generator));
            }
        }
    }
}
