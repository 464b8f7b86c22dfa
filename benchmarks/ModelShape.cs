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

    /// <summary>A Mixtral of SmolLM2's width.</summary>
    public static ModelShape Mixtral { get; } = new("mixtral", Mixture(Llama(576, 1536, 16, 9, 49152, 8192, 10000)));

    /// <summary>The small base that comes with the project.</summary>
    public static ModelShape Pocket { get; } = new("pocket", Llama(192, 512, 6, 6, 4096, 512, 10000));

    /// <summary>GPT-2 of 124 million parameters.</summary>
    public static ModelShape Gpt2 { get; } = new("gpt2", new JsonObject { ["model_type"] = "gpt2", ["vocab_size"] = 50257L, ["tie_word_embeddings"] = true });

    /// <summary>T5 small, 1.0.</summary>
    public static ModelShape T5Small { get; } = new("t5-small", new JsonObject
    {
        ["model_type"] = "t5",
        ["d_model"] = 512L,
        ["d_ff"] = 2048L,
        ["num_layers"] = 6L,
        ["num_heads"] = 8L,
        ["d_kv"] = 64L,
        ["vocab_size"] = 32128L,
        ["tie_word_embeddings"] = true,
        ["decoder_start_token_id"] = 0L,
        ["pad_token_id"] = 0L,
    });

    /// <summary>Qwen3 0.6B with fewer layers and a smaller vocabulary.</summary>
    public static ModelShape Qwen3 { get; } = new("qwen3", Qwen("qwen3", heads: 16, keyValueHeads: 8, headSize: 128));

    /// <summary>A Qwen3.5 of that width: three layers of Gated DeltaNet to one of attention.</summary>
    public static ModelShape Qwen35 { get; } = new("qwen3.5", Recurrent([]));

    /// <summary>Layers of Gated DeltaNet and hardly anything else.</summary>
    public static ModelShape DeltaNet { get; } = new("deltanet", Recurrent(new JsonObject
    {
        ["intermediate_size"] = 64L,
        ["num_hidden_layers"] = 2L,
        ["layer_types"] = new JsonArray("linear_attention", "linear_attention"),
        ["vocab_size"] = 512L,
    }));

    /// <summary>Llama 2 7B: what memory a large base takes.</summary>
    public static ModelShape Llama7B { get; } = Untied("llama-7b", Llama(4096, 11008, 32, 32, 32000, 4096, 10000), keyValueHeads: 32);

    /// <summary>About a billion parameters: TinyLlama's.</summary>
    public static ModelShape Llama1B { get; } = Untied("llama-1b", Llama(2048, 5632, 22, 32, 32000, 2048, 10000), keyValueHeads: 4);

    /// <summary>Makes a model that continues text.</summary>
    public CausalModel Create(ScalarType type) => (CausalModel)CreateAny(type);

    /// <summary>Makes the model.</summary>
    public PretrainedModel CreateAny(ScalarType type)
    {
        using var noGrad = no_grad();
        var model = ArchitectureRegistry.Create(new ModelConfig((JsonObject)Config.DeepClone()));
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
        using var model = ArchitectureRegistry.Create(new ModelConfig((JsonObject)Config.DeepClone()));
        var isTied = (bool?)Config["tie_word_embeddings"] ?? false;
        return model.NamedParameters().Where(named => named.Parameter.IsOwner && named.Parameter.Shape.Count == 2 && (isTied || named.Module is not Peft.Models.Layers.Embedding))
            .Sum(static named => (double)named.Parameter.Count);
    }

    private static JsonObject Mixture(JsonObject config)
    {
        (config["model_type"], config["architectures"]) = ("mixtral", new JsonArray("MixtralForCausalLM"));
        (config["num_local_experts"], config["num_experts_per_tok"]) = (8L, 2L);
        return config;
    }

    private static JsonObject Recurrent(JsonObject more)
    {
        var config = Qwen("qwen3_5_text", heads: 8, keyValueHeads: 2, headSize: 256);
        (config["linear_num_key_heads"], config["linear_num_value_heads"]) = (16L, 16L);
        (config["linear_key_head_dim"], config["linear_value_head_dim"]) = (128L, 128L);
        foreach (var (name, value) in more)
        {
            config[name] = value?.DeepClone();
        }

        return config;
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

    private static JsonObject Qwen(string type, long heads, long keyValueHeads, long headSize) => new()
    {
        ["model_type"] = type,
        ["hidden_size"] = 1024L,
        ["intermediate_size"] = 3072L,
        ["num_hidden_layers"] = 4L,
        ["num_attention_heads"] = heads,
        ["num_key_value_heads"] = keyValueHeads,
        ["head_dim"] = headSize,
        ["vocab_size"] = 32768L,
        ["tie_word_embeddings"] = true,
        ["max_position_embeddings"] = 4096L,
    };
}
