using Peft.Models;
using Peft.Models.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Models;

public class LayerTests
{
    [Theory]
    [InlineData(ScalarType.Float32, 2e-5)]
    [InlineData(ScalarType.BFloat16, 0.03)]
    public void RootMeanSquareNorm(ScalarType type, double tolerance)
    {
        using var check = new BackwardCheck { Type = type, Tolerance = tolerance };
        using var norm = new RmsNorm(12, 1e-5, "Norm");
        check.Fill(norm.Weight);
        var x = check.Input(9, 12);
        check.Run(
            context => norm.Forward(x, context),
            (inputs, value) => inputs[0].mul(inputs[0].square().mean([1], keepdim: true).add(1e-5).rsqrt()).mul(value(norm.Weight)));
    }

    [Theory]
    [InlineData(ScalarType.Float32, 12, 2e-5)]
    [InlineData(ScalarType.BFloat16, 12, 0.05)]
    [InlineData(ScalarType.Float32, 4, 2e-5)]
    public void NormOverALayer(ScalarType type, long size, double tolerance)
    {
        using var check = new BackwardCheck { Type = type, Tolerance = tolerance };
        using var norm = new LayerNorm(size, 1e-5);
        check.Fill(norm.Weight);
        check.Fill(norm.Bias!);
        var x = check.Input(9, 12);
        check.Run(
            context => norm.Forward(x, context),
            (inputs, value) =>
            {
                var heads = inputs[0].view(9, -1, size);
                var centred = heads.sub(heads.mean([-1], keepdim: true));
                return centred.mul(centred.square().mean([-1], keepdim: true).add(1e-5).rsqrt()).mul(value(norm.Weight)).add(value(norm.Bias!)).view(9, 12);
            });
    }

    [Theory]
    [InlineData("silu", ScalarType.Float32, 2e-5, 9)]
    [InlineData("silu", ScalarType.BFloat16, 0.03, 9)]
    [InlineData("silu", ScalarType.Float32, 2e-5, 70_000)]
    [InlineData("gelu", ScalarType.Float32, 2e-5, 9)]
    [InlineData("gelu_pytorch_tanh", ScalarType.Float32, 2e-5, 9)]
    public void GatedActivations(string name, ScalarType type, double tolerance, long rows)
    {
        using var check = new BackwardCheck { Type = type, Tolerance = tolerance };
        using var activation = new Activation(name);
        var y = check.Input(rows, 10);
        check.Run(
            context => GatedActivation.Forward(y, activation, context),
            (inputs, _) => Plain(name, inputs[0].narrow(1, 0, 5)).mul(inputs[0].narrow(1, 5, 5)));

        static Tensor Plain(string name, Tensor x) => name switch
        {
            "silu" => x.mul(x.sigmoid()),
            "gelu" => x.mul(x.div(Math.Sqrt(2)).erf().add(1)).mul(0.5),
            _ => x.mul(0.5).mul(x.add(x.pow(3).mul(0.044715)).mul(Math.Sqrt(2 / Math.PI)).tanh().add(1)),
        };
    }

    [Fact]
    public void EmbeddingsLeaveThePaddingVectorUntrained()
    {
        using var check = new BackwardCheck();
        using var embedding = new Embedding(7, 4, paddingIndex: 0);
        check.Fill(embedding.Weight);
        var change = new LowRank(check.Fill(new Parameter("A", [2, 7])), check.Fill(new Parameter("B", [4, 2])), null, 1.3, 0);
        embedding.Weight.Slot = new FixedSlot(change);
        var ids = tensor(new long[,] { { 0, 3, 3 }, { 6, 1, 0 } });
        var flat = ids.reshape(-1);
        check.Run(
            context => embedding.Forward(ids, context),
            (_, value) =>
            {
                var rows = WithoutPadding(value(embedding.Weight).index_select(0, flat));
                return rows.add(WithoutPadding(value(change.A).t().index_select(0, flat)).matmul(value(change.B).t()).mul(1.3));
            });

        // The values of all rows, the gradients of those that are no padding.
        Tensor WithoutPadding(Tensor rows) => rows.mul(flat.ne(0).unsqueeze(1)).add(rows.detach().mul(flat.eq(0).unsqueeze(1)));
    }

    [Fact]
    public void ATokenThatDoesNotExistIsNamed()
    {
        using var scope = NewDisposeScope();
        using var embedding = new Embedding(7, 4);
        embedding.Weight.Assign(zeros(7, 4));
        var error = Assert.Throws<PeftException>(() => embedding.Forward(tensor(new long[,] { { 1, 7 } }), new ForwardContext()));
        Assert.Equal("TokenOutOfRange", error.ErrorId);
    }

