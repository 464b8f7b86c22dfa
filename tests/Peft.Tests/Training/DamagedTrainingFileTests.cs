using Peft.Adapters.Files;
using Peft.Training;
using Peft.Training.Data;
using Peft.Training.Reports;

namespace Peft.Tests.Training;

public sealed class DamagedTrainingFileTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void ANameThatALogGivesTwiceCountsOnceTheLast()
    {
        _folder.Write(TrainingLog.FileName, "{\"step\":1,\"loss\":2,\"loss\":3,\"step\":1}\n{\"step\":[2],\"loss\":\"x\"}\n{\"step\":\"\\ud83d\"}\n");
        var (steps, _) = TrainingLog.Read(_folder[TrainingLog.FileName], 5);
        Assert.Equal(3, steps[0].Loss);
    }

    [Fact]
    public void ALogAndARunThatSayImpossibleThingsStillMakeAReport()
    {
        _folder.Write(TrainingLog.FileName, """
            {"step":1,"loss":2,"num_tokens":1e300,"num_targets":1e300,"seconds":1e300,"x":1,"eval_x":2}
            {"step":2,"loss":2,"num_tokens":1e300,"seconds":null,"memory":-1}
            """);
        _folder.Write(TrainingRun.FileName, """{"Environment":null,"Config":{"peft_type":"LORA","r":1,"r":2}}""");
        var record = TrainingLog.Recall("a", null, _folder.Path)!;
        Assert.Equal((0, TimeSpan.Zero), (record.TokenCount, record.Duration));
        Assert.Contains("<html", TrainingReportPage.Html([(record, [])]), StringComparison.Ordinal);
    }

    [Fact]
    public void AnOptionBeyondTheRangeOfNumbersIsRefused() =>
        Assert.Equal("TrainingOptionInvalid", Assert.Throws<PeftException>(() => TrainingOptions.FromJson("""{"learning_rate":1e999}""")).ErrorId);

    [Theory]
    [InlineData("{\"data_digest\":\"a\",\"options\":{},\"rows\":1.5}")]
    [InlineData("{\"data_digest\":{},\"options\":{}}")]
    [InlineData("{\"data_digest\":\"a\",\"options\":{},\"loss\":\"x\"}")]
    [InlineData("{")]
    public void AnAdapterWhoseOriginIsBrokenHasNone(string json)
    {
        _folder.Write(Provenance.FileName, json);
        Assert.Null(Provenance.Load(_folder.Path));
    }

    [Fact]
    public void ANameThatNoFileCanHaveIsAnErrorOfTheRow()
    {
        _folder.Write("a.png", "");
        _folder.Write("metadata.jsonl", """{"file_name":"a\u0000.png","text":"a bird"}""");
        Assert.Contains("metadata.jsonl", Assert.Throws<PeftException>(() => ImageFolder.Read(_folder.Path)).Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(1e12)]
    [InlineData(1e300)]
    [InlineData(double.MaxValue)]
    public void MoreEpochsThanStepsCanBeCountedAreRefused(double epochs)
    {
        var error = Assert.Throws<PeftException>(() => new TrainingPlan(new TrainingOptions { Epochs = epochs }, [0, 1, 2]));
        Assert.Equal("TrainingOptionInvalid", error.ErrorId);
    }
}
