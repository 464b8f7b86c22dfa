using Peft.Engine.Steps;

namespace Peft.Tests.Engine;

/// <summary>Which weights a thread calls into its cache while it waits.</summary>
public sealed unsafe class WeightsAheadTests
{
    [Theory]
    [InlineData(0, 4, 1000, 40)]
    [InlineData(2, 12, 1020, 80)]
    [InlineData(10, 12, 5000, 14)]
    [InlineData(13, 15, 5021, 14)]
    public void Joined_operations_say_where_the_weights_of_the_first_of_them_lie_that_parts_belong_to(long from, long to, long start, long bytes)
    {
        using var joined = new JoinedOperation([new Reader(10, 1000, 10), new Reader(5, 5000, 7)]);

        Assert.Equal(((nint)start, bytes), joined.Weights(from, to));
    }

    [Fact]
    public void What_reads_no_weights_has_nothing_to_be_called()
    {
        using var operation = new Reader(3, 0, 0);
        var ahead = WeightsAhead.Of(operation, 0, 3);

        Assert.False(ahead.CallNext());
        Assert.False(default(WeightsAhead).CallNext());
    }

    [Fact]
    public void A_thread_calls_no_more_than_its_parts_and_its_cache_hold()
    {
        // What isn't there isn't brought, and nothing is read.
        using var operation = new Reader(1000, 1 << 20, 1 << 10);

        Assert.Equal((10 << 10) / 64, 128 + Calls(WeightsAhead.Of(operation, 0, 10)));
        Assert.Equal((1 << 16) / 64, 128 + Calls(WeightsAhead.Of(operation, 0, 1000)));
    }

    private static int Calls(WeightsAhead ahead)
    {
        var calls = 0;
        while (ahead.CallNext())
        {
            calls++;
        }

        return calls;
    }

    private sealed class Reader(long parts, long start, long bytes) : StepOperation
    {
        public override long Parts => parts;

        public override (nint Start, long Bytes) Weights(long from, long to) => ((nint)(start + (from * bytes)), (to - from) * bytes);

        public override void Run(long from, long to, float* scratch)
        {
        }
    }
}
