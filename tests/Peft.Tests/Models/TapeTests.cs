using Peft.Models;
using Peft.Models.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Models;

public class TapeTests
{
    private static readonly Activation s_silu = new("silu");

    [Fact]
    public void What_another_piece_has_read_is_not_written_over()
    {
        using var pass = new Pass();
        var x = pass.Produced();
        ResidualSum.Forward(x, x, pass.Context);
        HoldUnwritten(pass, x);
    }

    [Fact]
    public void What_a_piece_writes_over_is_read_by_no_other_after_it()
    {
        using var pass = new Pass();
        var x = pass.Produced();
        GatedActivation.Forward(x, s_silu, pass.Context);
        Assert.Throws<InvalidOperationException>(() => ResidualSum.Forward(x, x, pass.Context));
    }

    [Fact]
    public void What_autograd_or_the_caller_keeps_is_not_written_over()
    {
        using var pass = new Pass();
        HoldUnwritten(pass, pass.Tape.Autograd(static inputs => inputs[0].sigmoid(), [pass.Produced()], []));
        using var second = new Pass();
        var root = randn(3, 8);
        second.Tape.AddRoot(root, needsGradient: true);
        HoldUnwritten(second, root);
    }

    [Fact]
    public void Recomputed_blocks_take_and_give_several_tensors()
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        var (a, b) = (randn(3, 4), randn(3, 4));
        var gradients = new List<Tensor?[]>();
        foreach (var isRecomputed in new[] { false, true })
        {
            using var tape = new Tape();
            tape.AddRoot(a, needsGradient: true);
            tape.AddRoot(b, needsGradient: true);
            var context = new ForwardContext { Tape = tape };
            var outputs = isRecomputed ? tape.Checkpoint(Block, [a, b], context, trains: false) : Block([a, b], context);
            gradients.Add(tape.BackwardTo([(outputs[0], full_like(a, 2)), (outputs[1], ones_like(a))], [a, b], default));
        }

        for (var i = 0; i < 2; i++)
        {
            TensorAssert.CloseToScale(gradients[0][i]!, gradients[1][i]!, 1e-6, "gradient");
        }

        static IReadOnlyList<Tensor> Block(IReadOnlyList<Tensor> inputs, ForwardContext context)
        {
            var sum = ResidualSum.Forward(inputs[0], inputs[1], context);
            return [s_silu.Forward(sum, context), ResidualSum.Forward(sum, inputs[1], context)];
        }
    }

    /// <summary>A tape with a tensor on it that a piece made.</summary>
    private static void HoldUnwritten(Pass pass, Tensor x)
    {
        using var noGrad = no_grad();
        var before = x.clone();
        var output = GatedActivation.Forward(x, s_silu, pass.Context);
        pass.Tape.Backward(output, ones_like(output));
        Assert.True(x.equal(before).all().item<bool>());
    }

    private sealed class Pass : IDisposable
    {
        private readonly DisposeScope _scope = NewDisposeScope();

        public Tape Tape { get; } = new();

        public ForwardContext Context => new() { Tape = Tape };

        public Tensor Produced()
        {
            var source = randn(3, 8);
            Tape.AddRoot(source, needsGradient: true);
            return ResidualSum.Forward(source, source, Context);
        }

        public void Dispose()
        {
            Tape.Dispose();
            _scope.Dispose();
        }
    }
}
