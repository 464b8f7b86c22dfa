using System.Text.Json.Nodes;
using Peft.Engine;
using Peft.Models;
using Peft.Models.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Models;

/// <summary>Attention over queries, keys and values of their own, with everything that may act on scores, against the plain formula.</summary>
public class GeneralAttentionTests
{
    private const int Rows = 2;
    private static readonly AttentionShape s_shape = new(6, 2, 8, 0.35) { ValueSize = 5 };

    [Theory]
    [InlineData(7, null)]
    [InlineData(150, null)]
    [InlineData(150, 3)]
    public void Both_ways_with_values_of_their_own_size(int length, int? reach)
    {
        using var check = new BackwardCheck { Tolerance = 3e-5 };
        var mask = ones(Rows, length, ScalarType.Int64);
        mask.narrow(0, 0, 1).narrow(1, length - 2, 2).zero_();
        var context = new ForwardContext { Rows = Rows, Length = length, AttentionMask = mask };
        var (q, k, v) = Inputs(check, length, length);
        var distance = arange(length).unsqueeze(0).sub(arange(length).unsqueeze(1)).abs();
        var hidden = mask.eq(0).unsqueeze(1).logical_or(distance.gt(reach ?? length).unsqueeze(0));
        check.Run(
            inner => Attention.Forward(q, k, v, s_shape, null, AttentionPlan.BothWays(inner, CPU, reach), null, inner),
            (inputs, _) => Plain(inputs[0], inputs[1], inputs[2], s_shape, hidden),
            context);
    }

    [Theory]
    [InlineData(5, 5, ScalarType.Float32, 3e-5)]
    [InlineData(300, 300, ScalarType.Float32, 3e-5)]
    [InlineData(140, 9, ScalarType.Float32, 3e-5)]
    [InlineData(140, 9, ScalarType.BFloat16, 0.05)]
    public void Where_all_see_all(int length, int keys, ScalarType type, double tolerance)
    {
        var shape = new AttentionShape(3, 3, 8, 0.35);
        var context = new ForwardContext { Rows = Rows, Length = length };
        using var apart = new BackwardCheck { Type = type, Tolerance = tolerance };
        Tensor[] parts = [apart.Input(Rows * length, 24), apart.Input(Rows * keys, 24), apart.Input(Rows * keys, 24)];
        apart.Run(
            inner => Attention.Forward(parts[0], parts[1], parts[2], shape, null, AttentionPlan.Across(inner, CPU, keys, mask: null), null, inner),
            (inputs, _) => Plain(inputs[0], inputs[1], inputs[2], shape, hidden: null),
            context);
        if (length != keys)
        {
            return;
        }

        using var fused = new BackwardCheck { Type = type, Tolerance = tolerance };
        var projections = fused.Input(Rows * length, 72);
        fused.Run(
            inner => Attention.Forward(projections, shape, null, AttentionPlan.BothWays(inner, CPU), null, inner),
            (inputs, _) => Plain(inputs[0].narrow(1, 0, 24), inputs[0].narrow(1, 24, 24), inputs[0].narrow(1, 48, 24), shape, hidden: null),
            context);
    }

    [Fact]
    public void Across_to_a_sequence_of_another_length()
    {
        using var check = new BackwardCheck { Tolerance = 3e-5 };
        var mask = ones(Rows, 9, ScalarType.Int64);
        mask.narrow(0, 1, 1).narrow(1, 0, 3).zero_();
        var context = new ForwardContext { Rows = Rows, Length = 4, AttentionMask = ones(Rows, 4, ScalarType.Int64) };
        var (q, k, v) = Inputs(check, 4, 9);
        check.Run(
            inner => Attention.Forward(q, k, v, s_shape, null, AttentionPlan.Across(inner, CPU, 9, mask), null, inner),
            (inputs, _) => Plain(inputs[0], inputs[1], inputs[2], s_shape, mask.eq(0).unsqueeze(1)),
            context);
    }