    [Fact]
    public void A_label_that_does_not_exist_is_named()
    {
        using var scope = NewDisposeScope();
        using var projection = new Linear(4, 7);
        projection.Weight.Assign(zeros(7, 4));
        var context = new ForwardContext { Rows = 1, Length = 3 };
        var error = Assert.Throws<PeftException>(() => new Head(projection).Loss(zeros(3, 4), tensor(new long[,] { { 1, 7, -100 } }), null, context));
        Assert.Equal("LabelOutOfRange", error.ErrorId);
        Assert.Contains("7", error.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(0.0, null, 1.0, null, false)]
    [InlineData(0.1, 5.0, 1.0, null, true)]
    [InlineData(0.0, null, 0.3, 2.0, true)]
    [InlineData(0.2, null, 1.0, 3.0, false)]
    public void CrossEntropyAtLabelledPositions(double smoothing, double? divisor, double scale, double? cap, bool hasBias)
    {
        using var check = new BackwardCheck();
        using var projection = new Linear(6, 11, hasBias);
        check.Fill(projection.Weight);
        if (hasBias)
        {
            check.Fill(projection.Bias!);
        }

        var head = new Head(projection) { Scale = scale, SoftCap = cap };
        var labels = tensor(new long[,] { { 3, -100, 4, 10 }, { 1, 2, -100, -100 } });
        var hidden = check.Input(8, 6);
        check.Run(
            context => head.Loss(hidden, labels, divisor, context, smoothing),
            (inputs, value) => PlainLoss(inputs[0].matmul(value(projection.Weight).t()).add(hasBias ? value(projection.Bias!) : zeros(11)), scale, cap, smoothing, divisor));
    }

    [Fact]
    public void AHeadWithAnAdapterTrains()
    {
        using var check = new BackwardCheck();
        using var projection = new Linear(6, 11);
        check.Fill(projection.Weight, isTrained: false);
        var change = new LowRank(check.Fill(new Parameter("A", [2, 6])), check.Fill(new Parameter("B", [11, 2])), null, 1.3, 0);
        projection.Weight.Slot = new FixedSlot(change);
        var labels = tensor(new long[,] { { 3, -100, 4, 10 }, { 1, 2, -100, -100 } });
        var hidden = check.Input(8, 6);
        check.Run(
            context => new Head(projection).Loss(hidden, labels, null, context),
            (inputs, value) =>
            {
                var logits = inputs[0].matmul(value(projection.Weight).t())
                    .add(inputs[0].matmul(value(change.A).t()).matmul(value(change.B).t()).mul(1.3));
                return PlainLoss(logits, 1, null, 0, null);
            });
    }

    [Theory]
    [InlineData(false, false, null)]
    [InlineData(true, false, null)]
    [InlineData(false, true, null)]
    [InlineData(false, false, 2.0)]
    public void LossesOfSinglePositionsBackward(bool isTrained, bool hasAdapter, double? cap)
    {
        using var check = new BackwardCheck();
        using var projection = new Linear(6, 11, hasBias: true);
        check.Fill(projection.Weight, isTrained);
        check.Fill(projection.Bias!, isTrained);
        var change = new LowRank(check.Fill(new Parameter("A", [2, 6]), hasAdapter), check.Fill(new Parameter("B", [11, 2]), hasAdapter), null, 1.3, 0);
        projection.Weight.Slot = hasAdapter ? new FixedSlot(change) : null;
        var labels = tensor(new long[,] { { 3, -100, 4, 10 }, { 1, 2, -100, -100 } });
        var hidden = check.Input(8, 6);
        check.Run(
            context => new Head(projection) { SoftCap = cap }.TokenLosses(hidden, labels, context),
            (inputs, value) =>
            {
                var logits = inputs[0].matmul(value(projection.Weight).t()).add(value(projection.Bias!));
                logits = hasAdapter ? logits.add(inputs[0].matmul(value(change.A).t()).matmul(value(change.B).t()).mul(1.3)) : logits;
                logits = cap is { } limit ? logits.div(limit).tanh().mul(limit) : logits;
                var next = labels.narrow(1, 1, 3);
                var log = logits.log_softmax(1).view(2, 4, 11).narrow(1, 0, 3);
                return log.gather(2, next.clamp(min: 0).unsqueeze(2)).squeeze(2).neg().mul(next.ne(-100).to(ScalarType.Float32));
            });
    }

    // The labelled positions of the tests above: (0,1)→4, (0,2)→10, (1,0)→2.
    private static Tensor PlainLoss(Tensor logits, double scale, double? cap, double smoothing, double? divisor)
    {
        var scores = logits.mul(scale);
        scores = cap is { } limit ? scores.div(limit).tanh().mul(limit) : scores;
        var log = scores.index_select(0, tensor(new long[] { 1, 2, 4 })).log_softmax(1);
        var chosen = log.gather(1, tensor(new long[] { 4, 10, 2 }).unsqueeze(1)).sum().neg();
        var all = log.mean([1]).sum().neg();
        return chosen.mul(1 - smoothing).add(all.mul(smoothing)).div(divisor ?? 3);
    }

    [Fact]
    public void ALossWithoutLabelsIsZero()
    {
        using var check = new BackwardCheck();
        using var projection = new Linear(6, 11);
        check.Fill(projection.Weight, isTrained: false);
        var loss = new Head(projection).Loss(randn(4, 6), full([2, 2], -100, ScalarType.Int64), null, new ForwardContext());
        Assert.Equal(0f, loss.item<float>());
    }
}
