using Peft.Training;

namespace Peft.Tests.Training;

/// <summary>What is told of the time left after ten steps, beside what a training then takes; <c>build.sh bench time-left</c> measures it on real ones.</summary>
public sealed class RemainingTimeTests
{
    /// <summary>Seconds of a step and of the first two, rows of an evaluation beside a step's, steps between evaluations, and what such an evaluation takes.</summary>
    [Theory]
    [InlineData(1.0, 5.0, 0, 0, 0.0)]
    [InlineData(0.1, 2.0, 5, 50, 0.2)]
    [InlineData(0.1, 0.1, 20, 15, 0.7)]
    [InlineData(2.0, 2.5, 10, 5, 9.0)]
    public void After_ten_steps_the_time_left_is_within_a_quarter_of_what_it_takes(double step, double first, double rows, int interval, double evaluation)
    {
        const int Steps = 200;
        var time = new RemainingTime(0, Steps, interval == 0 ? 0 : Steps / interval) { EvaluatedRowsPerStep = rows };
        var (elapsed, told) = (0.0, 0.0);
        for (var i = 1; i <= Steps; i++)
        {
            elapsed += i <= 2 ? first : step;
            time.AfterStep(i, elapsed);
            if (i == 10)
            {
                told = elapsed + time.Seconds;
            }

            if (interval > 0 && i % interval == 0)
            {
                elapsed += evaluation;
                time.AfterEvaluation(evaluation);
            }
        }

        Assert.InRange(told / elapsed, 0.75, 1.25);
        Assert.Equal(0, time.Seconds, 1e-9);
    }

    [Fact]
    public void A_training_that_goes_on_is_told_by_its_own_steps()
    {
        var time = new RemainingTime(90, 100, 0);
        time.AfterStep(91, 3);
        Assert.Equal(27, time.Seconds, 1e-9);
        time.AfterStep(92, 6);
        time.AfterStep(93, 7);
        Assert.Equal(7, time.Seconds, 1e-9);
    }
}