    [Theory]
    [InlineData(1, 5)]
    [InlineData(Rows, 140)]
    public void Caps_biases_sinks_and_prefixes_get_their_gradients(int prefixRows, int length)
    {
        const int Before = 3;
        using var check = new BackwardCheck { Tolerance = 3e-5 };
        var shape = s_shape with { SoftCap = 1.5 };
        using var rotary = new RotaryEmbedding(new RotaryFrequencies(new ModelConfig(new JsonObject { ["rope_theta"] = 100.0 }), 8), "Rotary", isInterleaved: true);
        var (q, k, v) = Inputs(check, length, length);
        var bias = check.Input(prefixRows, 6, prefixRows == 1 ? length : 1, Before + length);
        var prefix = new KeyValuePrefix(check.Input(prefixRows, 2, Before, 8), check.Input(prefixRows, 2, Before, 5));
        var sinks = check.Fill(new Parameter("sinks", [6]));
        var context = new ForwardContext { Rows = Rows, Length = length, Prompt = new VirtualPrompt(Before) { KeyValues = [prefix] } };
        var hidden = arange(Before + length).unsqueeze(0).gt(arange(length).unsqueeze(1).add(Before)).unsqueeze(0);
        check.Run(
            inner => Attention.Forward(
                q, k, v, shape, rotary.For(inner, ScalarType.Float32, CPU), AttentionPlan.Causal(inner, CPU), 0, inner, new ScoreTerms(bias, sinks)),
            (inputs, value) =>
            {
                var tables = rotary.For(context, ScalarType.Float32, CPU);
                var keys = cat([inputs[4].expand(Rows, 2, Before, 8).transpose(1, 2), Turned(inputs[1], tables, length, 2)], 1);
                var values = cat([inputs[5].expand(Rows, 2, Before, 5).transpose(1, 2), inputs[2].view(Rows, length, 2, 5)], 1);
                return Plain(Turned(inputs[0], tables, length, 6).reshape(Rows * length, 48), keys, values, shape, hidden, inputs[3], value(sinks));
            },
            context);
    }

    [Fact]
    public void A_prefix_takes_its_gradient_through_recomputed_blocks()
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        var gradients = new List<Tensor>();
        var (q, keys, values) = (randn(Rows * 4, 96), randn(1, 2, 3, 8), randn(1, 2, 3, 8));
        var shape = new AttentionShape(6, 2, 8, 0.35) { ValueSize = 8 };
        foreach (var isRecomputed in new[] { false, true })
        {
            using var tape = new Tape();
            tape.AddRoot(keys, needsGradient: true);
            tape.AddRoot(values);
            var prompt = new VirtualPrompt(3) { KeyValues = [new KeyValuePrefix(keys, values)] };
            var context = new ForwardContext { Rows = Rows, Length = 4, Prompt = prompt, Tape = tape };
            var plan = AttentionPlan.Causal(context, CPU);
            var input = q.narrow(1, 0, 80);
            tape.AddRoot(input);
            var output = isRecomputed
                ? tape.Checkpoint((inputs, inner) => [Attention.Forward(inputs[0], shape, null, plan, 0, inner)], [input], context, trains: false)[0]
                : Attention.Forward(input, shape, null, plan, 0, context);
            gradients.Add(tape.BackwardTo([(output, ones_like(output))], [keys], default)[0]!);
        }

