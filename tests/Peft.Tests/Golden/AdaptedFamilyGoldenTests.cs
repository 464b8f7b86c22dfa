using System.Text.Json.Nodes;
using Peft.Adapters;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Methods.TrainableTokens;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Models;
using Peft.Models.Heads;
using Peft.Tests.Adapters;
using static TorchSharp.torch;

namespace Peft.Tests.Golden;

/// <summary>Every family trains adapters on all of its linear layers, whatever piece of its own reads what an adapter gave.</summary>
public class AdaptedFamilyGoldenTests
{
    /// <summary>Along which the loss is compared: some families are too curved, or change their choice of experts, within the larger ones.</summary>
    private static readonly double[] s_steps = [1e-2, 1e-3, 1e-4, 1e-5];

    [GoldenTheory]
    [GoldenData("families", Holding = FamilyGoldenTests.ModelFile)]
    public void An_adapter_that_runs_by_autograd_has_the_gradient_of_the_loss(string path) =>
        Hold(path, new JsonObject { ["peft_type"] = "RANDLORA", ["r"] = 4, ["randlora_alpha"] = 8 });

    [GoldenTheory]
    [GoldenData("families", Holding = FamilyGoldenTests.ModelFile)]
    public void An_adapter_that_acts_in_the_weight_has_the_gradient_of_the_loss(string path) =>
        Hold(path, new JsonObject { ["peft_type"] = "HIRA", ["r"] = 2 });

    [GoldenTheory]
    [GoldenData("families", Holding = FamilyGoldenTests.ModelFile)]
    public void Biases_are_what_is_called_so_and_nothing_whose_name_ends_alike(string path) => GoldenCases.Run("families", path, static folder =>
    {
        using var model = new PeftModel(ModelLoader.Load(folder, new LoadOptions { StructureOnly = true }), "model");
        if (model.Base is not CausalModel)
        {
            return;
        }

        var adapter = model.AddAdapter(new LoraConfig { Rank = 2, TargetModules = ModuleNames.AllLinear, Bias = BiasTraining.All });
        var expected = model.Base.NamedParameters().Where(static named => named.Parameter.IsOwner && named.Parameter.Name == "bias").Select(static named => named.Path);
        var found = adapter.TrainableParameters.Where(static parameter => parameter.FullKey.EndsWith("bias", StringComparison.Ordinal))
            .Select(static parameter => parameter.FullKey["base_model.model.".Length..].Replace(".base_layer", "", StringComparison.Ordinal));
        Assert.Equal(expected.Order(StringComparer.Ordinal), found.Order(StringComparer.Ordinal));
    });

    [GoldenTheory]
    [GoldenData("families", Holding = FamilyGoldenTests.ModelFile)]
    public void A_method_that_saves_no_modules_saves_no_head(string path) => GoldenCases.Run("families", path, static folder =>
    {
        using var model = new PeftModel(ModelLoader.Load(folder, new LoadOptions { StructureOnly = true }), "model");
        if (model.Base is SequenceClassificationModel && model.Base.Backbone.TokenEmbeddings is { } embeddings)
        {
            var adapter = model.AddAdapter(new TrainableTokensConfig { TokenIndices = [5, 7], TaskType = "SEQ_CLS" });
            Assert.All(adapter.TrainableParameters, parameter => Assert.Contains(embeddings.Name, parameter.FullKey, StringComparison.Ordinal));
        }
    });

    private static void Hold(string path, JsonObject document) => GoldenCases.Run("families", path, folder =>
    {
        using var model = new PeftModel(ModelLoader.Load(folder), "model");
        if (model.Base is not CausalModel)
        {
            return;
        }

        document["task_type"] = "CAUSAL_LM";
        document["target_modules"] = "all-linear";
        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        var adapter = model.AddAdapter(AdapterConfig.FromJson(document), seed: 1).Perturb(2, 0.1);
        using var generator = new Generator(3);
        var ids = randint(5, 30, [2, 7], dtype: ScalarType.Int64, generator: generator);
        var inputs = new Dictionary<string, Tensor> { ["input_ids"] = ids, ["labels"] = ids };
        var gradients = ModelRun.Backward(model, adapter, inputs).Gradients;
        var length = Math.Sqrt(gradients.Values.Sum(static gradient => Math.Pow(gradient.norm().item<float>(), 2)));
        var slopes = Array.ConvertAll(s_steps, step => (LossAt(step) - LossAt(-step)) / (2 * step));
        Assert.True(Array.Exists(slopes, slope => Math.Abs(slope - length) < 0.02 * length), FormattableString.Invariant($"the loss rises by {string.Join(", ", slopes)} along a gradient of {length}"));

        double LossAt(double step)
        {
            Move(step);
            var (value, others) = ModelRun.Backward(model, adapter, inputs);
            AdapterGolden.Free(others);
            Move(-step);
            return value;
        }

        void Move(double step)
        {
            foreach (var parameter in adapter.TrainableParameters)
            {
                parameter.Parameter.Data.add_(gradients[parameter.FullKey], alpha: step / length);
                parameter.Parameter.MarkChanged();
            }
        }
    });
}
