using System.Text.Json.Nodes;
using Peft.Training.Schedules;

namespace Peft.Tests.Golden;

/// <summary>Learning rates step by step against transformers' schedules.</summary>
[Trait("Category", "Golden")]
public sealed class ScheduleTableGoldenTests
{
    public static IEnumerable<object[]> Tables() => Entries("tables");

    public static IEnumerable<object[]> Plateaus() => Entries("plateaus");

    [SkippableTheory]
    [MemberData(nameof(Tables))]
    public void A_schedule_gives_the_peers_rate_at_every_step(int index, string name)
    {
        Skip.If(index < 0, "no such table in this set");
        GoldenCases.Run("training", "schedules", _ =>
        {
            var table = Document()!["tables"]![index]!;
            var rate = (double)table["rate"]!;
            var schedule = ScheduleRegistry.Create(
                name, rate, (int)table["warmup_steps"]!, (int)table["total_steps"]!, table["options"] as JsonObject);
            AssertRates(table["rates"]!.AsArray(), step => rate * schedule.Factor(step));
        });
    }

    [SkippableTheory]
    [MemberData(nameof(Plateaus))]
    public void A_schedule_that_watches_the_evaluation_follows_the_peer(int index, string name)
    {
        Skip.If(index < 0, "no such table in this set");
        GoldenCases.Run("training", "schedules", _ =>
        {
            var table = Document()!["plateaus"]![index]!;
            var rate = (double)table["rate"]!;
            var metrics = table["metrics"]!.AsArray().Select(metric => (double)metric!).ToArray();
            var schedule = ScheduleRegistry.Create(name, rate, 0, metrics.Length, table["options"] as JsonObject);
            AssertRates(table["rates_after_each_metric"]!.AsArray(), step =>
            {
                schedule.OnEvaluation(metrics[step]);
                return rate * schedule.Factor(step);
            });
        });
    }

    private static void AssertRates(JsonArray expected, Func<int, double> actual)
    {
        var tolerance = Document()!["tolerance"]!;
        var (absolute, relative) = ((double)tolerance["atol"]!, (double)tolerance["rtol"]!);
        for (var step = 0; step < expected.Count; step++)
        {
            var (right, found) = ((double)expected[step]!, actual(step));
            Assert.True(Math.Abs(right - found) <= absolute + (relative * Math.Abs(right)), $"step {step}: {right:R} expected, {found:R} found");
        }
    }

    private static IEnumerable<object[]> Entries(string key)
    {
        var entries = Document()?[key] as JsonArray ?? [];
        return entries.Select((entry, index) => new object[] { index, (string)entry!["schedule"]! }).DefaultIfEmpty([-1, ""]);
    }

    private static JsonNode? Document()
    {
        var file = GoldenCases.DomainFolder("training") is { } folder ? Path.Combine(folder, "schedules", "tables.json") : "";
        return File.Exists(file) ? JsonNode.Parse(File.ReadAllText(file)) : null;
    }
}
