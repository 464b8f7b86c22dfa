using System.Text.Json.Nodes;
using Peft.Models.Gguf;
using static Peft.Models.ArchitectureRegistry;

namespace Peft.Models.Architectures;

/// <summary>Families that are built like Llama and differ by flags and by what their configurations leave out.</summary>
internal static class LlamaFamilies
{
    private static LlamaTraits Olmo { get; } = new(HasHeadNorms: true)
    {
        NormsHeadsTogether = true,
        Names = new() { InputNorm = null, AttentionNorm = "post_attention_layernorm", InnerNorm = null, OutputNorm = "post_feedforward_layernorm" },
    };

    private static LlamaTraits Glm4 { get; } = new()
    {
        HasOutputBias = false,
        RotaryShare = 0.5,
        IsInterleaved = true,
        FeedForward = static (config, _) => new JoinedMLP(config),
        Names = new() { AttentionNorm = "post_self_attn_layernorm", OutputNorm = "post_mlp_layernorm", ListsInnerNormFirst = true },
    };

    private static LlamaTraits Phi3 { get; } = new(HasWindow: true)
    {
        RotaryShare = 1,
        TurnsAnew = true,
        Mixer = static (config, layer) => new JoinedAttention(config, layer),
        FeedForward = static (config, _) => new JoinedMLP(config),
        Names = new() { Dropouts = ("resid_attn_dropout", "resid_mlp_dropout") },
    };

    private static LlamaTraits Gemma { get; } = new()
    {
        AddsOneToNorms = true,
        ApproximatesGelu = true,
        EmbeddingScale = ("GemmaTextScaledWordEmbedding", Math.Sqrt),
    };

    private static LlamaTraits Gemma2 { get; } = Gemma with
    {
        HasWindow = true,
        FullEvery = 2,
        CapsScores = true,
        ApproximatesGelu = false,
        ActivationKey = "hidden_activation",
        EmbeddingScale = ("Gemma2TextScaledWordEmbedding", Math.Sqrt),
        Names = new() { AttentionNorm = "post_attention_layernorm", InnerNorm = "pre_feedforward_layernorm", OutputNorm = "post_feedforward_layernorm" },
    };

    private static LlamaTraits Gemma3 { get; } = Gemma2 with
    {
        HasHeadNorms = true,
        CapsScores = false,
        FullEvery = 6,
        PatternKey = "sliding_window_pattern",
        LocalBase = ("rope_local_base_freq", 10000),
        EmbeddingScale = ("Gemma3TextScaledWordEmbedding", Math.Sqrt),
        Part = "Text",
        RotaryPart = "",
    };

