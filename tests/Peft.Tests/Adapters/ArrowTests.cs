using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Tests.Golden;
using static TorchSharp.torch;

namespace Peft.Tests.Adapters;

/// <summary>Arrow finds its experts' directions once, and again when an expert changed.</summary>
public class ArrowTests
{
    private static readonly string s_folder = Path.Combine(GoldenCases.Repository, "tests", "references", "adapter-variants");

    [Theory]
    [InlineData("arrow")]
    [InlineData("arrow_gks")]
    public void Directions_are_found_anew_when_a_weight_changed_and_only_then(string name)
    {
        using var scope = NewDisposeScope();
        using var model = Load(name);
        var inputs = Inputs();
        var first = ModelRun.Logits(model, inputs);
        var kept = Router(model).LastDirections;
        ModelRun.Logits(model, inputs);
        Assert.Same(kept, Router(model).LastDirections);
        foreach (var changed in model.Adapters.Where(static adapter => adapter.Name != "arrow_router").Select(static adapter => adapter.Name).ToArray())
        {
            model[changed].Perturb(5);
            var found = ModelRun.Logits(model, inputs);
            Assert.NotSame(kept, Router(model).LastDirections);
            kept = Router(model).LastDirections;
            Assert.False(first.eq(found).all().item<bool>());
            using var fresh = Load(name);
            foreach (var adapter in model.Adapters)
            {
                foreach (var (own, theirs) in adapter.Adapter.Parameters().Zip(fresh[adapter.Name].Adapter.Parameters()))
                {
                    theirs.Parameter.Assign(own.Parameter.Data.clone());
                }
            }

            Assert.True(ModelRun.Logits(fresh, inputs).eq(found).all().item<bool>(), changed);
        }
    }

    [Fact]
    public void Directions_are_found_anew_when_an_expert_is_another()
    {
        using var scope = NewDisposeScope();
        using var model = Load("arrow");
        var inputs = Inputs();
        var first = ModelRun.Logits(model, inputs);
        var config = model["task_1"].Config;
        model.RemoveAdapter("task_1");
        model.AddAdapter(config, "task_1", seed: 4).Perturb(9);
        model.SetActive("arrow_router");
        var other = ModelRun.Logits(model, inputs);
        Assert.False(first.eq(other).all().item<bool>());
        model.RemoveAdapter("task_1");
        model.LoadAdapter(Path.Combine(s_folder, "arrow", "task_1"), "task_1");
        model.SetActive("arrow_router");
        Assert.True(first.eq(ModelRun.Logits(model, inputs)).all().item<bool>());
    }

    private static PeftModel Load(string name)
    {
        var model = PeftModel.Load(Path.Combine(s_folder, "base"));
        foreach (var folder in Directory.GetDirectories(Path.Combine(s_folder, name)).OrderBy(static folder => folder.EndsWith("arrow_router", StringComparison.Ordinal)))
        {
            model.LoadAdapter(folder, Path.GetFileName(folder));
        }

        model.SetActive("arrow_router");
        return model;
    }

    private static ArrowLayer Router(PeftModel model) => (ArrowLayer)model["arrow_router"].Adapter.Layers[0].Adapter;

    private static Dictionary<string, Tensor> Inputs()
    {
        using var generator = new Generator(3);
        return new() { ["input_ids"] = randint(3, 29, [2, 6], dtype: ScalarType.Int64, generator: generator) };
    }
}
