using Peft.Adapters;
using Peft.Adapters.Model;
using Peft.Tensors;
using static TorchSharp.torch;

namespace Peft.Tests.Adapters;

/// <summary>Whatever was done to a model's adapters, what is saved of one is what it was, and a fresh model computes the same with it under another name.</summary>
public class SavedAfterwardsTests
{
    public static IEnumerable<object[]> Cases() =>
        from row in AdapterTrainingTests.Configurations()
        from type in new[] { ScalarType.Float32, ScalarType.BFloat16 }
        select new object[] { row[0], row[1], type };

    [Theory]
    [MemberData(nameof(Cases))]
    public void An_adapter_that_was_merged_undone_and_switched_off_is_saved_as_it_was(string method, string fields, ScalarType type)
    {
        using var scope = NewDisposeScope();
        using var folder = new TemporaryFolder();
        using var model = TinyLlama.Create(bias: true, type: type);
        var inputs = Inputs();
        var adapter = model.AddAdapter(AdapterConfig.FromJson(AdapterTrainingTests.Document(method, fields)), "first-1", seed: 3).Perturb(4, 0.05);
        var bits = ModelBits.Of(model.Base);
        var expected = ModelRun.Logits(model, inputs);
        model.SaveAdapter("first-1", Path.Combine(folder.Path, "before"));
        if (IsMerged(model, adapter))
        {
            model.UndoMerge();
        }

        model.Disable();
        ModelRun.Logits(model, inputs);
        model.Enable();
        Assert.Equal(bits, ModelBits.Of(model.Base));
        Assert.True(expected.eq(ModelRun.Logits(model, inputs)).all().item<bool>());
        model.SaveAdapter("first-1", Path.Combine(folder.Path, "after"));
        HoldFiles(Path.Combine(folder.Path, "before"), Path.Combine(folder.Path, "after"));

        using var fresh = TinyLlama.Create(bias: true, type: type);
        var report = fresh.LoadAdapter(Path.Combine(folder.Path, "after"), "Other_2").Report;
        Assert.Empty(report.Missing);
        Assert.Empty(report.Unexpected);
        var again = ModelRun.Logits(fresh, inputs);
        expected = expected.to(ScalarType.Float32);
        var gap = expected.sub(again.to(ScalarType.Float32)).abs().max().item<float>();
        Assert.True(gap <= (type == ScalarType.Float32 ? 1e-5f : 0.02f) * (1 + expected.abs().max().item<float>()), FormattableString.Invariant($"{gap}"));
        fresh.SaveAdapter("Other_2", Path.Combine(folder.Path, "again"));
        HoldFiles(Path.Combine(folder.Path, "before"), Path.Combine(folder.Path, "again"));
        fresh.RemoveAdapter("Other_2");
        Assert.Equal(ModelBits.Of(TinyLlama.Create(bias: true, type: type).Base), ModelBits.Of(fresh.Base));
    }

    private static Dictionary<string, Tensor> Inputs()
    {
        var inputs = TinyLlama.Inputs();
        inputs["task_ids"] = zeros([2], ScalarType.Int64);
        return inputs;
    }

    private static bool IsMerged(PeftModel model, PeftAdapter adapter)
    {
        if (adapter.Adapter.MergeObstacle is not null || adapter.Adapter.Layers.Any(static layer => layer.Adapter.MergeObstacle is not null))
        {
            Assert.ThrowsAny<PeftException>(() => model.Merge());
            return false;
        }

        model.Merge();
        return true;
    }

    private static void HoldFiles(string before, string after)
    {
        using var expected = TensorStore.OpenFolder(before, "adapter_model");
        using var found = TensorStore.OpenFolder(after, "adapter_model");
        Assert.Equal(expected.Names.Order(StringComparer.Ordinal), found.Names.Order(StringComparer.Ordinal));
        Assert.All(expected.Names, key => Assert.True(expected.Read(key).eq(found.Read(key)).all().item<bool>(), key));
    }
}
