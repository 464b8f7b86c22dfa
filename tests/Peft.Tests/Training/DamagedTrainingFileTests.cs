using Peft.Training;
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
