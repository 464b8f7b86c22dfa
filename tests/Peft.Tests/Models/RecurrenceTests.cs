using Peft.Models;
using Peft.Models.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Models;

/// <summary>Recurrences in chunks against the same one position after another, and the rows they read.</summary>
public class RecurrenceTests
{
    private const int Rows = 2;
    private const int Heads = 3;

    [Theory]
    [InlineData(1, true)]
    [InlineData(5, true)]
    [InlineData(150, true)]
    [InlineData(150, false)]
    public void Chunks_give_what_one_position_after_another_gives(int length, bool hasRate)
    {
        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        var (q, k, v) = (randn(Rows, length, Heads, 4), randn(Rows, length, Heads, 4), randn(Rows, length, Heads, 5));
        k = k / k.norm(-1, keepdim: true);
        var decay = rand(Rows, length, Heads).mul(-0.5);
        var rate = hasRate ? rand(Rows, length, Heads) : null;
        var before = randn(Rows, Heads, 4, 5);
        var (output, after) = GatedRecurrence.Run(q, k, v, decay, rate, before);
        var (expected, last) = Plain(q, k, v, decay, rate, before);
        TensorAssert.CloseToScale(expected, output, 2e-5, "output");
        TensorAssert.CloseToScale(last, after, 2e-5, "state");
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Gradients_through_chunks_are_those_of_one_position_after_another(bool hasRate)
    {
        const int Length = 70;
        using var scope = NewDisposeScope();
        var key = randn(Rows, Length, Heads, 4);
        Tensor[] given = [randn(Rows, Length, Heads, 4), key / key.norm(-1, keepdim: true), randn(Rows, Length, Heads, 5), rand(Rows, Length, Heads).mul(-0.5), rand(Rows, Length, Heads), randn(Rows, Heads, 4, 5)];
        var weights = randn(Rows, Length, Heads, 5);
        var (chunks, plain) = (Gradients(GatedRecurrence.Run), Gradients(static (q, k, v, decay, rate, state) => Plain(q, k, v, decay, rate, state!)));
        for (var i = 0; i < given.Length; i++)
        {
            if (hasRate || i != 4)
            {
                TensorAssert.CloseToScale(plain[i]!, chunks[i]!, 5e-5, $"gradient {i}");
            }
        }

        Tensor?[] Gradients(Func<Tensor, Tensor, Tensor, Tensor, Tensor?, Tensor?, (Tensor Output, Tensor State)> run)
        {
            Tensor[] inputs = [.. given.Select(static tensor => tensor.detach().clone().requires_grad_())];
            var (output, state) = run(inputs[0], inputs[1], inputs[2], inputs[3], hasRate ? inputs[4] : null, inputs[5]);
            (output.mul(weights).sum() + state.sum()).backward();
            return [.. inputs.Select(static input => input.grad)];
        }
    }

    [Fact]
    public void Keys_that_are_all_alike_stay_exact()
    {
        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        var key = randn(1, 1, 1, 4);
        key = (key / key.norm()).expand(1, 64, 1, 4);
        var (v, none, all) = (randn(1, 64, 1, 5), zeros(1, 64, 1), ones(1, 64, 1));
        var (output, _) = GatedRecurrence.Run(key, key, v, none, all, null);
        TensorAssert.CloseToScale(v, output, 1e-5, "the value just written");
    }

    [Fact]
    public void Examples_of_a_packed_row_are_rows_of_their_own()
    {
        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        var context = new ForwardContext { Rows = 2, Length = 6, Packing = [[2, 3], [6]] };
        var layout = SequenceLayout.For(context, CPU);
        var x = arange(1, 13, ScalarType.Float32).unsqueeze(1);
        var rows = layout.Gather(x);
        Assert.Equal([1, 2, 0, 0, 0, 0, 3, 4, 5, 0, 0, 0, 6, 0, 0, 0, 0, 0, 7, 8, 9, 10, 11, 12], rows.reshape(-1).data<float>().ToArray());
        TensorAssert.Close(x, layout.Scatter(rows), 0, 0, "back");
    }

    [Fact]
    public void A_convolution_goes_on_where_the_last_pass_ended()
    {
        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        using var layer = new ShortConvolution(3, 4, hasBias: true);
        var (x, weight, bias) = (randn(2, 7, 3), randn(3, 1, 4), randn(3));
        var (whole, _) = layer.Apply(x, null, weight, bias);
        var (first, past) = layer.Apply(x.narrow(1, 0, 2), null, weight, bias);
        var (second, _) = layer.Apply(x.narrow(1, 2, 5), past, weight, bias);
        TensorAssert.Close(whole, cat([first, second], 1), 1e-6, 1e-6, "in two passes");
        TensorAssert.Close(x[0, 6, 1] * weight[1, 0, 3] + (x[0, 5, 1] * weight[1, 0, 2]) + (x[0, 4, 1] * weight[1, 0, 1]) + (x[0, 3, 1] * weight[1, 0, 0]) + bias[1], whole[0, 6, 1], 1e-5, 1e-5, "one output");
    }

    private static (Tensor Output, Tensor State) Plain(Tensor q, Tensor k, Tensor v, Tensor decay, Tensor? rate, Tensor state)
    {
        var outputs = new List<Tensor>();
        for (long t = 0; t < q.size(1); t++)
        {
            var (key, value) = (k.select(1, t).unsqueeze(-1), v.select(1, t).unsqueeze(-2));
            state = state * decay.select(1, t).exp().unsqueeze(-1).unsqueeze(-1);
            value = rate is null ? value : (value - key.transpose(-2, -1).matmul(state)) * rate.select(1, t).unsqueeze(-1).unsqueeze(-1);
            state = state + key.matmul(value);
            outputs.Add(q.select(1, t).unsqueeze(-2).matmul(state).squeeze(-2));
        }

        return (stack(outputs, 1), state);
    }
}
