using System.Globalization;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using static TorchSharp.torch;

namespace Peft.Tests.Golden;

/// <summary>The engine's seeded generator draws what the peer's draws: adapters whose random parts aren't saved depend on it.</summary>
[Trait("Category", "Golden")]
public class RandomGoldenTests
{
    public static IEnumerable<object[]> Draws() => (Rows() ?? []).SelectMany(static row => ((JsonObject)row!)
            .Where(static entry => entry.Key != "seed").Select(entry => new object[] { (long)row!["seed"]!, entry.Key }))
        .DefaultIfEmpty([-1L, ""]);

    [SkippableTheory]
    [MemberData(nameof(Draws))]
    public void A_seed_draws_the_peers_numbers(long seed, string draw)
    {
        Skip.If(seed < 0, "no such table in this set");
        GoldenCases.Run(AdapterGolden.Domain, draw, _ =>
        {
            using var scope = NewDisposeScope();
            using var generator = new Generator((ulong)seed);
            var expected = ((JsonArray)Rows()!.First(row => (long)row!["seed"]! == seed)![draw]!).Select(static value => (double)value!).ToArray();
            var found = Draw(draw, generator).to(ScalarType.Float64).data<double>().ToArray();
            Assert.Equal(expected.Length, found.Length);
            for (var i = 0; i < expected.Length; i++)
            {
                Assert.True(Math.Abs(expected[i] - found[i]) <= 1e-6 * Math.Max(1, Math.Abs(expected[i])), $"number {i}: {found[i]}, expected {expected[i]}");
            }
        });
    }

    private static Tensor Draw(string draw, Generator generator)
    {
        var numbers = Regex.Matches(draw, @"-?\d+(?:\.\d+)?", RegexOptions.None, TimeSpan.FromSeconds(1))
            .Select(static match => double.Parse(match.Value, CultureInfo.InvariantCulture)).ToArray();
        var name = draw[..draw.IndexOf('(', StringComparison.Ordinal)];
        var first = (long)numbers[0];
        return name switch
        {
            "randperm" when numbers.Length > 1 => randperm(first, ScalarType.Int64, generator: generator)[..(int)numbers[1]],
            "randperm" => randperm(first, ScalarType.Int64, generator: generator),
            "randint" => randint(first, (long)numbers[1], [(long)numbers[2]], ScalarType.Int64, generator: generator),
            "rand" => rand([first], generator: generator),
            "randn" => randn([first], generator: generator),
            "empty" => empty(first).uniform_(numbers[1], numbers[2], generator),
            "bernoulli" => bernoulli(full([first], numbers[1]), generator),
            _ => throw new InvalidOperationException($"'{draw}' is no draw this test knows."),
        };
    }

    private static JsonArray? Rows()
    {
        var path = GoldenCases.DomainFolder(AdapterGolden.Domain) is { } folder ? Path.Combine(folder, "torch_rng.json") : "";
        return File.Exists(path) ? AdapterGolden.Read(path)["rows"] as JsonArray : null;
    }
}
