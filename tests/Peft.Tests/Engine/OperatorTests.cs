using TorchSharp;
using static TorchSharp.torch;


namespace Peft.Tests.Engine;

/// <summary>Operators against values worked out by hand. They run on whichever engine was built.</summary>
public sealed class OperatorTests : IDisposable
{
    private readonly DisposeScope _scope = NewDisposeScope();

    public void Dispose() => _scope.Dispose();

    [Fact]
    public void Arithmetic_broadcasts_and_scales()
    {
        var a = tensor(new float[] { 1, 2, 3, 4 }, [2, 2]);
        var b = tensor(new float[] { 10, 20 });
        Same([11, 22, 13, 24], a + b);
        Same([9, 18, 7, 16], b - a);
        Same([10, 40, 30, 80], a * b);
        Same([0.1f, 0.1f, 0.3f, 0.2f], a / b);
        Same([6, 12, 8, 14], a.add(b, 0.5));
        Same([-9, -18, -7, -16], a.sub(b));
        Same([1, 0, -1, -2], 2 - a);
        Same([2, 1, 2 / 3f, 0.5f], 2 / a);
        Same([21, 42, 23, 44], a.addcmul(ones(2, 2), b, 2));
        Same([1.2f, 2.1f, 3.2f, 4.1f], a.addcdiv(ones(2, 2), b, 2));
    }

    [Fact]
    public void In_place_operators_return_the_tensor_they_changed()
    {
        var a = ones(2, 2);
        Assert.Same(a, a.add_(1).mul_(3).sub_(tensor(1f)).div_(5));
        Same([1, 1, 1, 1], a);
        Assert.Same(a, a.addmm_(ones(2, 3), ones(3, 2), beta: 2, alpha: 0.5f));
        Same([3.5f, 3.5f, 3.5f, 3.5f], a);
        a.zero_();
        Same([0, 0, 0, 0], a);
        Assert.Same(a, a.fill_(7).clamp_(0, 5));
        Same([5, 5, 5, 5], a);
    }

    [Fact]
    public void A_slice_written_in_place_changes_the_whole()
    {
        var whole = zeros(2, 4);
        whole.narrow(1, 1, 2).addmm_(ones(2, 1), ones(1, 2), alpha: 2);
        whole[TensorIndex.Colon, 3] = tensor(9f);
        Same([0, 2, 2, 9, 0, 2, 2, 9], whole);
    }

    [Fact]
    public void Products_of_matrices()
    {
        var a = arange(6, ScalarType.Float32).view(2, 3);
        var b = arange(6, ScalarType.Float32).view(3, 2);
        Same([10, 13, 28, 40], a.matmul(b));
        Same([10, 13, 28, 40], a.mm(b));
        Same([10, 13, 28, 40], einsum("ij,jk->ik", a, b));
        Same([5, 14], a.mv(tensor(new float[] { 0, 1, 2 })));
        Same([0, 0, 1, 2], tensor(new float[] { 0, 1 }).outer(tensor(new float[] { 1, 2 })));
        Same([10, 13, 28, 40], a.unsqueeze(0).bmm(b.unsqueeze(0)).squeeze(0));
        Same([11, 14, 29, 41], ones(2, 2).addmm(a, b));
        Same([5, 14, 14, 50], nn.functional.linear(a, a));
        Same([6, 15], nn.functional.linear(a, tensor(new float[] { 0, 1, 2 }, [1, 3]), tensor(new float[] { 1 })));
    }

    [Theory]
    [InlineData(2, 2, 1024)]
    [InlineData(3, 5, 600)]
    [InlineData(64, 16, 700)]
    [InlineData(1, 4, 900)]
    [InlineData(4, 1, 900)]
    [InlineData(1, 1, 4000)]
    public void Products_of_bfloat16_add_up_in_float32_however_their_factors_lie(long rows, long columns, long inner)
    {
        var right = tensor((float)inner).to(ScalarType.BFloat16).ToSingle();
        var (byRows, byColumns) = (ones([rows, inner], ScalarType.BFloat16), ones([inner, rows], ScalarType.BFloat16).t());
        foreach (var left in new[] { byRows, byColumns })
        {
            foreach (var other in new[] { ones([inner, columns], ScalarType.BFloat16), ones([columns, inner], ScalarType.BFloat16).t() })
            {
                var sum = zeros([rows, columns], ScalarType.BFloat16);
                var (several, others) = (left.unsqueeze(0).expand(3, rows, inner), other.unsqueeze(0).expand(3, inner, columns));
                foreach (var (at, product) in new[]
                {
                    left.mm(other), left.matmul(other), several.matmul(other), several.matmul(others), several.bmm(others), left.unsqueeze(0).bmm(other.unsqueeze(0)),
                    sum.addmm(left, other), sum.clone().addmm_(left, other), zeros([columns, rows], ScalarType.BFloat16).t().addmm_(left, other),
                }.Index())
                {
                    Assert.Equal((at, right, right), (at, product.min().ToSingle(), product.max().ToSingle()));
                }
            }
        }
    }

