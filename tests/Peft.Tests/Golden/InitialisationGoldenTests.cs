using System.Text.Json.Nodes;
using Peft.Adapters;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Methods.Lora.DataStarts;
using Peft.Adapters.Model;
using Peft.Models;
using Peft.Models.Heads;
using Peft.Models.Layers;
using Peft.Tests.Adapters;
using static TorchSharp.torch;

namespace Peft.Tests.Golden;

/// <summary>How LoRA's factors start, and what that leaves of the base's weights, held to what PEFT computed as far as it is determined.</summary>
public class InitialisationGoldenTests
{
    private const string Domain = "initialisation";

    [GoldenTheory]
    [GoldenData(Domain, "")]
    public void An_initialisation_starts_as_the_peers(string path) => GoldenCases.Run(Domain, path, folder =>
    {
        var record = AdapterGolden.Case(folder);
        if (File.Exists(Path.Combine(folder, "outputs.safetensors")))
        {
            HoldOutputs(folder, record);
        }
        else if (record["observed"] is JsonObject observed)
        {
            HoldDistributions(record, observed);
        }
        else
        {
            HoldFactors(folder, record);
        }
    });

    private static void HoldFactors(string folder, JsonObject record)
    {
        var config = AdapterConfig.FromJson((JsonObject)record["arguments"]!.DeepClone());
        config.Validate();
        var weights = AdapterGolden.Tensors(Path.Combine(folder, (string)record["weights"]!));
        var result = AdapterGolden.Tensors(Path.Combine(folder, "result.safetensors"));
        using var model = Model(weights);
        var before = ModelBits.Of(model.Base);
        using var start = DataStart.IsNeededBy(config) ? DataStart.Compute(model, (LoraConfig)config, new RecordedData(model, folder, record, result)) : null;
        var adapter = model.AddAdapter(start?.Config ?? config, seed: 1);
        HoldRanks(record, (LoraConfig)adapter.Config);
        using (NewDisposeScope())
        {
            var isSignless = ((string?)record["determined_up_to"])?.StartsWith("the sign of each row of A", StringComparison.Ordinal) == true;
            var isRandom = ((string?)record["determined_up_to"])?.StartsWith("randomness", StringComparison.Ordinal) == true;
            foreach (var (layer, own) in adapter.Adapter.Layers)
            {
                var factors = own.LowRank(1)!;
                var product = factors.B.Data.matmul(factors.A.Data).mul(factors.Scale);
                if (record["residual_error"] is not null)
                {
                    AdapterGolden.AssertClose(weights[layer.Path], layer.Weight.Data + product, record["tolerance"]!, $"{layer.Path}: base + product");
                }

                if (isSignless)
                {
                    AdapterGolden.AssertClose(Signed(result[layer.Path + ".lora_A"], 1), Signed(factors.A.Data, 1), record["tolerance"]!, $"{layer.Path}: A");
                    AdapterGolden.AssertClose(Signed(result[layer.Path + ".lora_B"], 0), Signed(factors.B.Data, 0), record["tolerance"]!, $"{layer.Path}: B");
                    continue;
                }

                if (isRandom)
                {
                    var expected = result[layer.Path + ".scaled_product"];
                    if (expected.abs().max().item<float>() < (double)record["tolerance"]!["atol"]!)
                    {
                        AdapterGolden.AssertClose(expected, product, record["tolerance"]!, $"{layer.Path}: product");
                        Assert.InRange(factors.A.Data.std().item<float>() / result[layer.Path + ".lora_A"].std().item<float>(), 0.7, 1.4);
                        Assert.InRange(factors.B.Data.std().item<float>() / result[layer.Path + ".lora_B"].std().item<float>(), 0.7, 1.4);
                        continue;
                    }

                    Assert.True((product - expected).norm().item<float>() < 0.05 * expected.norm().item<float>(), $"{layer.Path}: the product is far from the decomposition's");
                    continue;
                }

                // Where rows are as narrow as this, bitsandbytes' kernel for processors unpacks four bits with other blocks' scales, and LoftQ leaves more of the weight.
                var theirs = Rest(result[layer.Path + ".base_weight"], result[layer.Path + ".scaled_product"]);
                if ((int?)record["arguments"]!["loftq_config"]?["loftq_bits"] == 4 && layer.Inputs < 64 && Rest(layer.Weight.Data, product) < 0.95 * theirs)
                {
                    continue;
                }

                float Rest(Tensor own, Tensor change) => (weights[layer.Path] - own - change).norm().item<float>();
                AdapterGolden.AssertClose(result[layer.Path + ".scaled_product"], product, record["tolerance"]!, $"{layer.Path}: product");
                AdapterGolden.AssertClose(result[layer.Path + ".base_weight"], layer.Weight.Data, record["tolerance"]!, $"{layer.Path}: base");
            }
        }

        model.RemoveAdapter(adapter.Name);
        Assert.Equal(before, ModelBits.Of(model.Base));
        AdapterGolden.Free(weights, result);
    }

    /// <summary>Vectors along a dimension with the sign that makes the largest entry positive.</summary>
    private static Tensor Signed(Tensor vectors, long dimension) => vectors.count_nonzero().item<long>() == 0
        ? vectors
        : vectors * vectors.gather(dimension, vectors.abs().argmax(dimension, keepdim: true)).sign();

