using Peft.Training.Data;

namespace Peft.Tests.Training;

public sealed class DatasetSplitTests
{
    [Theory]
    [InlineData(new[] { 0.9 }, new[] { 90, 10 })]
    [InlineData(new[] { 0.8, 0.1, 0.1 }, new[] { 80, 10, 10 })]
    [InlineData(new[] { 0.25, 0.25 }, new[] { 25, 25, 50 })]
    [InlineData(new[] { 1.0 }, new[] { 100 })]
    public void Shares_are_kept_and_no_row_is_lost(double[] shares, int[] counts)
    {
        var data = Data(Enumerable.Range(0, 100).Select(static i => Row($"What is item {i}?", $"It is {i * i}.")));
        var parts = DatasetSplit.ByShare(data, shares);
        Assert.Equal(counts, parts.Select(static part => part.Count));
        Assert.Equal(Prompts(data).Order(), parts.SelectMany(Prompts).Order());
    }

    [Fact]
    public void The_same_seed_draws_the_same_and_another_one_others()
    {
        var data = Data(Enumerable.Range(0, 100).Select(static i => Row($"What is item {i}?", $"It is {i * i}.")));
        Assert.Equal(Prompts(DatasetSplit.ByShare(data, [0.5], 3)[0]), Prompts(DatasetSplit.ByShare(data, [0.5], 3)[0]));
        Assert.NotEqual(Prompts(DatasetSplit.ByShare(data, [0.5], 3)[0]), Prompts(DatasetSplit.ByShare(data, [0.5], 4)[0]));
    }

    [Fact]
    public void Rows_that_say_nearly_the_same_stay_in_one_part()
    {
        const string story = "A long enough story of a fox who went down to the river each morning to see how the light came over the hills, and how it went again in the evening number";
        var data = Data(Enumerable.Range(0, 60).SelectMany(static i => new[]
        {
            Row($"What is the name of star {i}?", $"Its name is {i * 7919}."),
            Row($"what is the name of star {i} ?!", "Another answer altogether."),
        }).Concat(Enumerable.Range(0, 20).Select(i => Row($"story {i}", $"{story} {i}"))));
        var parts = DatasetSplit.ByShare(data, [0.5], 1);
        Assert.Empty(parts[0].Rows.Select(Key).Intersect(parts[1].Rows.Select(Key)));
        Assert.Single(parts, static part => part.Rows.Any(static row => row.Text("completion").StartsWith("A long", StringComparison.Ordinal)));
        var apart = DatasetSplit.ByShare(data, [0.5], 1, keepsDuplicates: true);
        Assert.NotEmpty(apart[0].Rows.Select(Key).Intersect(apart[1].Rows.Select(Key)));

        static string Key(TrainingRow row) => new([.. row.Text("prompt").Where(char.IsLetterOrDigit).Select(char.ToUpperInvariant)]);
    }

    [Fact]
    public void Rows_of_a_group_stay_in_one_part()
    {
        var data = Data(Enumerable.Range(0, 100).Select(static i => Row($"q {i}", "a", $"person {i % 7}")));
        var parts = DatasetSplit.ByShare(data, [0.5], 0, "WHO");
        Assert.Empty(parts[0].Rows.Select(static row => row.Text("who")).Intersect(parts[1].Rows.Select(static row => row.Text("who"))));
    }

    [Fact]
    public void A_column_makes_its_own_parts()
    {
        var parts = DatasetSplit.ByColumn(Data(Enumerable.Range(0, 9).Select(static i => Row($"q {i}", "a", i % 3 == 0 ? "x" : "y"))), "who");
        Assert.Equal([3, 6], parts.Select(static part => part.Count));
        Assert.Equal("rows (who x)", parts[0].Origin);
    }

    [Theory]
    [InlineData(new double[0], "DatasetSharesInvalid")]
    [InlineData(new[] { 0.0 }, "DatasetSharesInvalid")]
    [InlineData(new[] { 0.8, 0.3 }, "DatasetSharesInvalid")]
    [InlineData(new[] { double.NaN }, "DatasetSharesInvalid")]
    [InlineData(new[] { 0.01 }, "DatasetPartEmpty")]
    public void What_can_t_be_cut_is_said(double[] shares, string id)
    {
        var error = Assert.Throws<PeftException>(() => DatasetSplit.ByShare(Data([Row("a", "b"), Row("c", "d")]), shares));
        Assert.Equal(id, error.ErrorId);
        Assert.NotNull(error.RecommendedAction);
    }

    private static IEnumerable<string> Prompts(TrainingDataset data) => data.Rows.Select(static row => row.Text("prompt"));

    private static TrainingDataset Data(IEnumerable<IReadOnlyDictionary<string, object?>> rows) => TrainingDataset.FromRows(rows, origin: "rows");

    private static Dictionary<string, object?> Row(string prompt, string completion, string? who = null) => new() { ["prompt"] = prompt, ["completion"] = completion, ["who"] = who };
}