    [Fact]
    public void Silu_of_bfloat16_is_rounded_once()
    {
        var x = linspace(-6, 6, 1000, ScalarType.Float32).to(ScalarType.BFloat16);
        var exact = x.to(ScalarType.Float32).silu().to(ScalarType.BFloat16);
        Assert.True(exact.eq(x.silu()).all().ToBoolean());
        Assert.True(exact.eq(nn.functional.silu(x)).all().ToBoolean());
    }

    [Fact]
    public void Reductions_and_orders()
    {
        var a = tensor(new float[] { 3, 1, 2, 6, 5, 4 }, [2, 3]);
        Assert.Equal(21, a.sum().ToSingle());
        Same([6, 15], a.sum(1));
        Same([9, 6, 6], a.sum(dim: 0)); // unnamed, a literal 0 would be taken for an element type
        Same([2, 5], a.mean([1]));
        Same([3, 6], a.amax([1]));
        Same([1, 1], a.var(1));
        Same([1, 1], a.std(1));
        Same([0, 0], a.argmax(1));
        Same([1, 2], a.argmin(1));
        var (values, indices) = a.topk(2);
        Same([3, 2, 6, 5], values);
        Same([0, 2, 0, 1], indices);
        var (sorted, order) = sort(a, 1);
        Same([1, 2, 3, 4, 5, 6], sorted);
        Same([1, 2, 0, 2, 1, 0], order);
        Same([3, 4, 6, 6, 11, 15], a.cumsum(1));
        Assert.Equal(MathF.Sqrt(91), a.norm().ToSingle(), 5);
        Same([MathF.Sqrt(14), MathF.Sqrt(77)], linalg.vector_norm(a, 2, [1]), 1e-5f);
        Same([MathF.Log(MathF.Exp(1) + MathF.Exp(2) + MathF.Exp(3))], a[0].logsumexp(0).unsqueeze(0), 1e-5f);
        Assert.True(a.gt(0).all().ToBoolean());
        Assert.False((a > 6).any().ToBoolean());
    }

    [Fact]
    public void Functions_of_single_elements()
    {
        var x = tensor(new float[] { -1, 0, 0.5f, 2 });
        Each(x, x.exp(), MathF.Exp);
        Each(x, x.sigmoid(), Sigmoid);
        Each(x, nn.functional.silu(x), v => v * Sigmoid(v));
        Each(x, x.tanh(), MathF.Tanh);
        Each(x, x.relu(), v => Math.Max(v, 0));
        Each(x, x.gelu(), v => v * 0.5f * (1 + Erf(v / MathF.Sqrt(2))));
        Each(x, x.erf(), Erf);
        Each(x, x.abs(), Math.Abs);
        Each(x, x.pow(3), v => v * v * v);
        Each(x, x.square().add(1).sqrt(), v => MathF.Sqrt((v * v) + 1));
        Each(x, x.square().add(1).rsqrt(), v => 1 / MathF.Sqrt((v * v) + 1));
        Each(x, x.clamp(-0.5, 1), v => Math.Clamp(v, -0.5f, 1));
        Each(x, x.cos() + x.sin(), v => MathF.Cos(v) + MathF.Sin(v));
        Each(x, where(x.lt(0), x.neg(), x * 2), v => v < 0 ? -v : v * 2);
        Each(x, x.masked_fill(x.eq(0), 9), v => v == 0 ? 9 : v);
        Each(x, x.lerp(x + 2, tensor(0.5f)), v => v + 1);
    }

