using System.Buffers.Binary;
using System.Text;
using System.Text.Json;
using Peft.Training;
using Peft.Training.Data;
using Peft.Training.Reports;

namespace Peft.Tests.Training;

/// <summary>What people look at after a training: the page, and TensorBoard's files.</summary>
public sealed class TrainingReportPageTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void Ten_thousand_steps_are_a_page_of_less_than_two_megabytes_that_asks_for_nothing_else()
    {
        var html = TrainingReportPage.Html([(Record("tuned", 10_000), [])]);
        Assert.InRange(Encoding.UTF8.GetByteCount(html), 10_000, 2_000_000);
        Assert.DoesNotContain("{{", html, StringComparison.Ordinal);
        foreach (var outside in (string[])["src=", "href=", "@import", "url(", "fetch("])
        {
            Assert.DoesNotContain(outside, html, StringComparison.Ordinal);
        }

        Assert.DoesNotContain("http", html.Replace("http://www.w3.org/2000/svg", "", StringComparison.Ordinal), StringComparison.Ordinal);
    }

    [Fact]
    public void The_page_holds_every_figure_and_nothing_in_a_text_is_read_as_markup()
    {
        var record = Record("a", 3) with
        {
            Evaluations = [new EvaluationRecord(3, 1, 0.5) { Metrics = new Dictionary<string, double> { ["accuracy"] = 0.75 }, Samples = [new TrainingSample("</script><b>", "an answer")] }],
            Messages = ["<i>message</i>"],
        };
        var html = TrainingReportPage.Html([(record, [new HardExample(7.5, "<u>, line 3", [new ExampleSegment("read ", false, 1), new ExampleSegment("</script>", true, 1)])]), (Record("a", 2), [])], "<title>");
        Assert.Contains("&lt;title&gt;", html, StringComparison.Ordinal);
        var start = html.IndexOf("id=\"data\">", StringComparison.Ordinal) + "id=\"data\">".Length;
        var runs = JsonDocument.Parse(html[start..html.IndexOf("</script>", start, StringComparison.Ordinal)]).RootElement.GetProperty("runs");
        Assert.Equal(["a (1)", "a (2)"], runs.EnumerateArray().Select(static run => run.GetProperty("name").GetString()));
        Assert.Equal(record.Losses.Select(static loss => Math.Round(loss, 5)), runs[0].GetProperty("steps").GetProperty("loss").EnumerateArray().Select(static loss => Math.Round(loss.GetDouble(), 5)));
        var evaluation = runs[0].GetProperty("evaluations")[0];
        Assert.Equal(("</script><b>", 0.75), (evaluation.GetProperty("samples")[0].GetProperty("prompt").GetString(), evaluation.GetProperty("metrics").GetProperty("accuracy").GetDouble()));
        Assert.Equal(7.5, runs[0].GetProperty("hardest")[0].GetProperty("loss").GetDouble());
    }

    [Fact]
    public void A_report_of_nothing_is_an_error() =>
        Assert.Equal("TrainingRecordMissing", Assert.Throws<PeftException>(() => TrainingReportPage.Html([])).ErrorId);

    [Fact]
    public void TensorBoard_gets_whole_records_with_sound_checksums()
    {
        var log = new TensorBoardLog(_folder.Path);
        log.OnStep(new StepRecord(300, 1, 0.25, 1e-3, 2, 10, 5, 1));
        log.OnEvaluation(new EvaluationRecord(300, 1, 0.125));
        log.Dispose();
        var bytes = File.ReadAllBytes(log.Path);
        List<byte[]> records = [];
        for (var at = 0; at < bytes.Length;)
        {
            var length = (int)BinaryPrimitives.ReadInt64LittleEndian(bytes.AsSpan(at));
            Assert.Equal(Masked(bytes.AsSpan(at, 8)), BinaryPrimitives.ReadUInt32LittleEndian(bytes.AsSpan(at + 8)));
            records.Add(bytes[(at + 12)..(at + 12 + length)]);
            Assert.Equal(Masked(records[^1]), BinaryPrimitives.ReadUInt32LittleEndian(bytes.AsSpan(at + 12 + length)));
            at += 16 + length;
        }

        Assert.Equal(3, records.Count);
        Assert.Contains("brain.Event:2", Encoding.Latin1.GetString(records[0]), StringComparison.Ordinal);

        // A tag and behind it the value, a float of four bytes in field 2; 300 is 0xAC 0x02 as a varint.
        var loss = Encoding.Latin1.GetString([.. "train/loss"u8, 0x15, .. BitConverter.GetBytes(0.25f)]);
        Assert.Contains(loss, Encoding.Latin1.GetString(records[1]), StringComparison.Ordinal);
        Assert.Contains("\u0010\u00AC\u0002", Encoding.Latin1.GetString(records[1]), StringComparison.Ordinal);
        Assert.Contains("eval/loss", Encoding.Latin1.GetString(records[2]), StringComparison.Ordinal);
    }

    /// <summary>A training that never was.</summary>
    internal static TrainingRecord Record(string name, int steps) => new()
    {
        AdapterName = name,
        Options = new TrainingOptions { LearningRate = 1e-3 },
        Objective = "causal_language_modelling",
        Steps = [.. Enumerable.Range(1, steps).Select(step => new StepRecord(
            step, step / 100.0, (2.5 * Math.Exp(-step / (steps * 0.3))) + 0.4 + (0.2 * Math.Sin(step * 12.9898)), 1e-3 * (1 - ((double)step / steps)), 1 + Math.Abs(Math.Sin(step * 78.233)), 2048 - (step % 7), 1500, step * 0.2531)
        {
            MemoryBytes = 600_000_000 + (step % 13 * 1_000_000),
        })],
        Evaluations = [.. Enumerable.Range(1, 10).Select(part => new EvaluationRecord(steps * part / 10, part, 0.6 + (2.0 / part)))],
        TrainedParameters = 12_345,
    };

    /// <summary>CRC-32C a bit at a time, rotated and shifted as the format asks.</summary>
    private static uint Masked(ReadOnlySpan<byte> bytes)
    {
        var sum = uint.MaxValue;
        foreach (var value in bytes)
        {
            sum ^= value;
            for (var bit = 0; bit < 8; bit++)
            {
                sum = (sum & 1) == 0 ? sum >> 1 : (sum >> 1) ^ 0x82F63B78;
            }
        }

        return uint.RotateRight(~sum, 15) + 0xA282EAD8;
    }
}
