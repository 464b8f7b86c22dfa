using Peft.Adapters.Model;

namespace Peft.Tests.Adapters;

/// <summary>Operations of different flows on one model: each in its turn.</summary>
public sealed class ModelTurnTests
{
    [Fact]
    public async Task Another_flow_waits_for_its_turn_and_hears_for_what()
    {
        using var model = TinyLlama.Create();
        var words = new List<string?>();
        var order = new List<string>();
        var isTaken = new TaskCompletionSource();
        var first = Apart(() =>
        {
            using var held = model.Acquire("training");
            isTaken.SetResult();
            Thread.Sleep(800);
            order.Add("first");
        });
        await isTaken.Task;
        await Apart(() =>
        {
            OperationFlow.Current = new OperationFlow(new object(), words.Add);
            using var held = model.Acquire("text generation");
            order.Add("second");
        });
        await first;
        Assert.Equal(["first", "second"], order);
        Assert.Equal(2, words.Count);
        Assert.Contains("busy with training", words[0], StringComparison.Ordinal);
        Assert.Null(words[1]);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task A_shell_that_stops_while_it_is_told_of_the_wait_passes_its_turn_on(bool atTheEnd)
    {
        using var model = TinyLlama.Create();
        var isTaken = new TaskCompletionSource();
        using var go = new ManualResetEventSlim();
        var first = Apart(() =>
        {
            using var held = model.Acquire("training");
            isTaken.SetResult();
            go.Wait();
        });
        await isTaken.Task;
        await Assert.ThrowsAsync<OperationCanceledException>(() => Apart(() =>
        {
            OperationFlow.Current = new OperationFlow(new object(), text =>
            {
                go.Set();
                if ((text is null) == atTheEnd)
                {
                    throw new OperationCanceledException();
                }
            });
            model.Acquire("text generation").Dispose();
        }));
        await first;
        await Apart(() => model.Acquire("merging").Dispose()).WaitAsync(TimeSpan.FromSeconds(30));
    }

    [Fact]
    public async Task Two_flows_that_would_wait_for_each_other_are_told_so()
    {
        using var a = TinyLlama.Create();
        using var b = TinyLlama.Create();
        var isTaken = new TaskCompletionSource();
        var isOtherTaken = new TaskCompletionSource();
        var isWaiting = new TaskCompletionSource();
        var first = Apart(() =>
        {
            OperationFlow.Current = new OperationFlow(new object(), _ => isWaiting.TrySetResult());
            using var held = a.Acquire("training");
            isTaken.SetResult();
            isOtherTaken.Task.Wait();
            using var other = b.Acquire("a comparison");
        });
        var second = Apart(() =>
        {
            OperationFlow.Current = new OperationFlow(new object());
            using var held = b.Acquire("text generation");
            isOtherTaken.SetResult();
            isTaken.Task.Wait();
            isWaiting.Task.Wait();
            Assert.Equal("PeftModelBusy", Assert.Throws<PeftException>(() => a.Acquire("merging")).ErrorId);
        });
        await second.WaitAsync(TimeSpan.FromSeconds(30));
        await first.WaitAsync(TimeSpan.FromSeconds(30));
    }

    [Fact]
    public async Task A_wait_can_be_cancelled_and_leaves_the_turn_to_the_next()
    {
        using var model = TinyLlama.Create();
        using var stop = new CancellationTokenSource(TimeSpan.FromMilliseconds(100));
        var isTaken = new TaskCompletionSource();
        using var go = new ManualResetEventSlim();
        var first = Apart(() =>
        {
            using var held = model.Acquire("training");
            isTaken.SetResult();
            go.Wait();
        });
        await isTaken.Task;
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => Apart(() =>
        {
            OperationFlow.Current = new OperationFlow(new object(), Cancellation: stop.Token);
            model.Acquire("text generation").Dispose();
        }));
        go.Set();
        await first;
        model.Acquire("merging").Dispose();
    }

    [Fact]
    public async Task Threads_that_one_thread_started_are_flows_of_their_own_once_it_holds_nothing()
    {
        using var model = TinyLlama.Create();
        model.Acquire("merging").Dispose();
        Assert.Null(OperationFlow.Current);
        await Task.WhenAll(Enumerable.Range(0, 4).Select(_ => Apart(() =>
        {
            using var held = model.Acquire("training");
            Thread.Sleep(10);
        })));
    }

    [Fact]
    public async Task A_model_that_was_removed_meanwhile_is_no_longer_there_for_those_who_wait()
    {
        using var model = TinyLlama.Create();
        var isTaken = new TaskCompletionSource();
        using var go = new ManualResetEventSlim();
        var first = Apart(() =>
        {
            using var held = model.Acquire("training");
            isTaken.SetResult();
            go.Wait();
            model.Dispose();
        });
        await isTaken.Task;
        var second = Apart(() => model.Acquire("text generation").Dispose());
        go.Set();
        await first;
        Assert.Equal("ModelDisposed", (await Assert.ThrowsAsync<PeftException>(() => second)).ErrorId);
    }

    /// <summary>Runs on a thread that shares no flow with this one.</summary>
    private static Task Apart(Action action)
    {
        using var _ = ExecutionContext.SuppressFlow();
        return Task.Factory.StartNew(action, CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default);
    }
}