    [Fact]
    public void Softmax_and_cross_entropy()
    {
        var logits = tensor(new float[] { 0, MathF.Log(3), MathF.Log(4), 0 }, [2, 2]);
        Same([0.25f, 0.75f, 0.8f, 0.2f], logits.softmax(-1), 1e-6f);
        Same([MathF.Log(0.25f), MathF.Log(0.75f), MathF.Log(0.8f), MathF.Log(0.2f)], nn.functional.log_softmax(logits, -1), 1e-5f);
        var labels = tensor(new long[] { 1, -100 });
        Assert.Equal(-MathF.Log(0.75f), nn.functional.cross_entropy(logits, labels).ToSingle(), 5);
    }

    [Fact]
    public void Normalisation()
    {
        var x = tensor(new float[] { 1, 3, 2, 6 }, [2, 2]);
        Same([-1, 1, -1, 1], nn.functional.layer_norm(x, [2], eps: 0), 1e-5f);
        Same([1 / MathF.Sqrt(10), 3 / MathF.Sqrt(10)], nn.functional.normalize(x, dim: 1)[0], 1e-6f);
    }

    [Fact]
    public void Attention_is_the_weighted_mean_of_the_values()
    {
        var q = randn(1, 2, 4, 8);
        var k = randn(1, 2, 4, 8);
        var v = randn(1, 2, 4, 8);
        var weights = (q.matmul(k.transpose(-2, -1)) / Math.Sqrt(8)).softmax(-1);
        Close(weights.matmul(v), nn.functional.scaled_dot_product_attention(q, k, v));
        var mask = full([4, 4], float.NegativeInfinity).triu(1);
        var causal = ((q.matmul(k.transpose(-2, -1)) / Math.Sqrt(8)) + mask).softmax(-1);
        Close(causal.matmul(v), nn.functional.scaled_dot_product_attention(q, k, v, is_casual: true));
    }

    [Fact]
    public void Shapes_and_views()
    {
        var a = arange(24, ScalarType.Float32).reshape(2, 3, 4);
        Assert.Equal([2, 3, 4], a.shape);
        Assert.Equal([4, 3, 2], a.permute(2, 1, 0).shape);
        Assert.Equal([1, 4, 12], a.permute(2, 1, 0).stride());
        Assert.False(a.transpose(0, 1).is_contiguous());
        Assert.True(a.transpose(0, 1).contiguous().is_contiguous());
        Assert.Equal([2, 3, 4, 1], a.unsqueeze(-1).shape);
        Assert.Equal([6, 4], a.flatten(0, 1).shape);
        Assert.Equal([2, 5, 3, 4], a.unsqueeze(1).expand(2, 5, 3, 4).shape);
        Same([12, 16, 20], a.select(0, 1).select(1, 0));
        Same([2, 3, 6, 7], a[0, TensorIndex.Slice(0, 2), TensorIndex.Slice(2)]);
        Same([0, 4, 8], a[TensorIndex.Ellipsis, 0][0]);
        Assert.Equal([1, 2, 3, 4], a[TensorIndex.None].shape);
        Same([3, 0, 1, 2], a[0, 0].roll(1, 0));
        Same([3, 2, 1, 0], a[0, 0].flip(0));
        Same([0, 0, 1, 1], a[0, 0].narrow(0, 0, 2).repeat_interleave(2));
        Same([0, 1, 0, 1], a[0, 0].narrow(0, 0, 2).repeat(2));
        Assert.Equal([2L, 1], a.split([2, 1], 1).Select(part => part.size(1)));
        Assert.Equal(4, a.chunk(4, -1).Length);
        Assert.Equal(3, a.unbind(1).Length);
        Assert.Equal([2, 6, 4], cat([a, a], 1).shape);
        Assert.Equal([2, 2, 3, 4], stack([a, a]).shape);
        Same([1, 0, 0, 1], eye(2));
        Same([1, 0, 1, 1], ones(2, 2).tril());
        Same([0, 1, 0, 0], ones(2, 2).triu(1));
    }

