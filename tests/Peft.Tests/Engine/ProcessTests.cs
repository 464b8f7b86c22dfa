using System.Runtime.InteropServices;
using TorchSharp;
using static TorchSharp.torch;



namespace Peft.Tests.Engine;

/// <summary>What belongs to the process: random numbers, threads, and errors that must end as exceptions.</summary>
public sealed class ProcessTests : IDisposable
{
    private readonly DisposeScope _scope = NewDisposeScope();

    public void Dispose() => _scope.Dispose();

    [Fact]
    public void A_generator_repeats_from_its_seed_and_from_its_state()
    {
        using var generator = new Generator(7);
        var first = randn(4, generator: generator);
        var state = generator.get_state();
        var second = rand(4, generator: generator);
        generator.set_state(state);
        OperatorTests.Close(second, rand(4, generator: generator), 1e-12);
        generator.manual_seed(7);
        OperatorTests.Close(first, randn(4, generator: generator), 1e-12);
        Assert.Equal(7, generator.initial_seed());
    }

    [Fact]
    public void Draws_stay_within_their_bounds()
    {
        using var generator = new Generator(3);
        var uniform = empty(1000).uniform_(-2, 3, generator);
        Assert.InRange(uniform.min().ToSingle(), -2, -1.9f);
        Assert.InRange(uniform.max().ToSingle(), 2.9f, 3);
        var normal = empty(10000).normal_(1, 2, generator);
        Assert.Equal(1, normal.mean().ToSingle(), 0.1f);
        Assert.Equal(2, normal.std().ToSingle(), 0.1f);
        Assert.Equal(0.3f, zeros(10000).bernoulli_(0.3, generator).mean().ToSingle(), 0.03f);
        Assert.Equal(Enumerable.Range(0, 20), randperm(20, generator: generator).data<long>().ToArray().Order().Select(i => (int)i));
        var integers = randint(5, 9, [500], generator: generator);
        Assert.Equal((5L, 8L), (integers.min().ToInt64(), integers.max().ToInt64()));
        var picked = tensor(new float[] { 0, 1, 0, 3 }).multinomial(200, replacement: true, generator);
        Assert.Equal([1L, 3L], picked.data<long>().ToArray().Distinct().Order());
    }

    [Fact]
    public void The_number_of_threads_is_what_was_asked()
    {
        var before = get_num_threads();
        Assert.InRange(before, 1, Environment.ProcessorCount);
        set_num_threads(1);
        Assert.Equal(1, get_num_threads());
        set_num_threads(before);
        Assert.Equal(before, get_num_threads());
    }

    [Fact]
    public void Operators_run_on_many_threads_at_once()
    {
        var failures = 0;
        var threads = Enumerable.Range(0, 4).Select(seed => new Thread(() =>
        {
            using var own = NewDisposeScope();
            var a = full([64, 64], seed);
            for (var i = 0; i < 50; i++)
            {
                using var step = NewDisposeScope();
                if (a.to(ScalarType.Float32).matmul(eye(64)).sum().ToSingle() != seed * 64 * 64)
                {
                    Interlocked.Increment(ref failures);
                }
            }
        })).ToList();
        threads.ForEach(thread => thread.Start());
        threads.ForEach(thread => thread.Join());
        Assert.Equal(0, failures);
    }

    public static TheoryData<string, string> Mistakes => new()
    {
        { "mm", "shapes cannot be multiplied" },
        { "bmm", "batch" },
        { "add", "must match the size" },
        { "view", "is invalid for input of size" },
        { "cat", "Sizes of tensors must match" },
        { "index", "out of range" },
        { "linear", "shapes cannot be multiplied" },
        { "softmax", "Dimension out of range" },
        { "backward", "does not require grad" },
    };

    [Theory]
    [MemberData(nameof(Mistakes))]
    public void A_mistake_is_an_exception_with_libtorchs_words(string mistake, string words)
    {
        var error = Assert.ThrowsAny<ExternalException>(() =>
        {
            _ = mistake switch
            {
                "mm" => ones(2, 3).mm(ones(2, 3)),
                "bmm" => ones(2, 3, 4).bmm(ones(3, 4, 2)),
                "add" => ones(3) + ones(4),
                "view" => ones(6).view(4),
                "cat" => cat([ones(2, 3), ones(3, 4)], 0),
                "index" => ones(3).select(0, 5),
                "linear" => nn.functional.linear(ones(2, 3), ones(4, 5)),
                "softmax" => ones(3).softmax(4),
                _ => Backward(ones(1)),
            };
        });
        Assert.Contains(words, error.Message, StringComparison.Ordinal);
    }

    // TorchSharp calls matmul, autograd.grad, cummax, cummin and randint without a guard: the C++ exception would end the process,
    // so only our shim can be asked.
    [SkippableFact]
    public void Mistakes_that_TorchSharp_does_not_guard_are_exceptions_too()
    {
        Skip.IfNot(EngineFacts.IsSystemLibtorch, "TorchSharp leaves these native calls unguarded");
        var error = Assert.Throws<ExternalException>(() => ones(2, 3).matmul(ones(2, 3)));
        Assert.Contains("shapes cannot be multiplied", error.Message, StringComparison.Ordinal);
        Assert.DoesNotContain("frame #", error.Message, StringComparison.Ordinal);
        Assert.Throws<ExternalException>(() => randint(5, 1, [2]));
        Assert.Throws<ExternalException>(() => autograd.grad([ones(1)], [ones(1, requires_grad: true)]));
    }

    [Fact]
    public void An_error_leaves_the_engine_working()
    {
        for (var i = 0; i < 100; i++)
        {
            Assert.ThrowsAny<ExternalException>(() => ones(2, 3).mm(ones(2, 3)));
        }

        Assert.Equal(6, ones(2, 3).mm(ones(3, 1)).sum().ToSingle());
    }

    private static Tensor Backward(Tensor tensor)
    {
        tensor.backward();
        return tensor;
    }
}
