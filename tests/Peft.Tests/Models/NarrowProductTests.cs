using Peft.Models;
using Peft.Models.Layers;
using Peft.Tests.Training;
using Peft.Training;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Models;

/// <summary>Products of float32 values that are formed in bfloat16 (autocast): near the plain formula by that type's precision, and no nearer.</summary>
public class NarrowProductTests
{
    private static readonly ForwardContext s_narrow = new() { ProductType = ScalarType.BFloat16 };

    [Fact]
    public void A_layer_rounds_what_goes_into_its_product_and_what_comes_out_and_adds_in_float32()
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        using var check = new BackwardCheck();
        using var layer = new Linear(12, 10, hasBias: false);
        check.Fill(layer.Weight, isTrained: false);
        var (x, residual) = (randn(5, 12), randn(5, 10));
        var expected = x.to(ScalarType.BFloat16).mm(layer.Weight.Data.to(ScalarType.BFloat16).t()).to(ScalarType.Float32).add(residual);
        Assert.True(expected.equal(layer.Forward(x, s_narrow, residual)).all().item<bool>());
        Assert.False(expected.equal(layer.Forward(x, new ForwardContext(), residual)).all().item<bool>());
    }

    [Theory]
    [InlineData(true, 0.02)]
    [InlineData(false, 2e-5)]
    public void Layers_with_trained_weights_and_low_rank_changes_go_back_through_the_same_products(bool isNarrow, double tolerance)
    {
        using var check = new BackwardCheck { Tolerance = tolerance };
        using var layer = new Linear(12, 10, hasBias: true);
        check.Fill(layer.Weight);
        check.Fill(layer.Bias!);
        var change = new LowRank(check.Fill(new Parameter("A", [3, 12])), check.Fill(new Parameter("B", [10, 3])), null, 1.5, 0);
        layer.Weight.Slot = new FixedSlot(change);
        var (x, residual) = (check.Input(9, 12), check.Input(9, 10));
        check.Run(
            context => layer.Forward(x, context, residual),
            (inputs, value) => inputs[0].matmul(value(layer.Weight).t()).add(value(layer.Bias!)).add(inputs[1])
                .add(inputs[0].matmul(value(change.A).t()).matmul(value(change.B).t()).mul(1.5)),
            isNarrow ? s_narrow : null);
    }

    [Fact]
    public void Attention_forms_scores_and_sums_of_rounded_values()
    {
        const int Rows = 2, Length = 6;
        var shape = new AttentionShape(4, 2, 8, 0.35);
        using var check = new BackwardCheck { Tolerance = 0.03 };
        var projections = check.Input(Rows * Length, shape.AllHeads * shape.HeadSize);
        var context = s_narrow with { Rows = Rows, Length = Length };
        check.Run(
            inner => Attention.Forward(projections, shape, null, AttentionPlan.Causal(inner, CPU, null), 0, inner),
            (inputs, _) =>
            {
                var heads = inputs[0].view(Rows, Length, shape.AllHeads, shape.HeadSize).transpose(1, 2);
                var (q, k, v) = (heads.narrow(1, 0, 4), heads.narrow(1, 4, 2).repeat_interleave(2, 1), heads.narrow(1, 6, 2).repeat_interleave(2, 1));
                var scores = q.matmul(k.transpose(2, 3)).mul(shape.Scale).masked_fill(ones(Length, Length, ScalarType.Bool).triu(1), float.NegativeInfinity);
                return scores.softmax(-1).matmul(v).transpose(1, 2).reshape(Rows * Length, -1);
            },
            context);
    }

    [Fact]
    public void The_loss_of_narrow_scores_is_formed_in_float32()
    {
        using var check = new BackwardCheck { Tolerance = 0.02 };
        using var projection = new Linear(6, 9, hasBias: false);
        check.Fill(projection.Weight);
        var hidden = check.Input(8, 6);
        var labels = tensor(new long[,] { { 1, 7, -100, 2 }, { 0, 3, 8, 4 } });
        check.Run(
            context => new Head(projection).Loss(hidden, labels, null, context),
            (inputs, value) => nn.functional.cross_entropy(
                inputs[0].matmul(value(projection.Weight).t()).view(2, 4, 9).narrow(1, 0, 3).reshape(-1, 9), labels.narrow(1, 1, 3).reshape(-1), ignore_index: -100),
            s_narrow with { Rows = 2, Length = 4 });
    }

    [Fact]
    public void A_convolution_goes_back_through_the_same_product()
    {
        using var check = new BackwardCheck { Tolerance = 0.02 };
        using var layer = new Convolution(4, 6, [3, 3], new ConvolutionShape(Padding: 1));
        check.Fill(layer.Weight, isTrained: false);
        check.Fill(layer.Bias!, isTrained: false);
        var x = check.Input(2, 4, 9, 8);
        check.Run(
            context => layer.Forward(x, context),
            (inputs, value) => nn.functional.conv2d(inputs[0], value(layer.Weight), value(layer.Bias!), [1, 1], [1, 1], [1, 1]),
            s_narrow);
    }

    [Theory]
    [InlineData("LORA", """{"peft_type":"LORA","r":4,"lora_dropout":0.1,"target_modules":"all-linear"}""")]
    [InlineData("DoRA", """{"peft_type":"LORA","r":4,"use_dora":true,"target_modules":["q_proj"]}""")]
    [InlineData("OFT", """{"peft_type":"OFT","oft_block_size":4,"target_modules":["q_proj","v_proj"]}""")]
    [InlineData("LOHA", """{"peft_type":"LOHA","r":4,"target_modules":["q_proj"]}""")]
    [InlineData("IA3", """{"peft_type":"IA3","target_modules":["k_proj"],"feedforward_modules":[]}""")]
    [InlineData("PREFIX_TUNING", """{"peft_type":"PREFIX_TUNING","num_virtual_tokens":3,"task_type":"CAUSAL_LM"}""")]
    [InlineData("all weights", null)]
    public void A_training_with_bf16_goes_beside_one_in_float32_and_keeps_float32_weights(string method, string? config)
    {
        TrainingRecord Train(bool narrow)
        {
            using var model = TrainerTests.Model();
            if (config is not null)
            {
                model.AddAdapter(Peft.Adapters.AdapterConfig.FromJson(System.Text.Json.Nodes.JsonNode.Parse(config)!.AsObject()), "own", 1);
            }

            var record = new Trainer(TrainerTests.Request(model, new TrainingOptions { LearningRate = 2e-3, BatchSize = 2, MaxSteps = 6, Seed = 5, BFloat16Products = narrow }) with
            {
                AdapterName = config is null ? null : "own",
            }).Train();
            Assert.All(model.Base.NamedParameters(), static named => Assert.Equal(ScalarType.Float32, named.Parameter.Data.dtype));
            return record;
        }

        var (wide, narrow) = (Train(false), Train(true));
        Assert.NotEqual(wide.Losses, narrow.Losses);
        Assert.All(wide.Losses.Zip(narrow.Losses), pair => Assert.True(Math.Abs(pair.First - pair.Second) < 0.03, $"{method}: {pair.First} became {pair.Second}"));
        Assert.Contains("\"bf16\": true", narrow.Options.ToJson(), StringComparison.Ordinal);
        Assert.DoesNotContain("bf16", wide.Options.ToJson(), StringComparison.Ordinal);
    }
}
