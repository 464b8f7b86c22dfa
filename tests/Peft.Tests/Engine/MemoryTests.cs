using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using TorchSharp;
using static TorchSharp.torch;



namespace Peft.Tests.Engine;

/// <summary>Tensors made from .NET's memory, and .NET's view of a tensor's memory.</summary>
public sealed class MemoryTests : IDisposable
{
    private readonly DisposeScope _scope = NewDisposeScope();

    public void Dispose() => _scope.Dispose();

    [Theory]
    [InlineData(3)]
    [InlineData(3000)]
    public void A_short_lived_tensor_has_the_shape_asked_for_and_room_beyond_it_where_it_is_large(long rows)
    {
        foreach (var type in new[] { ScalarType.Float32, ScalarType.BFloat16 })
        {
            var x = Peft.Engine.ShortLived.Empty([rows, 4, 128], type);
            Assert.Equal((rows, 4, 128), (x.size(0), x.size(1), x.size(2)));
            Assert.True(x.is_contiguous() && x.dtype == type);
            if (rows > 1000)
            {
                // Elements behind it are its own: a view that reaches there would be refused otherwise.
                Assert.Equal(x.numel() + 64, x.as_strided([x.numel() + 64], [1]).numel());
            }
        }
    }

    [Fact]
    public void Tensors_copy_arrays_of_every_type()
    {
        OperatorTests.Same([1, 2], tensor(new byte[] { 1, 2 }));
        OperatorTests.Same([-1, 2], tensor(new sbyte[] { -1, 2 }));
        OperatorTests.Same([-1, 2], tensor(new short[] { -1, 2 }));
        OperatorTests.Same([-1, 2], tensor(new[] { -1, 2 }));
        OperatorTests.Same([-1, 2], tensor(new[] { -1L, 2 }));
        OperatorTests.Same([-1, 2], tensor(new[] { -1f, 2 }));
        OperatorTests.Same([-1, 2], tensor(new[] { -1.0, 2 }));
        OperatorTests.Same([0, 1], tensor(new[] { false, true }));
        OperatorTests.Same([1, 2, 3, 4], tensor(new float[,] { { 1, 2 }, { 3, 4 } }));
        OperatorTests.Same([7], tensor(7f).unsqueeze(0));
        Assert.Equal([2, 2], tensor(new List<long> { 1, 2, 3, 4 }, [2, 2]).shape);
        Assert.Equal(ScalarType.Float64, tensor(new[] { 1, 2 }, dtype: ScalarType.Float64).dtype);

        var array = new[] { 1f, 2 };
        var copy = tensor(array);
        array[0] = 9;
        OperatorTests.Same([1, 2], copy);
        OperatorTests.Same([9, 2], tensor(array.AsMemory(), [2]));
        Assert.Throws<ArgumentException>(() => tensor(array, [3]));
    }

    [Fact]
    public void An_array_under_a_tensor_outlives_the_collector()
    {
        var view = Over();
        GC.Collect();
        GC.WaitForPendingFinalizers();
        OperatorTests.Same([3, 4], view);

        static Tensor Over() => from_array(new float[,] { { 1, 2 }, { 3, 4 } })[1];
    }

    [Fact]
    public void An_operator_that_fails_holds_its_arguments_no_longer()
    {
        var array = Fail();
        GC.Collect();
        GC.WaitForPendingFinalizers();
        GC.Collect();
        Assert.False(array.IsAlive);

        [MethodImpl(MethodImplOptions.NoInlining)]
        static WeakReference Fail()
        {
            var array = new float[100];
            using var x = from_array(array);
            using var other = zeros(3);
            Assert.Throws<ExternalException>(() => x.add(other));
            return new WeakReference(array);
        }
    }

    [Fact]
    public void Buffers_are_shared_from_an_offset_on()
    {
        var array = new float[] { 0, 1, 2, 3 };
        var part = frombuffer(array, ScalarType.Float32, count: 2, offset: 1);
        array[1] = 10;
        OperatorTests.Same([10, 2], part);
        part.fill_(7);
        Assert.Equal([0, 7, 7, 3], array);
    }

    [Fact]
    public void Bytes_are_the_tensors_own()
    {
        var x = zeros(2, 2);
        MemoryMarshal.Cast<byte, float>(x.bytes)[3] = 4;
        OperatorTests.Same([0, 0, 0, 4], x);
        x.bytes = MemoryMarshal.AsBytes(new[] { 1f, 2, 3, 4 }.AsSpan());
        OperatorTests.Same([1, 2, 3, 4], x);
        Assert.Throws<InvalidOperationException>(() => x.t().bytes.Length);
    }

    [Fact]
    public void Accessors_follow_the_strides()
    {
        var x = arange(6, ScalarType.Float32).view(2, 3).t();
        Assert.Equal([0, 3, 1, 4, 2, 5], x.data<float>().ToArray());
        Assert.Equal(4, x.data<float>()[1, 1]);
        var target = new float[2];
        x.data<float>().CopyTo(target, 0, 2);
        Assert.Equal([1, 4], target);
        x.data<float>()[0, 1] = 9;
        Assert.Equal(9, x[0, 1].item<float>());
    }
}
