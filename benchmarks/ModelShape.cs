using System.Text.Json.Nodes;
using Peft.Models;
using Peft.Models.Heads;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Benchmarks;

/// <summary>A model of a published shape with random weights: the same shapes as in <c>Peer/bench.py</c>.</summary>
/// <param name="Name">The name there.</param>
/// <param name="Config">What its <c>config.json</c> would say.</param>
internal sealed record ModelShape(string Name, JsonObject Config)
{
    /// <summary>SmolLM2-135M.</summary>
    public static ModelShape SmolLm2 { get; } = new("smollm2", Llama(576, 1536, 30, 9, 49152, 8192, 100000));

    /// <summary>The small base that comes with the project.</summary>
    public static ModelShape Pocket { get; } = new("pocket", Llama(192, 512, 6, 6, 4096, 512, 10000));

    /// <summary>Llama 2 7B: what memory a large base takes.</summary>
    public static ModelShape Llama7B { get; } = Untied("llama-7b", Llama(4096, 11008, 32, 32, 32000, 4096, 10000), keyValueHeads: 32);

    /// <summary>About a billion parameters: TinyLlama's.</summary>
    public static ModelShape Llama1B { get; } = Untied("llama-1b", Llama(2048, 5632, 22, 32, 32000, 2048, 10000), keyValueHeads: 4);

    /// <summary>Makes the model.</summary>
    public CausalModel Create(ScalarType type)
    {
        using var noGrad = no_grad();
        var model = (CausalModel)ArchitectureRegistry.Create(new ModelConfig((JsonObject)Config.DeepClone()));
        using var generator = new Generator(1);
        foreach (var (_, parameter, _) in model.NamedParameters())
        {
            using var scope = NewDisposeScope();
            var isNorm = parameter.Shape.Count == 1;
            parameter.Assign(isNorm ? ones([.. parameter.Shape], type) : randn([.. parameter.Shape], ScalarType.Float32, generator: generator).mul_(0.02).to(type));
        }

        model.Prepare();
        return model;
    }

    /// <summary>Multiply-adds that one token takes through every matrix once, the output embedding's too; attention's own are left out.</summary>
    public double ProductsPerToken()
    {
        long Of(string key) => (long)Config[key]!;
        var (hidden, inner) = (Of("hidden_size"), Of("intermediate_size"));
        var values = hidden / Of("num_attention_heads") * Of("num_key_value_heads");
        var block = (2 * hidden * hidden) + (2 * hidden * values) + (3 * hidden * inner);
        return (Of("num_hidden_layers") * block) + (hidden * Of("vocab_size"));
    }

    private static ModelShape Untied(string name, JsonObject config, long keyValueHeads)
    {
        (config["num_key_value_heads"], config["tie_word_embeddings"]) = (keyValueHeads, false);
        return new ModelShape(name, config);
    }

    private static JsonObject Llama(long hidden, long inner, long layers, long heads, long vocabulary, long positions, double theta) => new()
    {
        ["architectures"] = new JsonArray("LlamaForCausalLM"),
        ["model_type"] = "llama",
        ["hidden_size"] = hidden,
        ["intermediate_size"] = inner,
        ["num_hidden_layers"] = layers,
        ["num_attention_heads"] = heads,
        ["num_key_value_heads"] = 3L,
        ["vocab_size"] = vocabulary,
        ["tie_word_embeddings"] = true,
        ["max_position_embeddings"] = positions,
        ["rope_theta"] = theta,
        ["rms_norm_eps"] = 1e-5,
    };
}
