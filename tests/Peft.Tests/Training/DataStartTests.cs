using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Methods.Lora.DataStarts;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Models;
using Peft.Tests.Adapters;
using Peft.Training;
using static TorchSharp.torch;

namespace Peft.Tests.Training;

/// <summary>Starts that data decide, on a whole model.</summary>
public class DataStartTests
{
    [Theory]
    [InlineData("eva")]
    [InlineData("corda")]
    [InlineData("lora_ga")]
    public void It_leaves_the_output_and_what_is_saved_computes_the_same_on_the_base_as_it_was(string start)
    {
        using var model = TinyLlama.Create();
        var inputs = TinyLlama.Inputs();
        using var before = ModelRun.Logits(model, inputs);
        var bits = ModelBits.Of(model.Base);
        using (var decided = Decide(model, start))
        {
            model.AddAdapter(decided.Config, "a", seed: 1);
        }

        using (var same = ModelRun.Logits(model, inputs))
        {
            Assert.True(same.sub(before).abs().max().item<float>() < 1e-4);
        }

        model["a"].Perturb(3);
        using var trained = ModelRun.Logits(model, inputs);
        Assert.True(trained.sub(before).abs().max().item<float>() > 1e-2);
        using var folder = new TemporaryFolder();
        model.SaveAdapter("a", folder.Path);
        model.RemoveAdapter("a");
        Assert.Equal(bits, ModelBits.Of(model.Base));
        var again = model.LoadAdapter(folder.Path, "again");
        Assert.Empty(again.Report.Messages);
        using var reloaded = ModelRun.Logits(model, inputs);
        Assert.True(reloaded.sub(trained).abs().max().item<float>() < 1e-4);
    }

    [Fact]
    public void Eva_sees_layers_of_one_input_once_and_deals_out_their_ranks()
    {
        using var model = TinyLlama.Create();
        using var decided = Decide(model, "eva");
        var adapter = model.AddAdapter(decided.Config, "a", seed: 1);
        var ranks = adapter.Adapter.Layers.ToDictionary(static layer => layer.Layer.Path, static layer => layer.Adapter.LowRank(1)!.A.Shape[0]);
        Assert.Equal(2 * 3 * 2, ranks.Values.Sum());
        Assert.True(ranks.Values.Max() > 2);
    }

    [Fact]
    public void The_gradient_of_LoRA_GA_is_the_losses()
    {
        using var model = TinyLlama.Create();
        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        var rows = new StartRows(model, new RandomRows(8, TinyLlama.Vocabulary), new TrainingOptions { BatchSize = 8 });
        var weight = model.Base.FindParameter("model.layers.0.self_attn.q_proj.weight")!;
        weight.Gradient = zeros_like(weight.Data);
        rows.AddGradients(0, [weight]);
        var gradient = weight.Gradient;
        weight.Gradient = null;
        const double Step = 0.003;
        var length = gradient.norm().item<float>();
        Assert.Equal(length, (LossAt(Step) - LossAt(-Step)) / (2 * Step), 0.02 * length);

        double LossAt(double step)
        {
            using var before = weight.Data.clone();
            weight.Data.add_(gradient, step / length);
            weight.MarkChanged();
            using var batch = new RandomRows(8, TinyLlama.Vocabulary).Collate([.. Enumerable.Range(0, 8)], CPU);
            var causal = (Peft.Models.Heads.CausalModel)model.Base;
            var context = model.NewPass(batch.In(new ForwardContext()), AdapterSelection.Base);
            var loss = causal.Loss(causal.Forward(batch.InputIds, context), batch.Labels, null, context).item<float>();
            weight.Data.copy_(before);
            weight.MarkChanged();
            return loss;
        }
    }

    [Fact]
    public void Without_data_it_is_refused_and_a_file_without_the_start_too()
    {
        using var model = TinyLlama.Create();
        var config = new LoraConfig { Rank = 2, TargetModules = ModuleNames.Of("q_proj"), Initialisation = "corda" };
        Assert.Equal("StartNeedsData", Assert.Throws<PeftException>(() => model.AddAdapter(config)).ErrorId);
        Assert.Empty(model.Adapters);
        using var folder = new TemporaryFolder();
        model.AddAdapter(config with { Initialisation = "true" }, "a");
        model.SaveAdapter("a", folder.Path);
        var file = Path.Combine(folder.Path, "adapter_config.json");
        File.WriteAllText(file, File.ReadAllText(file).Replace("\"init_lora_weights\": true", "\"init_lora_weights\": \"corda\"", StringComparison.Ordinal));
        Assert.Equal("AdapterStartMissing", Assert.Throws<PeftException>(() => model.LoadAdapter(folder.Path, "b")).ErrorId);
    }

    private static DataStart Decide(PeftModel model, string start)
    {
        var config = new LoraConfig { Rank = 2, Alpha = 4, TargetModules = ModuleNames.Of("q_proj", "k_proj", "down_proj"), Initialisation = start };
        return DataStart.Compute(model, config, new StartRows(model, new RandomRows(16, TinyLlama.Vocabulary), new TrainingOptions { BatchSize = 8 }));
    }
}
