using Peft.Hub;

namespace Peft.Tests.Hub;

public sealed class HubDatasetFilesTests
{
    [Theory]
    [InlineData("configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: raw/a*.csv\n  - split: test\n    path: [raw/b.csv]", null, null, "raw/a1.csv raw/a2.csv")]
    [InlineData("configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: raw/a*.csv\n  - split: test\n    path: [raw/b.csv]", null, "test", "raw/b.csv")]
    [InlineData("configs:\n- config_name: other\n  data_dir: raw\n  data_files: b.csv\n- config_name: default\n  data_files: raw/a1.csv", "other", null, "raw/b.csv")]
    [InlineData("license: mit", null, null, "c.jsonl.gz")]
    [InlineData("configs: [", null, null, "c.jsonl.gz")]
    [InlineData("configs: &a [*b, {x: *a}]\n", null, null, "c.jsonl.gz")]
    public void A_readme_says_which_files_are_which_part(string front, string? subset, string? split, string chosen) => Assert.Equal(
        chosen.Split(' '),
        HubDatasetFiles.Choose(Files("README.md c.jsonl.gz raw/a1.csv raw/a2.csv raw/b.csv"), subset, split, card: $"---\n{front}\n---\nText").Select(static file => file.Path));

    [Fact]
    public void A_readme_whose_values_lie_in_each_other_without_end_says_nothing() => Assert.Single(
        HubDatasetFiles.Choose(Files("c.jsonl.gz"), null, null, card: $"---\nconfigs: {new string('[', 200_000)}\n---\nText"));

    [Theory]
    [InlineData("README.md databricks-dolly-15k-ja.json", null, null, "databricks-dolly-15k-ja.json")]
    [InlineData("data/train-00001-of-00002-abc.parquet data/train-00000-of-00002-abc.parquet data/test-00000-of-00001.parquet", null, null, "data/train-00000-of-00002-abc.parquet data/train-00001-of-00002-abc.parquet")]
    [InlineData("data/train_sft-00000-of-00001.parquet data/test_sft-00000-of-00001.parquet", null, "test_sft", "data/test_sft-00000-of-00001.parquet")]
    [InlineData("main/train-00000-of-00001.parquet socratic/train-00000-of-00001.parquet", "socratic", null, "socratic/train-00000-of-00001.parquet")]
    [InlineData("en/partial-train/0000.parquet en/test/0000.parquet", null, "test", "en/test/0000.parquet")]
    [InlineData("train.jsonl dev.jsonl eval.jsonl", null, "validation", "dev.jsonl")]
    [InlineData("train.csv train.jsonl dataset_infos.json", null, null, "train.jsonl")]
    [InlineData("train/a.txt test/a.txt", null, "TEST", "test/a.txt")]
    public void Names_tell_the_parts(string all, string? subset, string? split, string chosen) =>
        Assert.Equal(chosen.Split(' '), HubDatasetFiles.Choose(Files(all), subset, split).Select(static file => file.Path));

    [Theory]
    [InlineData("a/train.csv b/train.csv", null, "HubSubsetUnknown", "a, b")]
    [InlineData("dev.csv test.csv", null, "HubSplitUnknown", "validation, test")]
    [InlineData("train.csv", "test", "HubSplitUnknown", "train")]
    [InlineData("README.md x.arrow", null, "HubDatasetWithoutFiles", "x.arrow")]
    public void What_is_not_there_is_answered_with_what_is(string all, string? split, string id, string words)
    {
        var error = Assert.Throws<PeftException>(() => HubDatasetFiles.Choose(Files(all), null, split));
        Assert.Equal(id, error.ErrorId);
        Assert.Contains(words, error.Message, StringComparison.Ordinal);
        Assert.NotNull(error.RecommendedAction);
    }

    private static HubFile[] Files(string names) => [.. names.Split(' ').Select(static name => new HubFile(name, 1, new string('0', 40)))];
}
