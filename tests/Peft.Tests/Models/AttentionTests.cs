using System.Text.Json.Nodes;
using Peft.Models;
using Peft.Models.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Models;

public class AttentionTests
{
    private static readonly AttentionShape s_shape = new(6, 2, 8, 0.35);

    [Theory]
    [InlineData(5, false, false, null, ScalarType.Float32, 3e-5)]
    [InlineData(5, false, false, null, ScalarType.BFloat16, 0.05)]
    [InlineData(300, false, false, null, ScalarType.Float32, 3e-5)]
    [InlineData(11, true, false, null, ScalarType.Float32, 3e-5)]
    [InlineData(150, true, true, null, ScalarType.Float32, 3e-5)]
    [InlineData(150, false, true, null, ScalarType.Float32, 3e-5)]
    [InlineData(140, false, false, 4, ScalarType.Float32, 3e-5)]
    [InlineData(13, true, true, 3, ScalarType.Float32, 3e-5)]
    public void BlocksOfQueriesGiveWhatTheWholeGives(int length, bool isPadded, bool isPacked, int? window, ScalarType type, double tolerance)
    {
        using var check = new BackwardCheck { Type = type, Tolerance = tolerance };
        var mask = ones(2, length, ScalarType.Int64);
        if (isPadded)
        {
            // On the right, so that no row of the plain softmax is empty.
            mask.narrow(0, 0, 1).narrow(1, length - 2, 2).zero_();
        }

        IReadOnlyList<IReadOnlyList<int>>? packing = isPacked ? [[4, length - 4], [length - 3]] : null;
        var context = new ForwardContext { Rows = 2, Length = length, AttentionMask = isPadded ? mask : null, Packing = packing };
        using var rotary = Rotary();
        var projections = check.Input(2 * length, s_shape.AllHeads * s_shape.HeadSize);
        var forbidden = Forbidden(length, mask, packing, window);
        check.Run(
            inner => Attention.Forward(projections, s_shape, rotary.For(inner, type, CPU), AttentionPlan.Causal(inner, CPU, window), 0, inner),
            (inputs, _) => Plain(inputs[0], length, rotary.For(context, ScalarType.Float32, CPU), forbidden),
            context);
    }

    [Fact]
    public void An_odd_share_of_a_head_turns_one_element_more_as_each_frequency_turns_a_pair()
    {
        var frequencies = new RotaryFrequencies(new ModelConfig(new JsonObject { ["partial_rotary_factor"] = 0.375 }), 8, 0.375);
        Assert.Equal(4, frequencies.Size);
        Assert.Equal([1f, (float)Math.Pow(10000, -2.0 / 3)], frequencies.For(1));
    }

    [Fact]
    public void ACacheGivesWhatTheWholeGives()
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        using var rotary = Rotary();
        var projections = randn(2, 9, s_shape.AllHeads * s_shape.HeadSize);
        using var cache = new ModelCache();
        var parts = new List<Tensor>();
        foreach (var (start, count) in new[] { (0L, 5L), (5L, 3L), (8L, 1L) })
        {
            var part = new ForwardContext { Rows = 2, Length = count, Cache = cache };
            parts.Add(Run(projections.narrow(1, start, count).reshape(2 * count, -1), part).view(2, count, -1));
            cache.Advance(count);
        }

        var whole = Run(projections.reshape(18, -1), new ForwardContext { Rows = 2, Length = 9 }).view(2, 9, -1);
        TensorAssert.CloseToScale(whole, cat(parts, 1), 1e-5);

        Tensor Run(Tensor input, ForwardContext context) =>
            Attention.Forward(input, s_shape, rotary.For(context, ScalarType.Float32, CPU), AttentionPlan.Causal(context, CPU), 0, context);
    }

    [Fact]
    public void APositionThatSeesNothingIsFinite()
    {
        using var scope = NewDisposeScope();
        var mask = tensor(new long[,] { { 0, 0, 1, 1 } });
        var context = new ForwardContext { Rows = 1, Length = 4, AttentionMask = mask };
        var output = Attention.Forward(randn(4, s_shape.AllHeads * s_shape.HeadSize), s_shape, null, AttentionPlan.Causal(context, CPU), 0, context);
        Assert.True(output.isfinite().all().item<bool>());
    }

    [Fact]
    public void PackedRowsLookAtNoKeyOfEarlierExamples()
    {
        using var scope = NewDisposeScope();
        var context = new ForwardContext { Rows = 1, Length = 512, Packing = [[256, 256]] };
        var blocks = AttentionPlan.Causal(context, CPU).Blocks;
        Assert.Equal([0, 0, 256, 256], blocks.Select(static block => block.Key));
    }

    private static RotaryEmbedding Rotary() => new(
        new RotaryFrequencies(new ModelConfig(new JsonObject { ["rope_theta"] = 100.0, ["partial_rotary_factor"] = 0.5 }), s_shape.HeadSize, 0.5), "Rotary");

    private static Tensor Forbidden(int length, Tensor mask, IReadOnlyList<IReadOnlyList<int>>? packing, int? window)
    {
        var forbidden = zeros(2, length, length, ScalarType.Bool);
        for (var row = 0; row < 2; row++)
        {
            var example = new int[length];
            var at = 0;
            foreach (var (size, index) in (packing?[row] ?? [length]).Append(length).Select(static (size, index) => (size, index)))
            {
                for (var end = Math.Min(length, at + size); at < end; at++)
                {
                    example[at] = index;
                }
            }

            for (var query = 0; query < length; query++)
            {
                for (var key = 0; key < length; key++)
                {
                    var hidden = key > query || example[key] != example[query] || query - key >= (window ?? length) || mask[row, key].item<long>() == 0;
                    if (hidden && key != query)
                    {
                        forbidden[row, query, key] = tensor(true);
                    }
                }
            }

            // What stands in padding sees other things here and there; it is compared all the same, so both must hide it alike.
            for (var key = 0; key < length; key++)
            {
                if (mask[row, key].item<long>() == 0)
                {
                    forbidden.select(0, row).select(1, key).fill_(true);
                }
            }
        }

        return forbidden;
    }

    private static Tensor Plain(Tensor projections, int length, RotaryTables rotary, Tensor forbidden)
    {
        var heads = projections.view(2, length, s_shape.AllHeads, s_shape.HeadSize);
        var q = Rotate(heads.narrow(2, 0, 6));
        var k = Rotate(heads.narrow(2, 6, 2)).repeat_interleave(3, 2);
        var v = heads.narrow(2, 8, 2).repeat_interleave(3, 2);
        var scores = einsum("bqhd,bkhd->bhqk", q, k).mul(s_shape.Scale).masked_fill(forbidden.unsqueeze(1), -1e30);
        return einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v).reshape(2 * length, 48);

        Tensor Rotate(Tensor x)
        {
            var (first, second, rest) = (x.narrow(-1, 0, 2), x.narrow(-1, 2, 2), x.narrow(-1, 4, 4));
            var (cosine, sine) = (rotary.Cosine.narrow(-1, 0, 2), rotary.Sine.narrow(-1, 2, 2));
            return cat([first.mul(cosine).sub(second.mul(sine)), second.mul(cosine).add(first.mul(sine)), rest], -1);
        }
    }
}
