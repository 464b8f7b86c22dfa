using Peft.Adapters;
using Peft.Adapters.Methods;
using Peft.Quantization;
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
        if (fields.Contains("pissa", StringComparison.Ordinal) || fields.Contains("olora", StringComparison.Ordinal) || fields.Contains("loftq", StringComparison.Ordinal))
        {
            // What is taken out of the base or quantises it needs the base as it was.
            Assert.Equal("WeightsPacked", Assert.Throws<PeftException>(() => model.AddAdapter(AdapterConfig.FromJson(document), seed: 1)).ErrorId);
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
}
