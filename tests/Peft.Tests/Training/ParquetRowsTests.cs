using Parquet.Serialization;
using Peft.Training.Data;

namespace Peft.Tests.Training;

public sealed class ParquetRowsTests : IDisposable
{
    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("peft-parquet");

    [Fact]
    public async Task Rows_are_what_the_same_rows_in_JSON_are()
    {
        var path = Path.Combine(_folder.FullName, "a.parquet");
        using (var stream = File.Create(path))
        {
            await ParquetSerializer.SerializeAsync(
                new[]
                {
                    new Row { Id = 1, Score = 0.5f, Ok = true, Messages = [new Turn { role = "user", content = "hi" }, new Turn { role = "assistant", content = "日本" }], Tags = ["a", "b"] },
                    new Row { Id = 2, Messages = [new Turn { role = "user", content = "x" }, new Turn { role = "assistant", content = "y" }], Tags = [] },
                },
                stream,
                new Parquet.ParquetOptions { RowGroupSize = 1 });
        }

        var data = TrainingDataset.FromFile(path, new DatasetOptions { Columns = new Dictionary<ColumnRole, string> { [ColumnRole.Messages] = "Messages" } });
        Assert.Equal(["Id", "Score", "Ok", "Messages", "Tags"], data.ColumnNames);
        Assert.Equal([1L, 2L], data.Rows.Select(static row => row.Values["Id"]));
        Assert.Equal([0.5, null], data.Rows.Select(static row => row.Values["Score"]));
        Assert.Equal([true, null], data.Rows.Select(static row => row.Values["Ok"]));
        Assert.Equal(new object?[] { "a", "b" }, data.Rows[0].Values["Tags"]);
        Assert.Equal("日本", data.Rows[0].Messages("Messages")[1].Content);
        Assert.Equal([1, 2], data.Rows.Select(static row => row.Line));
    }

    public void Dispose() => _folder.Delete(recursive: true);

#pragma warning disable IDE1006 // The names in the file.
    public sealed class Turn
    {
        public string? role { get; set; }

        public string? content { get; set; }
    }
#pragma warning restore IDE1006

    public sealed class Row
    {
        public long Id { get; set; }

        public float? Score { get; set; }

        public bool? Ok { get; set; }

        public List<Turn>? Messages { get; set; }

        public List<string>? Tags { get; set; }
    }
}
