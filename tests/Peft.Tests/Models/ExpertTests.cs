using Peft.Models;
using Peft.Models.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Models;

/// <summary>Experts, their router and the gate beside them, against the plain formula over one token after another.</summary>
public class ExpertTests
{
    private const int Count = 5;
    private const int Chosen = 2;
    private const int Width = 6;
    private const int Inner = 7;

    [Theory]
    [InlineData(false, false)]
    [InlineData(true, true)]
    public void Each_token_gets_the_weighed_sum_of_its_experts_and_every_weight_its_gradient(bool isTransposed, bool hasBias)
    {
        using var check = new BackwardCheck { Tolerance = 5e-5 };
        var sizes = new ExpertSizes(Count, Width, Inner) { IsTransposed = isTransposed, HasBias = hasBias };
        using var experts = new Experts(sizes, "Experts", new Activation("silu"));
        var parameters = experts.Parameters.ToDictionary(static parameter => parameter.Name, parameter => check.Fill(parameter));
        var (x, residual, weights) = (check.Input(9, Width), check.Input(9, Width), check.Input(9, Chosen));
        var visited = rand(9, Count, generator: check.Source).topk(Chosen, -1).indexes;
        check.Run(
            inner => experts.Forward(x, residual, new Routing(x, weights, visited), inner),
            (inputs, values) => Plain(inputs[0], inputs[1], inputs[2], name => parameters.TryGetValue(name, out var own) ? values(own) : null));

        Tensor Plain(Tensor input, Tensor sum, Tensor weight, Func<string, Tensor?> value)
        {
            var rows = new List<Tensor>();
            for (var row = 0; row < 9; row++)
            {
                var y = sum[row];
                for (var visit = 0; visit < Chosen; visit++)
                {
                    var expert = visited[row, visit].item<long>();
                    var projected = Product(input[row], "gate_up_proj", expert);
                    var inner = projected.narrow(0, 0, Inner).silu() * projected.narrow(0, Inner, Inner);
                    y = y + (Product(inner, "down_proj", expert) * weight[row, visit]);
                }

                rows.Add(y);
            }

            return stack(rows);

            Tensor Product(Tensor vector, string name, long expert)
            {
                var matrix = isTransposed ? value(name)![expert].t() : value(name)![expert];
                var product = matrix.mv(vector);
                return value(name + "_bias") is { } bias ? product + bias[expert] : product;
            }
        }
    }

    [Fact]
    public void Each_of_the_two_weights_has_a_slot_of_its_own_that_knows_which_rows_are_whose()
    {
        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        using var experts = new Experts(new ExpertSizes(Count, Width, Inner), "Experts", new Activation("silu"));
        foreach (var parameter in experts.Parameters)
        {
            parameter.Assign(randn([.. parameter.Shape]));
        }

        var (x, visited) = (randn(4, Width), tensor(new long[] { 3, 1, 3, 3 }).unsqueeze(1));
        var routing = new Routing(x, ones(4, 1), visited);
        var plain = experts.Forward(x, zeros_like(x), routing, new ForwardContext());
        var seen = new List<long>();
        var down = experts.Parameters.Single(static parameter => parameter.Name == "down_proj");
        down.Slot = new DoublingSlot(seen);
        TensorAssert.Close(plain.mul(2), experts.Forward(x, zeros_like(x), routing, new ForwardContext()), 1e-5, 1e-5, "output");
        Assert.Equal([0, 1, 0, 3, 0], seen);
        Assert.Equal((Inner, Width, Count), (experts.AdaptableOf(down)!.Inputs, experts.AdaptableOf(down)!.Outputs, experts.AdaptableOf(down)!.Experts));
    }

    [Fact]
    public void A_bias_chooses_experts_but_does_not_weigh_them()
    {
        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        using var router = new Router(4, 4, new RouterRule(2, RouterScores.Sigmoid) { Groups = 2, ChosenGroups = 1, Normalises = true }, "Router", correction: "bias");
        router.Weight.Assign(eye(4));
        router.Correction!.Assign(tensor(new float[] { 0, 0, 9, 9 }));
        var routing = router.Forward(tensor(new float[] { 3, 2, 1, -1 }).unsqueeze(0), new ForwardContext());
        Assert.Equal([2, 3], routing.Experts.data<long>().Order());
        Assert.Equal(1, routing.Weights.sum().item<float>(), 5);
        Assert.DoesNotContain(router.Parameters, static parameter => parameter.Name == "bias");
        Assert.Contains(router.NamedWeights(), static named => named.Path == "bias");
    }

    [Theory]
    [InlineData(1)]
    [InlineData(Width)]
    public void A_gate_and_what_it_lets_through_get_their_gradients(int gates)
    {
        using var check = new BackwardCheck();
        var (x, gate) = (check.Input(5, Width), check.Input(5, gates));
        check.Run(inner => SigmoidGate.Forward(x, gate, inner), static (inputs, _) => inputs[0] * inputs[1].sigmoid());
    }

    [Fact]
    public void A_choice_that_no_router_can_make_is_an_error_that_says_so()
    {
        var error = Assert.Throws<PeftException>(static () => new Router(4, 4, new RouterRule(5), "Router"));
        Assert.Equal("ModelConfigInvalid", error.ErrorId);
    }

    private sealed class DoublingSlot(List<long> seen) : Slot
    {
        public override Parameter? Overlay(ForwardContext context) => null;

        public override SlotPlan Plan(ForwardContext context) => new([], NeedsForward: true);

        public override Tensor Forward(Tensor x, ForwardContext context, Func<Tensor, ForwardContext, Tensor> baseProduct)
        {
            seen.AddRange(context.ExpertRows!.Counts);
            return baseProduct(x, context).mul(2);
        }
    }
}
