using Peft.Engine;
using Peft.Models;
using Peft.Models.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Models;

public class LinearLayerTests
{
    private static LowRank Change(BackwardCheck check, long inputs, long outputs, long rank, double scale, bool hasBias = false, double dropout = 0) => new(
        check.Fill(new Parameter("A", [rank, inputs]), type: ScalarType.Float32),
        check.Fill(new Parameter("B", [outputs, rank]), type: ScalarType.Float32),
        hasBias ? check.Fill(new Parameter("bias of B", [outputs]), type: ScalarType.Float32) : null,
        scale,
        dropout);

    private static Tensor Changed(Tensor y, Tensor x, LowRank change, Func<Parameter, Tensor> value, Tensor? mask = null)
    {
        var input = mask is null ? x : x.mul(mask).div(1 - change.Dropout);
        var delta = input.matmul(value(change.A).t()).matmul(value(change.B).t());
        delta = change.Bias is null ? delta : delta.add(value(change.Bias));
        return y.add(delta.mul(change.Scale));
    }

    private static Tensor Plain(Linear layer, Tensor x, Func<Parameter, Tensor> value)
    {
        var y = x.matmul(layer.ToMatrix(value(layer.Weight)).t());
        return layer.Bias is null ? y : y.add(value(layer.Bias));
    }

    [Theory]
    [InlineData(false, false, false)]
    [InlineData(true, true, false)]
    [InlineData(true, true, true)]
    public void EveryWeightAndTheInputGetTheirGradient(bool hasBias, bool isTrained, bool isTransposed)
    {
        using var check = new BackwardCheck();
        using var layer = new Linear(6, 5, hasBias, isTransposed);
        check.Fill(layer.Weight, isTrained);
        if (hasBias)
        {
            check.Fill(layer.Bias!, isTrained);
        }

        var x = check.Input(7, 6);
        var residual = check.Input(7, 5);
        check.Run(context => layer.Forward(x, context, residual), (inputs, value) => Plain(layer, inputs[0], value).add(inputs[1]));
    }

