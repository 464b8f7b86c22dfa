using Peft.Engine;
using Peft.Models;
using Peft.Models.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Models;

/// <summary>The kernel of convolved heads against the same by operators in float64, with gradients by autograd.</summary>
public class ConvolvedHeadsTests
{
    private const double Epsilon = 1e-6;
    private static readonly HeadChannels[] s_groups = [new(0, 2, 20, 0.25), new(40, 2, 20, 1), new(80, 3, 7)];

    [Theory]
    [InlineData(1, 4, ScalarType.Float32)]
    [InlineData(3, 4, ScalarType.Float32)]
    [InlineData(64, 2, ScalarType.Float32)]
    [InlineData(130, 4, ScalarType.Float32)]
    [InlineData(67, 1, ScalarType.Float32)]
    [InlineData(130, 4, ScalarType.BFloat16)]
    public void Heads_and_their_gradients_are_those_by_operators(int length, int taps, ScalarType type)
    {
        using var scope = NewDisposeScope();
        var x = randn(3, length, 101).to(type);
        var weight = randn(101, 1, taps).to(type);
        var exact = x.to(ScalarType.Float64).requires_grad_();
        var rows = weight.to(ScalarType.Float32).squeeze(1).t().contiguous();
        var given = x.clone();
        var found = zeros_like(x);
        foreach (var group in s_groups)
        {
            var expected = ByOperators(exact, weight.to(ScalarType.Float64), group);
            var gradient = randn([3, group.Heads, length, group.Size]);
            expected.backward([gradient.to(ScalarType.Float64)]);
            using var noGradients = no_grad();
            TensorAssert.CloseToScale(expected.to(ScalarType.Float32), ConvolvedHeadsKernel.Form(x, rows, group, Epsilon), type == ScalarType.Float32 ? 1e-6 : 1e-2, $"heads from {group.Start}");
            ConvolvedHeadsKernel.Gradient(x, rows, group, Epsilon, gradient, found);
        }

        TensorAssert.CloseToScale(exact.grad!.to(ScalarType.Float32), found.to(ScalarType.Float32), type == ScalarType.Float32 ? 2e-6 : 1e-2, "gradient");
        TensorAssert.Close(given.to(ScalarType.Float32), x.to(ScalarType.Float32), 0, 0, "the input stays");
    }

    [Fact]
    public void Examples_of_packed_rows_and_padding_are_kept_apart_in_both_directions()
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var tape = new Tape();
        var mask = ones(2, 9, ScalarType.Int64);
        mask[1, 8] = 0;
        var context = new ForwardContext { Rows = 2, Length = 9, Packing = [[2, 5], [8]], AttentionMask = mask, Tape = tape };
        var layout = SequenceLayout.For(context, CPU);
        var x = randn(18, 101);
        tape.AddRoot(x, needsGradient: true);
        var weight = new Parameter("weight", [101, 1, 4]);
        weight.Assign(randn(101, 1, 4));
        var heads = ConvolvedHeads.Forward(x, weight, layout, s_groups, Epsilon, context);
        Tensor[] gradients = [.. heads.Select(static tensor => randn_like(tensor))];
        var found = tape.BackwardTo([.. heads.Zip(gradients)], [x], default)[0]!;

        using var withGradients = enable_grad();
        var exact = x.to(ScalarType.Float64).requires_grad_();
        for (var i = 0; i < heads.Length; i++)
        {
            var expected = ByOperators(layout.Gather(exact), weight.Data.to(ScalarType.Float64), s_groups[i]);
            TensorAssert.CloseToScale(expected.detach().to(ScalarType.Float32), heads[i], 1e-6, $"heads {i}");
            expected.backward([gradients[i].to(ScalarType.Float64)]);
        }

        TensorAssert.CloseToScale(exact.grad!.to(ScalarType.Float32), found, 2e-6, "gradient");
    }

    private static Tensor ByOperators(Tensor x, Tensor weight, HeadChannels group)
    {
        var (length, taps) = (x.size(1), weight.size(2));
        var sums = nn.functional.conv1d(x.transpose(1, 2), weight, padding: taps - 1, groups: x.size(2)).narrow(2, 0, length).transpose(1, 2);
        var heads = nn.functional.silu(sums).narrow(2, group.Start, group.Heads * group.Size).reshape(x.size(0), length, group.Heads, group.Size).transpose(1, 2);
        return group.Unit == 0 ? heads : heads * (heads.square().sum(-1, keepdim: true) + Epsilon).rsqrt() * group.Unit;
    }
}