    private static void HoldRanks(JsonObject record, LoraConfig config)
    {
        foreach (var (name, ours) in new[] { ("rank_pattern", config.RankPattern.ToDictionary(static entry => entry.Key, static entry => (double)entry.Value)), ("alpha_pattern", config.AlphaPattern.ToDictionary()) })
        {
            if (record[name] is JsonObject theirs)
            {
                Assert.Equal(theirs.ToDictionary(static entry => entry.Key, static entry => (double)entry.Value!).OrderBy(static entry => entry.Key, StringComparer.Ordinal), ours.OrderBy(static entry => entry.Key, StringComparer.Ordinal));
            }
        }
    }

    /// <summary>The inputs that the peer gave the layers, and the gradients that it had.</summary>
    private sealed class RecordedData(PeftModel model, string folder, JsonObject record, Dictionary<string, Tensor> result) : IStartData
    {
        private readonly Dictionary<string, Tensor> _inputs = record["activations"] is { } file ? AdapterGolden.Tensors(Path.Combine(folder, (string)file!)) : [];

        public int Batches => _inputs.Count == 0 ? 1 : _inputs.Keys.Select(static key => key.Split('.')[0]).Distinct().Count();

        public void Observe(int batch, Action<Module, Tensor> seen, bool onlyLearnt)
        {
            foreach (var (key, value) in _inputs.Where(entry => entry.Key.StartsWith($"{batch}.", StringComparison.Ordinal)))
            {
                seen(model.Base.Find(key.Split('.', 2)[1])!, value.flatten(0, 1));
            }
        }

        public void AddGradients(int batch, IReadOnlyList<Parameter> weights)
        {
            foreach (var (name, parameter) in model.Base.NamedParameters().Where(named => weights.Contains(named.Parameter)).Select(static named => (named.Module.Path, named.Parameter)))
            {
                parameter.Gradient!.add_(result[name + ".gradient"]);
            }
        }
    }

    /// <summary>Every adapter of the case computes the same, on the base that its initialisation leaves.</summary>
    private static void HoldOutputs(string folder, JsonObject record)
    {
        var weights = AdapterGolden.Tensors(Path.Combine(folder, (string)record["weights"]!));
        var outputs = AdapterGolden.Tensors(Path.Combine(folder, "outputs.safetensors"));
        foreach (var adapter in Directory.GetDirectories(folder).Where(static adapter => !adapter.EndsWith("initial", StringComparison.Ordinal)))
        {
            using var noGradients = no_grad();
            using var scope = NewDisposeScope();
            using var model = Model(weights);
            model.LoadAdapter(adapter);
            foreach (var name in weights.Keys)
            {
                var output = ((Linear)model.Base.Find(name)!).Forward(outputs[name + ".input"], model.NewPass(new ForwardContext()));
                AdapterGolden.AssertClose(outputs[name + ".output"], output, record["tolerance"]!, $"{Path.GetFileName(adapter)}: {name}");
            }
        }

        AdapterGolden.Free(weights, outputs);
    }

    private static void HoldDistributions(JsonObject record, JsonObject observed)
    {
        var (inputs, outputs) = ((long)record["arguments"]!["in"]!, (long)record["arguments"]!["out"]!);
        foreach (var (name, wanted) in observed)
        {
            using var weight = zeros(outputs, inputs);
            using var model = Model(new Dictionary<string, Tensor> { ["layer"] = weight });
            var config = AdapterConfig.FromJson(new JsonObject
            {
                ["peft_type"] = "LORA",
                ["r"] = (int)record["arguments"]!["r"]!,
                ["init_lora_weights"] = name == "True" ? JsonValue.Create(true) : JsonValue.Create(name),
                ["target_modules"] = new JsonArray("layer"),
            });
            var factors = model.AddAdapter(config, seed: 1).Adapter.Layers[0].Adapter.LowRank(1)!;
            var values = factors.A.Data.data<float>().ToArray();
            var deviation = Math.Sqrt(values.Average(static value => (double)value * value));
            Assert.Equal(1, deviation / (double)wanted!["deviation"]!, (double)record["tolerance"]!["rtol"]!);
            Assert.Equal((bool)wanted["B_is_zero"]!, factors.B.Data.count_nonzero().item<long>() == 0);
        }
    }

    private static PeftModel Model(IReadOnlyDictionary<string, Tensor> weights) => new(new FeatureModel(new Plain(weights), "Plain"), "plain");

    /// <summary>Linear layers by name.</summary>
    private sealed class Plain : Backbone
    {
        public Plain(IReadOnlyDictionary<string, Tensor> weights)
            : base(new ModelConfig([]), "Plain")
        {
            foreach (var (name, weight) in weights)
            {
                Add(name, new Linear(weight.shape[1], weight.shape[0])).Weight.Assign(weight.clone());
            }
        }

        public override long Width => 0;

        public override BackboneOutput Forward(Tensor embeddings, ModelInputs inputs, ForwardContext context) => throw new NotSupportedException();
    }
}
