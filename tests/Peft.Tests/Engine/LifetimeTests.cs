using TorchSharp;
using static TorchSharp.torch;


namespace Peft.Tests.Engine;

/// <summary>Who owns a tensor: dispose scopes, their statistics, and the count of live tensors.</summary>
public sealed class LifetimeTests
{
    [Fact]
    public void A_scope_disposes_what_was_made_in_it()
    {
        Tensor kept, lost;
        using (var scope = NewDisposeScope())
        {
            lost = ones(2);
            kept = ones(2);
            Assert.Equal(2, scope.DisposablesCount);
            Assert.True(scope.Contains(kept));
            Assert.Same(kept, kept.DetachFromDisposeScope());
            Assert.False(scope.Contains(kept));
        }

        Assert.True(lost.IsInvalid);
        Assert.False(kept.IsInvalid);
        kept.Dispose();
        Assert.True(kept.IsInvalid);
        Assert.Throws<InvalidOperationException>(() => kept.Handle);
    }

    [Fact]
    public void Tensors_move_outwards_and_across()
    {
        using var outer = NewDisposeScope();
        Tensor moved, across;
        var home = ones(1);
        using (NewDisposeScope())
        {
            moved = ones(2).MoveToOuterDisposeScope();
            across = ones(2).MoveToOtherDisposeScope(home);
        }

        Assert.False(moved.IsInvalid);
        Assert.True(outer.Contains(moved));
        Assert.True(outer.Contains(across));
        outer.DisposeEverythingBut(moved);
        Assert.True(across.IsInvalid);
        Assert.False(moved.IsInvalid);
    }

    [Fact]
    public void Moving_out_of_the_outermost_scope_detaches()
    {
        Tensor moved;
        using (NewDisposeScope())
        {
            moved = ones(2).MoveToOuterDisposeScope();
        }

        Assert.False(moved.IsInvalid);
        moved.Dispose();
    }

    [Fact]
    public void A_detached_tensor_can_be_attached_again()
    {
        var tensor = ones(2);
        using (var scope = NewDisposeScope())
        {
            scope.Attach(tensor);
        }

        Assert.True(tensor.IsInvalid);
    }

    [Fact]
    public void Scopes_may_end_in_any_order()
    {
        var outer = NewDisposeScope();
        var inner = NewDisposeScope();
        outer.Dispose();
        Assert.Same(inner, CurrentDisposeScope);
        var tensor = ones(1);
        inner.Dispose();
        Assert.True(tensor.IsInvalid);
        Assert.Null(CurrentDisposeScope);
    }

    [Fact]
    public void Statistics_count_this_threads_tensors()
    {
        var statistics = DisposeScopeManager.Statistics;
        statistics.Reset();
        var outside = ones(1);
        using (NewDisposeScope())
        {
            ones(1);
            ones(1).DetachFromDisposeScope().Dispose();
            Assert.Equal(2, statistics.CreatedInScopeCount);
        }

        outside.Dispose();
        Assert.Equal(1, statistics.CreatedOutsideScopeCount);
        Assert.Equal(1, statistics.DisposedInScopeCount);
        Assert.Equal(2, statistics.DisposedOutsideScopeCount);
        Assert.Equal(1, statistics.DetachedFromScopeCount);
        Assert.Equal(0, statistics.ThreadTotalLiveCount);
    }

    [Fact]
    public void Operators_leave_nothing_behind()
    {
        DisposeScopeManager.Statistics.Reset();
        for (var i = 0; i < 100; i++)
        {
            using var scope = NewDisposeScope();
            var x = randn(4, 4, requires_grad: true);
            var y = nn.functional.silu(x.matmul(x.t())).softmax(-1)[0, TensorIndex.Slice(1)];
            y.split(1).Concat(y.chunk(2)).Aggregate((a, b) => a.sum() + b.sum()).backward();
            x.grad!.square().topk(2);
        }

        Assert.Equal(0, DisposeScopeManager.Statistics.ThreadTotalLiveCount);
    }

    [Fact]
    public void A_scope_belongs_to_its_thread()
    {
        using var scope = NewDisposeScope();
        Tensor? elsewhere = null;
        var thread = new Thread(() => elsewhere = ones(1));
        thread.Start();
        thread.Join();
        Assert.False(scope.Contains(elsewhere!));
        elsewhere!.Dispose();
    }
}