    [Theory]
    [InlineData(ScalarType.Float32, 2e-5)]
    [InlineData(ScalarType.BFloat16, 0.03)]
    public void SeveralLowRankChangesAreOneProduct(ScalarType type, double tolerance)
    {
        using var check = new BackwardCheck { Type = type, Tolerance = tolerance };
        using var layer = new Linear(12, 10, hasBias: true);
        check.Fill(layer.Weight, isTrained: false);
        check.Fill(layer.Bias!, isTrained: false);
        var (first, second) = (Change(check, 12, 10, 3, 1.5), Change(check, 12, 10, 2, 0.5, hasBias: true));
        layer.Weight.Slot = new FixedSlot(first, second);
        var x = check.Input(9, 12);
        check.Run(
            context => layer.Forward(x, context),
            (inputs, value) => Changed(Changed(Plain(layer, inputs[0], value), inputs[0], first, value), inputs[0], second, value));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Values_between_the_factors_and_lengths_of_the_outputs_are_part_of_the_product(bool hasOther)
    {
        using var check = new BackwardCheck();
        using var pair = new FusedPair(check, 12, 10, 6, hasBias: true);
        var (first, second, group) = pair;
        var plain = Change(check, 12, 10, 3, 1.5);
        var change = plain with { Inner = check.Fill(new Parameter("values", [3, 1])), Magnitude = check.Fill(new Parameter("lengths", [10])) };
        var other = Change(check, 12, 6, 2, 0.5);
        first.Weight.Slot = new FixedSlot(change);
        second.Weight.Slot = hasOther ? new FixedSlot(other) : null;
        var x = check.Input(9, 12);
        check.Run(
            context => group.Forward(x, context),
            (inputs, value) =>
            {
                var weight = value(first.Weight).add(value(change.B).matmul(value(change.A).mul(value(change.Inner))).mul(1.5));
                var factor = value(change.Magnitude).div(weight.detach().square().sum(1).sqrt());
                var y = inputs[0].matmul(weight.t()).mul(factor).add(value(first.Bias!));
                var beside = Plain(second, inputs[0], value);
                beside = hasOther ? Changed(beside, inputs[0], other, value) : beside.add(value(other.A).sum().add(value(other.B).sum()).mul(0));
                return cat([y, beside], 1);
            });
    }

    [Theory]
    [InlineData(3)]
    [InlineData(70)]
    public void A_change_in_the_weight_has_its_gradients_whether_the_weight_is_kept_or_formed_again(int rows)
    {
        using var check = new BackwardCheck();
        using var pair = new FusedPair(check, 12, 10, 6, hasBias: true);
        var (first, second, group) = pair;
        var scales = check.Fill(new Parameter("scales", [12]));
        var other = Change(check, 12, 6, 2, 0.5);
        scales.Data.requires_grad_(true);
        first.Weight.Slot = new ScaledSlot(first, scales);
        second.Weight.Slot = new FixedSlot(other);
        var x = check.Input(rows, 12);
        check.Run(
            context => group.Forward(x, context),
            (inputs, value) => cat(
                [
                    inputs[0].matmul(value(first.Weight).mul(value(scales).sin()).t()).add(value(first.Bias!)),
                    Changed(Plain(second, inputs[0], value), inputs[0], other, value),
                ],
                1));
    }

    /// <summary>Scales a weight's columns.</summary>
    private sealed class ScaledSlot(Linear layer, Parameter scales) : Slot
    {
        public override Parameter? Overlay(ForwardContext context) => null;

        public override SlotPlan Plan(ForwardContext context) => new([], NeedsForward: false) { Weight = new Scaled(layer, scales) };

        public override Tensor Forward(Tensor x, ForwardContext context, Func<Tensor, ForwardContext, Tensor> baseProduct) => throw new InvalidOperationException();

        private sealed class Scaled(Linear layer, Parameter scales) : WeightChange
        {
            public override IReadOnlyList<Parameter> Trained => [scales];

            public override Tensor Form(ForwardContext context) => layer.Weight.Data.mul(scales.Data.sin());
        }
    }

    [Fact]
    public void DropoutActsOnTheChangesInputAndIsTheSameInBothDirections()
    {
        using var check = new BackwardCheck();
        using var layer = new Linear(12, 10);
        check.Fill(layer.Weight, isTrained: false);
        var (first, second) = (Change(check, 12, 10, 3, 1.5, dropout: 0.4), Change(check, 12, 10, 2, 0.5));
        layer.Weight.Slot = new FixedSlot(first, second);
        var x = check.Input(9, 12);
        using var generator = new Generator(5);
        using var again = new Generator(5);
        var mask = RandomDraws.Kept(x, 0.6, again);
        check.Run(
            context => layer.Forward(x, context),
            (inputs, value) => Changed(Changed(Plain(layer, inputs[0], value), inputs[0], first, value, mask), inputs[0], second, value),
            new ForwardContext { IsTraining = true, Generator = generator });
    }

    [Fact]
    public void DropoutOfEverythingLeavesTheBaseAlone()
    {
        using var check = new BackwardCheck();
        using var layer = new Linear(12, 10);
        check.Fill(layer.Weight, isTrained: false);
        var change = Change(check, 12, 10, 3, 1.5, dropout: 1);
        layer.Weight.Slot = new FixedSlot(change);
        var x = check.Input(9, 12);
        check.Run(
            context => layer.Forward(x, context),
            (inputs, value) => Plain(layer, inputs[0], value).add(value(change.B).sum().add(value(change.A).sum()).mul(0)),
            new ForwardContext { IsTraining = true });
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void AGroupIsItsMembersSideBySide(bool isFused)
    {
        using var check = new BackwardCheck();
        using var first = new Linear(6, 4, hasBias: true);
        using var second = new Linear(6, 3, hasBias: true);
        using var group = new LinearGroup(first, second);
        foreach (var layer in new[] { first, second })
        {
            check.Fill(layer.Weight);
            check.Fill(layer.Bias!);
        }

        if (isFused)
        {
            group.Fuse();
        }

        var (a, b) = (Change(check, 6, 4, 2, 2), Change(check, 6, 3, 3, 0.7));
        first.Weight.Slot = new FixedSlot(a);
        second.Weight.Slot = new FixedSlot(b);
        var x = check.Input(8, 6);
        check.Run(
            context => group.Forward(x, context),
            (inputs, value) => cat(
                [Changed(Plain(first, inputs[0], value), inputs[0], a, value), Changed(Plain(second, inputs[0], value), inputs[0], b, value)], 1));
    }

    [Fact]
    public void AMemberWhoseInputChangesSendsTheGroupOneByOne()
    {
        using var check = new BackwardCheck();
        using var pair = new FusedPair(check, 6, 4, 3);
        var (first, second, group) = pair;
        second.Weight.Slot = new FixedSlot { ChangesInput = true };
        var x = check.Input(8, 6);
        check.Run(
            context => group.Forward(x, context),
            (inputs, value) => cat([Plain(first, inputs[0], value), Plain(second, inputs[0].mul(2), value)], 1));
    }

    [Fact]
    public void AMemberEditedInPlaceActsThroughTheFusedWeight()
    {
        using var check = new BackwardCheck();
        using var pair = new FusedPair(check, 6, 4, 3);
        var (first, second, group) = pair;
        second.Weight.Data.mul_(3);
        second.Weight.MarkChanged();
        var x = check.Input(8, 6);
        check.Run(context => group.Forward(x, context), (inputs, value) => cat([Plain(first, inputs[0], value), Plain(second, inputs[0], value)], 1));
    }

    [Fact]
    public void AMemberWhoseWeightWasReplacedActs()
    {
        using var check = new BackwardCheck();
        using var pair = new FusedPair(check, 6, 4, 3);
        var (first, second, group) = pair;
        check.Fill(second.Weight, isTrained: false);
        var x = check.Input(8, 6);
        check.Run(context => group.Forward(x, context), (inputs, value) => cat([Plain(first, inputs[0], value), Plain(second, inputs[0], value)], 1));
    }

    [Fact]
    public void OneRowGivesWhatManyRowsGive()
    {
        using var check = new BackwardCheck();
        using var layer = new Linear(12, 10, hasBias: true);
        check.Fill(layer.Weight);
        check.Fill(layer.Bias!);
        layer.Weight.Slot = new FixedSlot(Change(check, 12, 10, 3, 1.5, hasBias: true));
        var x = check.Input(4, 12);
        var residual = check.Input(4, 10);
        var all = layer.Forward(x, new ForwardContext(), residual);
        var row = layer.Forward(x.narrow(0, 2, 1), new ForwardContext(), residual.narrow(0, 2, 1));
        TensorAssert.CloseToScale(all.narrow(0, 2, 1), row, 1e-6);
    }

    [Fact]
    public void AWrongWidthNamesTheLayer()
    {
        using var scope = NewDisposeScope();
        using var layer = new Linear(6, 4);
        layer.Weight.Assign(zeros(4, 6));
        var error = Assert.Throws<PeftException>(() => layer.Forward(zeros(3, 5), new ForwardContext()));
        Assert.Equal("ShapeMismatch", error.ErrorId);
    }

    [Fact]
    public void NothingIsKeptBelowTheLowestTrainedLayer()
    {
        using var check = new BackwardCheck();
        using var layer = new Linear(6, 6);
        check.Fill(layer.Weight, isTrained: false);
        using var tape = new Tape();
        var x = randn(4, 6);
        tape.AddRoot(x);
        layer.Forward(x, new ForwardContext { Tape = tape });
        Assert.Equal(0, tape.Count);
    }

    [Fact]
    public void ATensorFromOutsideTheTapeIsAnError()
    {
        using var check = new BackwardCheck();
        using var layer = new Linear(6, 6);
        check.Fill(layer.Weight);
        using var tape = new Tape();
        var x = randn(4, 6);
        tape.AddRoot(x);
        var y = layer.Forward(x, new ForwardContext { Tape = tape });
        Assert.Throws<InvalidOperationException>(() => layer.Forward(y.mul(2), new ForwardContext { Tape = tape }));
    }

    /// <summary>Two layers over the same inputs whose frozen weights lie side by side; biases, where they have any, are trained.</summary>
    private sealed record FusedPair(Linear First, Linear Second, LinearGroup Group) : IDisposable
    {
        public FusedPair(BackwardCheck check, long inputs, long first, long second, bool hasBias = false)
            : this(new Linear(inputs, first, hasBias), new Linear(inputs, second, hasBias), null!)
        {
            foreach (var layer in new[] { First, Second })
            {
                check.Fill(layer.Weight, isTrained: false);
                if (hasBias)
                {
                    check.Fill(layer.Bias!);
                }
            }

            Group = new LinearGroup(First, Second);
            Group.Fuse();
        }

        public void Dispose()
        {
            Group.Dispose();
            First.Dispose();
            Second.Dispose();
        }
    }
}
