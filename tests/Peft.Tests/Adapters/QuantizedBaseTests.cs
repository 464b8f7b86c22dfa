using Peft.Adapters;
using Peft.Adapters.Merging;
using Peft.Adapters.Methods;
using Peft.Adapters.Model;
using Peft.Quantization;
using Peft.Tests.Models;
using Peft.Tests.Quantization;
using static TorchSharp.torch;

namespace Peft.Tests.Adapters;

/// <summary>Every method of linear layers on quantised bases: it learns, and is merged or refused as on a plain one.</summary>
public class QuantizedBaseTests
{
    public static TheoryData<string, string, string> Cases()
    {
        TheoryData<string, string, string> cases = [];
        foreach (var method in AdapterTrainingTests.Configurations().Where(static row => typeof(LayerwiseConfig).IsAssignableFrom(AdapterMethods.ConfigOf((string)row[0]))))
        {
            cases.Add((string)method[0], (string)method[1], "nf4");
            cases.Add((string)method[0], (string)method[1], "int8");
        }

        return cases;
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void A_method_learns_on_a_quantised_base_and_merges_into_it_or_says_why_not(string method, string fields, string kind)
    {
        using var scope = NewDisposeScope();
        using var model = TinyLlama.Create();
        ModelQuantizer.Quantize(model.Base, kind == "nf4" ? new QuantizationConfig { LoadIn4Bit = true, QuantType = FourBitType.NF4 } : new QuantizationConfig { LoadIn8Bit = true });
        var inputs = new Dictionary<string, Tensor>(TinyLlama.Inputs());
        inputs["labels"] = inputs["input_ids"];
        var document = AdapterTrainingTests.Document(method, fields);
        if (NeedsPlainBase(fields))
        {
            // What is taken out of the base or quantises it needs the base as it was.
            var packed = Assert.Throws<PeftException>(() => model.AddAdapter(AdapterConfig.FromJson(document), seed: 1));
            Assert.Equal("WeightsPacked", packed.ErrorId);
            Assert.Contains("model.layers.0", packed.Message, StringComparison.Ordinal);
            return;
        }

        var adapter = model.AddAdapter(AdapterConfig.FromJson(document), seed: 1);
        var (first, gradients) = ModelRun.Backward(model, adapter, inputs);
        Assert.Contains(gradients.Values, static gradient => gradient.abs().max().item<float>() > 0);
        for (var step = 0; step < 8; step++)
        {
            AdapterTrainingTests.Descend(model, adapter, inputs);
        }

        var last = ModelRun.Backward(model, adapter, inputs).Loss;
        Assert.True(last < first - 1e-4, FormattableString.Invariant($"the loss went from {first} to {last}"));
        using var plain = TinyLlama.Create();
        plain.AddAdapter(AdapterConfig.FromJson(document), seed: 1);
        var refused = Record.Exception(() => plain.Merge()) as PeftException;
        var found = Record.Exception(() => model.Merge());
        Assert.Equal(refused?.ErrorId, (found as PeftException)?.ErrorId);
        Assert.True(found is null or PeftException, $"{found}");
        Assert.True(ModelRun.Logits(model, inputs).isfinite().all().item<bool>());
    }

    public static TheoryData<string, string, string> Files()
    {
        TheoryData<string, string, string> cases = [];
        foreach (var (index, method) in Cases().Select(static row => (object[])row).Where(static row => (string)row[2] == "nf4" && !NeedsPlainBase((string)row[1])).Index())
        {
            // Every form for the usual method, and every method on one of them.
            var kinds = (string)method[0] == "LORA" && (string)method[1] == "{}" ? PackedForms.Kinds : [PackedForms.Kinds[index % PackedForms.Kinds.Count]];
            foreach (var kind in kinds)
            {
                cases.Add((string)method[0], (string)method[1], kind);
            }
        }

        return cases;
    }

    [Theory]
    [MemberData(nameof(Files))]
    public void A_method_on_a_base_of_any_form_has_the_gradients_of_the_plain_one_is_saved_and_merges_as_it_acts(string method, string fields, string kind)
    {
        using var scope = NewDisposeScope();
        using var folder = new TemporaryFolder();
        using var noGradients = no_grad();
        using var packed = TinyLlama.Create();
        using var plain = TinyLlama.Create();
        PackedForms.Pack(packed.Base, kind);
        foreach (var (path, parameter, _) in packed.Base.NamedParameters())
        {
            plain.Base.FindParameter(path)!.Assign(parameter.Unpacked(ScalarType.Float32).clone());
        }

        plain.Base.Fuse();
        var inputs = TinyLlama.Inputs();
        var document = AdapterTrainingTests.Document(method, fields);
        var (adapter, other) = (Add(packed), Add(plain));

        var (loss, gradients) = ModelRun.Backward(packed, adapter, inputs);
        var (expectedLoss, expectedGradients) = ModelRun.Backward(plain, other, inputs);
        Assert.Equal(expectedLoss, loss, 1e-4 * Math.Abs(expectedLoss));
        foreach (var (name, gradient) in expectedGradients)
        {
            TensorAssert.CloseToScale(gradient, gradients[name], 1e-3, name);
        }

        var before = ModelRun.Logits(packed, inputs);
        TensorAssert.CloseToScale(ModelRun.Logits(plain, inputs), before, 1e-4, "logits");
        packed.SaveAdapter("default", folder["adapter"]);
        packed.RemoveAdapter("default");
        packed.LoadAdapter(folder["adapter"]);
        TensorAssert.CloseToScale(before, ModelRun.Logits(packed, inputs), 1e-5, "logits of the saved adapter");
        MergesAsItActs(packed, PackedForms.KindOf(kind), inputs, folder);

        PeftAdapter Add(PeftModel model) => model.AddAdapter(AdapterConfig.FromJson(document), seed: 1).Perturb(5, 0.05);
    }

    private static void MergesAsItActs(PeftModel packed, string kind, Dictionary<string, Tensor> inputs, TemporaryFolder folder)
    {
        var before = ModelRun.Logits(packed, inputs);
        if (Record.Exception(() => packed.Merge(options: new() { Ground = MergeGround.Unpacked })) is { } refused)
        {
            Assert.Equal("MergeNotPossible", Assert.IsType<PeftException>(refused).ErrorId);
            return;
        }

        TensorAssert.CloseToScale(before, ModelRun.Logits(packed, inputs), 1e-3, "logits of the merged, unpacked weights");
        packed.Save(folder["unpacked"]);
        using (var again = PeftModel.Load(folder["unpacked"]))
        {
            Assert.Null(again.Quantization);
            TensorAssert.CloseToScale(before, ModelRun.Logits(again, inputs), 1e-3, "logits of the exported weights");
        }

        packed.UndoMerge();
        Assert.Equal(kind, packed.Quantization);
        TensorAssert.CloseToScale(before, ModelRun.Logits(packed, inputs), 1e-6, "logits after the merge was taken back");
        packed.Merge();
        Assert.Equal(kind, packed.Quantization);
        var merged = ModelRun.Logits(packed, inputs);
        Assert.True(merged.isfinite().all().item<bool>());
        packed.Save(folder["merged"]);
        using (var again = PeftModel.Load(folder["merged"]))
        {
            TensorAssert.CloseToScale(merged, ModelRun.Logits(again, inputs), 1e-5, "logits of the exported quantised weights");
        }

        packed.UndoMerge();
        TensorAssert.CloseToScale(before, ModelRun.Logits(packed, inputs), 1e-6, "logits after the second merge was taken back");
    }

    private static bool NeedsPlainBase(string fields) => fields.Contains("pissa", StringComparison.Ordinal) || fields.Contains("olora", StringComparison.Ordinal) || fields.Contains("loftq", StringComparison.Ordinal);
}
