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

    /// <summary>What the background compiler does is done after half a second, and falls into the steps that are told by where these are short.</summary>
    [Theory]
    [InlineData(3, 10)]
    [InlineData(6, 10)]
    [InlineData(3, 9)]
    public void Steps_in_which_code_was_compiled_tell_nothing(int from, int to)
    {
        var time = new RemainingTime(0, 120, 0);
        var (elapsed, compiled) = (0.0, 7.0);
        for (var i = 1; i <= 10; i++)
        {
            var compiles = i <= 2 || (i >= from && i <= to) ? 0.02 + (0.01 * Math.Abs(i - 7)) : 0;
            (elapsed, compiled) = (elapsed + 0.03 + (2 * compiles), compiled + compiles);
            time.AfterStep(i, elapsed, 0, compiled);
        }

        // Where there is no other step, the one in which the least was compiled.
        Assert.Equal(110 * (from > 3 || to < 10 ? 0.03 : 0.07), time.Seconds, 1e-6);
    }

    [Theory]
    [InlineData(0.0, 0.001)]
    [InlineData(0.1, 0.0005)]
    [InlineData(0.2, 0.0)]
    public void Longer_rows_to_come_are_told_by_what_a_token_was_seen_to_take(double step, double token)
    {
        const int Steps = 100, Short = 80, Long = 400;
        var tokens = Enumerable.Range(1, Steps).Select(static i => i == 5 ? Long : i <= 10 ? Short : Long).ToArray();
        var time = new RemainingTime(0, Steps, 0) { Tokens = tokens.Sum() };
        var elapsed = 0.0;
        foreach (var (i, count) in tokens.Take(10).Index())
        {
            elapsed += step + (token * count);
            time.AfterStep(i + 1, elapsed, count);
        }

        Assert.Equal(90 * (step + (token * Long)), time.Seconds, 1e-6);
    }
}