        TensorAssert.CloseToScale(gradients[0], gradients[1], 1e-6, "prefix");
    }

    [Fact]
    public void Dropped_weights_are_dropped_in_the_backward_pass_too()
    {
        using var check = new BackwardCheck { Tolerance = 3e-5 };
        var shape = s_shape with { Dropout = 0.4 };
        var (q, k, v) = Inputs(check, 6, 6);
        var context = new ForwardContext { Rows = Rows, Length = 6, IsTraining = true, Generator = new Generator(3) };
        var hidden = ones(6, 6, ScalarType.Bool).triu(1).unsqueeze(0);
        var kept = RandomDraws.Kept(empty([Rows * 2, 18, 6]), 0.6, new Generator(3)).view(Rows, 6, 6, 6);
        check.Run(
            inner => Attention.Forward(q, k, v, shape, null, AttentionPlan.Causal(inner, CPU), null, inner),
            (inputs, _) => Plain(inputs[0], inputs[1], inputs[2], shape, hidden, kept: kept),
            context);
    }

    [Fact]
    public void A_norm_over_heads_and_a_turn_of_their_own_are_steps_of_a_pass()
    {
        using var check = new BackwardCheck();
        using var rotary = new RotaryEmbedding(new RotaryFrequencies(new ModelConfig(new JsonObject { ["rope_theta"] = 50.0 }), 8), "Rotary");
        var norm = new RmsNorm(8, 1e-5, "Norm");
        var weight = check.Fill(norm.Weight);
        var x = check.Input(Rows * 3, 40);
        var context = new ForwardContext { Rows = Rows, Length = 3 };
        check.Run(
            inner =>
            {
                var parts = Splitting.Forward(x, [24, 16], inner);
                var turned = rotary.For(inner, ScalarType.Float32, CPU).Forward(norm.Forward(parts[0], inner), 8, inner);
                return Concatenation.Forward([parts[1], turned], inner);
            },
            (inputs, value) =>
            {
                var heads = inputs[0].narrow(1, 0, 24).view(Rows, 3, 3, 8);
                var normed = heads.mul(heads.square().mean([-1], keepdim: true).add(1e-5).rsqrt()).mul(value(weight));
                var turned = Turned(normed, rotary.For(context, ScalarType.Float32, CPU), 3, 3);
                return cat([inputs[0].narrow(1, 24, 16), turned.reshape(Rows * 3, 24)], 1);
            },
            context);
    }

    private static (Tensor Queries, Tensor Keys, Tensor Values) Inputs(BackwardCheck check, int length, int keys) =>
        (check.Input(Rows * length, 6 * 8), check.Input(Rows * keys, 2 * 8), check.Input(Rows * keys, 2 * 5));

    private static Tensor Turned(Tensor x, RotaryTables tables, int length, int heads)
    {
        var all = x.view(Rows, length, heads, 8);
        var (first, second) = tables.IsInterleaved
            ? (all.view(Rows, length, heads, 4, 2).select(-1, 0), all.view(Rows, length, heads, 4, 2).select(-1, 1))
            : (all.narrow(-1, 0, 4), all.narrow(-1, 4, 4));
        var (cosine, sine) = tables.IsInterleaved
            ? (tables.Cosine.view(length, 1, 4, 2).select(-1, 0), tables.Sine.view(length, 1, 4, 2).select(-1, 1))
            : (tables.Cosine.narrow(-1, 0, 4), tables.Sine.narrow(-1, 4, 4));
        var turned = new[] { first.mul(cosine).sub(second.mul(sine)), second.mul(cosine).add(first.mul(sine)) };
        return tables.IsInterleaved ? stack(turned, -1).flatten(3, 4) : cat(turned, -1);
    }

    private static Tensor Plain(
        Tensor queries, Tensor keys, Tensor values, AttentionShape shape, Tensor? hidden, Tensor? bias = null, Tensor? sinks = null, Tensor? kept = null)
    {
        var q = queries.reshape(Rows, -1, shape.Heads, shape.HeadSize);
        var k = keys.reshape(Rows, -1, shape.KeyValueHeads, shape.HeadSize).repeat_interleave(shape.Group, 2);
        var v = values.reshape(Rows, -1, shape.KeyValueHeads, shape.ValueSize).repeat_interleave(shape.Group, 2);
        var scores = einsum("bqhd,bkhd->bhqk", q, k).mul(shape.Scale);
        scores = shape.SoftCap is { } cap ? scores.div(cap).tanh().mul(cap) : scores;
        scores = bias is null ? scores : scores.add(bias);
        scores = hidden is null ? scores : scores.masked_fill(hidden.unsqueeze(1), -1e30);
        var sink = sinks?.view(1, shape.Heads, 1, 1).expand(Rows, shape.Heads, scores.size(2), 1);
        var weights = (sink is null ? scores : cat([scores, sink], -1)).softmax(-1).narrow(-1, 0, k.size(1));
        weights = kept is null ? weights : weights.mul(kept).div(1 - shape.Dropout);
        return einsum("bhqk,bkhd->bqhd", weights, v).reshape(queries.size(0), shape.Heads * shape.ValueSize);
    }
}