    [Fact]
    public void Picking_and_placing()
    {
        var a = arange(6, ScalarType.Float32).view(2, 3);
        Same([2, 5, 0, 3], a.index_select(1, tensor(new long[] { 2, 0 })).t());
        Same([2, 3], a.gather(1, tensor(new long[] { 2, 0 }, [2, 1])));
        Same([0, 0, 1, 1, 0, 0], zeros(2, 3).scatter(1, tensor(new long[] { 2, 0 }, [2, 1]), ones(2, 1)));
        Same([0, 1, 3, 4, 4, 5], a.scatter_add(1, tensor(new long[] { 2, 0 }, [2, 1]), ones(2, 1)));
        Same([3, 4, 5, 0, 1, 2], a[tensor(new long[] { 1, 0 })]);
        Same([1, 3], a[tensor(new long[] { 0, 1 }), tensor(new long[] { 1, 0 })]);
        Same([3, 4, 5], a[a > 2]);
        a[a > 2] = tensor(-1f);
        Same([0, 1, 2, -1, -1, -1], a);
        Same([1, 0, 1, 2], nonzero(tensor(new float[] { 0, 0, 0, 1, 0, 1 }, [2, 3])));
        Same([0, 10, 2, 10, 4, 5], arange(6, ScalarType.Float32).index_fill_(0, tensor(new long[] { 1, 3 }), 10));
    }

    [Fact]
    public void Types_convert_and_promote()
    {
        Assert.Equal(ScalarType.Int64, arange(3).dtype);
        Assert.Equal(ScalarType.Float32, arange(0, 1, 0.5).dtype);
        Assert.Equal(ScalarType.Int64, full([2], 1).dtype);
        Assert.Equal(ScalarType.Float32, full([2], 1.5).dtype);
        Assert.Equal(ScalarType.Int64, randint(5, [2]).dtype);
        Assert.Equal(ScalarType.BFloat16, (ones(2, ScalarType.BFloat16) * 2.5f).dtype);
        Assert.Equal(ScalarType.Float32, (ones(2, ScalarType.BFloat16) + ones(2)).dtype);
        Same([1, 2, 3], tensor(new float[] { 1.9f, 2.1f, 3.5f }).to(ScalarType.Int32));
        Assert.Equal(1.5f, tensor(new BFloat16[] { new(1.5f) }).@float().item<float>());
        Assert.Equal((Half)0.25f, tensor(0.25f).half().item<Half>());
        Assert.Equal(2, ones(3, ScalarType.BFloat16).ElementSize);
        Assert.Throws<ArgumentException>(() => ones(1).item<double>());
    }

    [Fact]
    public void Decompositions_give_the_matrix_back()
    {
        var a = randn(5, 3, ScalarType.Float64);
        var (u, s, vh) = linalg.svd(a, fullMatrices: false);
        Close(a, u.matmul(diag(s)).matmul(vh));
        var (q, r) = linalg.qr(a);
        Close(a, q.matmul(r));
        var square = a.t().matmul(a) + eye(3, dtype: ScalarType.Float64);
        Close(eye(3, dtype: ScalarType.Float64), linalg.inv(square).matmul(square));
    }

    internal static void Same(float[] expected, Tensor actual, float tolerance = 0)
    {
        var values = actual.to(ScalarType.Float32).contiguous().data<float>().ToArray();
        Assert.Equal(expected.Length, values.Length);
        for (var i = 0; i < expected.Length; i++)
        {
            Assert.True(Math.Abs(expected[i] - values[i]) <= tolerance + 1e-6f, $"[{i}]: expected {expected[i]}, got {values[i]}");
        }
    }

    internal static void Close(Tensor expected, Tensor actual, double tolerance = 1e-5) =>
        Assert.True(expected.sub(actual).abs().max().ToDouble() < tolerance, $"differs by {expected.sub(actual).abs().max().ToDouble()}");

    private static void Each(Tensor x, Tensor actual, Func<float, float> formula) =>
        Same(x.data<float>().ToArray().Select(formula).ToArray(), actual, 1e-5f);

    private static float Sigmoid(float v) => 1 / (1 + MathF.Exp(-v));

    // Abramowitz and Stegun's series would do no better than this sum at the few points used here.
    private static float Erf(float v)
    {
        double sum = 0, term = v;
        for (var n = 0; n < 60; n++)
        {
            sum += term / ((2 * n) + 1);
            term *= -(double)v * v / (n + 1);
        }

        return (float)(sum * 2 / Math.Sqrt(Math.PI));
    }
}