    public static IReadOnlyList<Family> Rows { get; } =
    [
        new("llama", "Llama", static config => new LlamaModel(config))
        {
            Heads = HeadRow.DecoderWith(questionPrefix: "transformer"),
            Gguf = GgufMaps.Llama,
            Defaults = Defaults("{}"),
        },
        new("mistral", "Mistral", static config => new LlamaModel(config, new LlamaTraits(HasWindow: true)))
        {
            Gguf = GgufMaps.Llama,
            Defaults = Defaults("""{ "intermediate_size": 14336, "num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096 }"""),
        },
        new("qwen2", "Qwen2", static config => new LlamaModel(config, new LlamaTraits(HasProjectionBias: true, HasWindow: true)))
        {
            Gguf = GgufMaps.Qwen2,
            Defaults = Defaults("""
                { "vocab_size": 151936, "intermediate_size": 22016, "max_position_embeddings": 32768, "use_sliding_window": false, "sliding_window": 4096, "max_window_layers": 28 }
                """),
        },
        new("qwen3", "Qwen3", static config => new LlamaModel(config, new LlamaTraits(HasWindow: true, HasHeadNorms: true)))
        {
            Gguf = GgufMaps.Qwen3,
            Defaults = Defaults("""
                {
                    "vocab_size": 151936, "intermediate_size": 22016, "head_dim": 128, "max_position_embeddings": 32768,
                    "use_sliding_window": false, "sliding_window": 4096, "max_window_layers": 28
                }
                """),
        },
        new("ministral3", "Ministral3", static config => new LlamaModel(config, new LlamaTraits(HasWindow: true)))
        {
            Gguf = GgufMaps.Ministral3,
            Defaults = Defaults("""
                {
                    "vocab_size": 131072, "intermediate_size": 14336, "num_hidden_layers": 34, "num_key_value_heads": 8, "head_dim": 128,
                    "max_position_embeddings": 262144, "rms_norm_eps": 1e-5, "sliding_window": null
                }
                """),
        },
        new("smollm3", "SmolLM3", static config => new LlamaModel(config, new LlamaTraits(HasWindow: true) { HasLayersWithoutRotary = true, IsLocal = static (config, layer) => !config.HasRotary(layer) }))
        {
            Gguf = GgufMaps.SmolLM3,
            Defaults = new()
            {
                ["vocab_size"] = 128256, ["hidden_size"] = 2048, ["num_hidden_layers"] = 36, ["num_attention_heads"] = 16, ["num_key_value_heads"] = 4,
                ["max_position_embeddings"] = 32768, ["use_sliding_window"] = false, ["pad_token_id"] = 128004,
            },
        },
        new("ernie4_5", "Ernie4_5", static config => new LlamaModel(config, new LlamaTraits { IsInterleaved = true }))
        {
            Gguf = GgufMaps.Ernie,
            OtherNames = new Dictionary<string, string> { ["attention_bias"] = "use_bias", ["mlp_bias"] = "use_bias" },
            Defaults = new()
            {
                ["vocab_size"] = 103424, ["hidden_size"] = 1024, ["intermediate_size"] = 3072, ["num_hidden_layers"] = 18, ["num_attention_heads"] = 16, ["num_key_value_heads"] = 2,
                ["head_dim"] = 128, ["max_position_embeddings"] = 131072, ["rms_norm_eps"] = 1e-5, ["rope_theta"] = 500000.0,
            },
        },
        new("granite", "Granite", static config => new LlamaModel(config))
        {
            Gguf = GgufMaps.Granite,
            Defaults = Defaults("""{ "attention_multiplier": 1.0 }"""),
        },
        new("olmo2", "Olmo2", static config => new LlamaModel(config, Olmo))
        {
            Gguf = GgufMaps.Olmo2,
            Defaults = Defaults("""{ "vocab_size": 50304, "rms_norm_eps": 1e-5, "pad_token_id": 1 }"""),
        },
        new("olmo3", "Olmo3", static config => new LlamaModel(config, Olmo with { HasWindow = true, FullEvery = 4, LocalBase = ("rope_local_base_freq", 500000) }))
        {
            Gguf = GgufMaps.Olmo3,
            Defaults = Defaults("""{ "vocab_size": 50304, "rms_norm_eps": 1e-5, "pad_token_id": 1, "sliding_window": 4096, "rope_theta": 500000.0 }"""),
        },
        new("glm4", "Glm4", static config => new LlamaModel(config, Glm4))
        {
            Gguf = GgufMaps.Glm4,
            Defaults = Defaults("""
                {
                    "vocab_size": 151552, "intermediate_size": 13696, "num_hidden_layers": 40, "num_key_value_heads": 2, "head_dim": 128,
                    "max_position_embeddings": 131072, "rms_norm_eps": 1.5625e-7, "attention_bias": true, "pad_token_id": 151329
                }
                """),
        },
        new("phi3", "Phi3", static config => new LlamaModel(config, Phi3))
        {
            Gguf = GgufMaps.Phi3,
            Defaults = Defaults("""
                {
                    "vocab_size": 32064, "hidden_size": 3072, "intermediate_size": 8192, "max_position_embeddings": 4096,
                    "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "pad_token_id": 32000
                }
                """),
        },
        new("gemma", "Gemma", static config => new LlamaModel(config, Gemma))
        {
            Gguf = GgufMaps.Gemma,
            Defaults = new()
            {
                ["vocab_size"] = 256000, ["hidden_size"] = 3072, ["intermediate_size"] = 24576, ["num_hidden_layers"] = 28, ["num_attention_heads"] = 16,
                ["head_dim"] = 256, ["hidden_act"] = "gelu_pytorch_tanh", ["max_position_embeddings"] = 8192, ["pad_token_id"] = 0,
            },
        },
        new("gemma2", "Gemma2", static config => new LlamaModel(config, Gemma2))
        {
            Gguf = GgufMaps.Gemma2,
            Defaults = GemmaDefaults(256000, 8192, ("final_logit_softcapping", 30.0), ("attn_logit_softcapping", 50.0)),
        },
        new("gemma3_text", "Gemma3", static config => new LlamaModel(config, Gemma3))
        {
            Gguf = GgufMaps.Gemma3,
            Defaults = GemmaDefaults(262208, 131072, ("rope_theta", 1_000_000.0)),
        },
        Family.Around("gemma3", "Gemma3", textType: "gemma3_text", Family.LanguageModelFirst),
    ];

    private static JsonObject GemmaDefaults(long vocabulary, long positions, params (string Key, double Value)[] others)
    {
        var defaults = new JsonObject
        {
            ["vocab_size"] = vocabulary,
            ["hidden_size"] = 2304,
            ["intermediate_size"] = 9216,
            ["num_hidden_layers"] = 26,
            ["num_attention_heads"] = 8,
            ["num_key_value_heads"] = 4,
            ["head_dim"] = 256,
            ["hidden_activation"] = "gelu_pytorch_tanh",
            ["max_position_embeddings"] = positions,
            ["query_pre_attn_scalar"] = 256,
            ["sliding_window"] = 4096,
            ["pad_token_id"] = 0,
        };
        foreach (var (key, value) in others)
        {
            defaults[key] = value;
        }

        return defaults;
    }
}
