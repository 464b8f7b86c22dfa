using System.Text.Json.Nodes;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Models.Layers;
using Peft.Tests.Adapters;
using Peft.Training;
using Peft.Training.Objectives;
using static TorchSharp.torch;

namespace Peft.Tests.Training;

/// <summary>A model that learns what another one predicts.</summary>
public class DistillationTests
{
    [Theory]
    [InlineData(1, 1)]
    [InlineData(2.5, 1)]
    [InlineData(2, 0.3)]
    public void Losses_and_gradients_are_those_of_the_plain_formula(double temperature, double share)
    {
        using var scope = NewDisposeScope();
        var logits = randn(5, 13).requires_grad_(true);
        var ids = stack([.. Enumerable.Range(0, 5).Select(row => tensor(new long[] { row, row + 3, 12 }))]);
        var wanted = rand(5, 3).softmax(1);
        var labels = tensor(new long[] { 1, 4, 0, 12, 7 });
        var divergence = wanted.mul(wanted.log().sub(logits.div(temperature).log_softmax(1).gather(1, ids))).sum(1);
        var expected = divergence.mul(share * temperature * temperature).add(nn.functional.cross_entropy(logits, labels, reduction: nn.Reduction.None).mul(1 - share));
        autograd.backward([expected.sum()]);
        using var noGrad = no_grad();
        var losses = empty(5);
        var gradient = new SoftTargets(_ => (ids, wanted), temperature, share).Form(logits.detach().clone(), arange(5), labels, losses, wantsGradient: true);
        Assert.True(losses.allclose(expected.detach(), 1e-4, 1e-5));
        Assert.True(gradient!.allclose(logits.grad!, 1e-4, 1e-5));
    }

    [Fact]
    public void An_adapter_learns_what_another_one_predicts_and_loses_nothing_against_itself()
    {
        using var model = TinyLlama.Create();
        model.AddAdapter(new LoraConfig { Rank = 3, TargetModules = ModuleNames.AllLinear }, "teacher", 7).Perturb(3, 0.6);
        model.AddAdapter(new LoraConfig { Rank = 3, TargetModules = ModuleNames.AllLinear }, "pupil", 8);
        var request = new TrainingRequest
        {
            Model = model,
            AdapterName = "pupil",
            Data = new RandomRows(8, TinyLlama.Vocabulary),
            Options = new TrainingOptions { Objective = "distillation", ObjectiveOptions = Own("teacher"), BatchSize = 8, MaxSteps = 60, LearningRate = 2e-2, Sampling = "sequential" },
        };
        var record = new Trainer(request).Train();
        Assert.True(record.FinalLoss < 0.3 * record.Losses[0], $"{record.Losses[0]} became {record.FinalLoss}");
        var itself = new Trainer(request with { Options = request.Options with { ObjectiveOptions = Own("pupil"), MaxSteps = 1, LearningRate = 0 } }).Train();
        Assert.Equal(0, itself.FinalLoss, 1e-5);
    }

    [Fact]
    public void Another_model_teaches_as_the_adapter_on_it_does()
    {
        using var model = TinyLlama.Create();
        using var other = TinyLlama.Create();
        other.AddAdapter(new LoraConfig { Rank = 3, TargetModules = ModuleNames.AllLinear }, "teacher", 7).Perturb(3, 0.6);
        model.AddAdapter(new LoraConfig { Rank = 3, TargetModules = ModuleNames.AllLinear }, "teacher", 7).Perturb(3, 0.6);
        model.AddAdapter(new LoraConfig { Rank = 3, TargetModules = ModuleNames.AllLinear }, "pupil", 8);
        var options = new TrainingOptions { Objective = "distillation", ObjectiveOptions = Own("teacher"), BatchSize = 4, MaxSteps = 1, LearningRate = 0 };
        var request = new TrainingRequest { Model = model, AdapterName = "pupil", Data = new RandomRows(4, TinyLlama.Vocabulary), Options = options };
        var expected = new Trainer(request).Train().Losses[0];
        Assert.Equal(expected, new Trainer(request with { Objective = Distillation.From(options, other) }).Train().Losses[0], 1e-5);
    }

    [Fact]
    public void Without_a_teacher_nothing_is_learnt()
    {
        using var model = TinyLlama.Create();
        model.AddAdapter(new LoraConfig { TargetModules = ModuleNames.AllLinear }, "pupil");
        var request = new TrainingRequest { Model = model, AdapterName = "pupil", Data = new RandomRows(4, TinyLlama.Vocabulary), Options = new TrainingOptions { Objective = "distillation" } };
        Assert.Equal("TrainingOptionInvalid", Assert.Throws<PeftException>(() => new Trainer(request).Train()).ErrorId);
    }

    private static JsonObject Own(string teacher) => new() { ["teacher"] = teacher, ["temperature"] = 1.5, ["top_k"] = TinyLlama.Vocabulary };
}
