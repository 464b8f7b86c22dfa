using Peft.Adapters.Slots;
using Peft.Adapters.Targets;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Tests.Adapters;

/// <summary>The slot with methods that aren't low-rank: an onion whose skins see their own inputs.</summary>
public class AdapterSlotTests
{
    private static readonly long[] s_width = [3];

    [Theory]
    [InlineData("a", "b")]
    [InlineData("b", "a")]
    public void Inputs_pass_from_the_outermost_to_the_innermost_and_outputs_come_back(string inner, string outer)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var layer = Layer();
        Skin a = new(layer, 2, 3), b = new(layer, 5, 7);
        Attach(layer, a, b);
        var x = ones(1, 3);

        var y = layer.Forward(x, new ForwardContext { Selection = AdapterSelection.Of(inner, outer) });

        var (near, far) = inner == "a" ? (a, b) : (b, a);
        var expected = x.mul(far.In).mul(near.In).matmul(layer.Weight.Data.t()).mul(near.Out).add(x.mul(far.In)).mul(far.Out).add(x);
        Assert.True(expected.sub(y).abs().max().item<float>() <= 1e-5f * expected.abs().max().item<float>());
        Assert.True(layer.Weight.Slot!.Plan(new ForwardContext { Selection = AdapterSelection.Of(inner) }).NeedsForward);
        Assert.True(layer.Weight.Slot!.Plan(new ForwardContext()).IsEmpty);
    }

    [Fact]
    public void Gradients_of_plain_skins_are_autograds()
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var layer = Layer();
        Skin a = new(layer, 2, 3), b = new(layer, 5, 7);
        Attach(layer, a, b);
        var x = randn(4, 3);
        var direction = randn(4, 3);
        Skin[] skins = [a, b];
        foreach (var parameter in skins.SelectMany(static skin => skin.Parameters))
        {
            parameter.Parameter.Data.requires_grad_(true);
            parameter.Parameter.Gradient = zeros_like(parameter.Parameter.Data).requires_grad_(false);
        }

        using (var tape = new Tape())
        {
            tape.AddRoot(x);
            var y = layer.Forward(x, new ForwardContext { Selection = AdapterSelection.Of("a", "b"), Tape = tape });
            tape.Backward(y, direction);
        }

        Tensor[] expected;
        using (enable_grad())
        {
            var (input, output, input2, output2) = (a.Scales.Data, a.Outputs.Data, b.Scales.Data, b.Outputs.Data);
            var y = x.mul(input2).mul(input).matmul(layer.Weight.Data.t()).mul(output).add(x.mul(input2)).mul(output2).add(x);
            expected = [.. autograd.grad([y], [input, output, input2, output2], [direction])];
        }

        Tensor[] found = [a.Scales.Gradient!, a.Outputs.Gradient!, b.Scales.Gradient!, b.Outputs.Gradient!];
        for (var i = 0; i < found.Length; i++)
        {
            Assert.True(expected[i].sub(found[i]).abs().max().item<float>() < 1e-3, $"parameter {i}");
        }
    }

    [Fact]
    public void A_low_rank_change_beside_another_method_is_nested_with_it()
    {
        using var model = TinyLlama.Create();
        var config = new Peft.Adapters.Methods.Lora.LoraConfig { Rank = 2, Alpha = 4, TargetModules = ModuleNames.Of("q_proj") };
        model.AddAdapter(config, "lora", 1).Perturb(1);
        using var expected = ModelRun.Logits(model, TinyLlama.Inputs());
        foreach (var slot in model["lora"].Adapter.Slots())
        {
            slot.Attach("idle", new Idle(slot.Module.AdaptableOf(slot.Parameter)!));
        }

        using var found = ModelRun.Logits(model, TinyLlama.Inputs(), AdapterSelection.Of("lora", "idle"));

        Assert.True(expected.sub(found).abs().max().item<float>() < 1e-4);
    }

    private static Linear Layer()
    {
        var layer = new Linear(3, 3);
        layer.Weight.Assign(randn(3, 3));
        return layer;
    }

    private static void Attach(Linear layer, Skin a, Skin b)
    {
        var slot = AdapterSlot.Of(layer, layer.Weight);
        slot.Attach("a", a);
        slot.Attach("b", b);
    }

    /// <summary>x · in on the way in; y · out + x on the way out.</summary>
    private sealed class Skin : LayerAdapter
    {
        public Skin(IAdaptable layer, double input, double output)
            : base(layer)
        {
            (In, Out) = (input, output);
            Scales = new Parameter("in", s_width);
            Scales.Assign(full(s_width, input));
            Outputs = new Parameter("out", s_width);
            Outputs.Assign(full(s_width, output));
            Parameters = [new("in", Scales), new("out", Outputs)];
        }

        public double In { get; }

        public double Out { get; }

        public Parameter Scales { get; }

        public Parameter Outputs { get; }

        public override bool ChangesInput => true;

        public override IReadOnlyList<LayerParameter> Parameters { get; }

        public override void Initialise(Generator generator) => throw new NotSupportedException();

        public override Tensor Before(Tensor x, SlotCall call) => x.mul(Scales.Data);

        public override Tensor After(Tensor x, Tensor y, SlotCall call) => y.mul(Outputs.Data).add(x);

        public override Affine Merge(Affine current, Affine bare) => throw new NotSupportedException();
    }

    private sealed class Idle(IAdaptable layer) : LayerAdapter(layer)
    {
        public override IReadOnlyList<LayerParameter> Parameters => [];

        public override void Initialise(Generator generator) => throw new NotSupportedException();

        public override Tensor After(Tensor x, Tensor y, SlotCall call) => y;

        public override Affine Merge(Affine current, Affine bare) => current;
    }
}
