using static Peft.Models.ArchitectureRegistry;

namespace Peft.Models.Architectures;

/// <summary>Families that are built like Llama and differ by flags and by what their configurations leave out.</summary>
internal static class LlamaFamilies
{
    public static IReadOnlyList<Family> Rows { get; } =
    [
        new("llama", "Llama", static config => new LlamaModel(config))
        {
            Heads = HeadRow.DecoderWith(questionPrefix: "transformer"),
            Gguf = new GgufMap("llama", PairsNeighbours: true),
            Defaults = Defaults("{}"),
        },
        new("mistral", "Mistral", static config => new LlamaModel(config, new LlamaTraits(HasWindow: true)))
        {
            Defaults = Defaults("""{ "intermediate_size": 14336, "num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096 }"""),
        },
        new("qwen2", "Qwen2", static config => new LlamaModel(config, new LlamaTraits(HasProjectionBias: true, HasWindow: true)))
        {
            Gguf = new GgufMap("qwen2"),
            Defaults = Defaults("""
                { "vocab_size": 151936, "intermediate_size": 22016, "max_position_embeddings": 32768, "use_sliding_window": false, "sliding_window": 4096, "max_window_layers": 28 }
                """),
        },
        new("qwen3", "Qwen3", static config => new LlamaModel(config, new LlamaTraits(HasWindow: true, HasHeadNorms: true)))
        {
            Gguf = new GgufMap("qwen3"),
            Defaults = Defaults("""
                {
                    "vocab_size": 151936, "intermediate_size": 22016, "head_dim": 128, "max_position_embeddings": 32768,
                    "use_sliding_window": false, "sliding_window": 4096, "max_window_layers": 28
                }
                """),
        },
        new("ministral3", "Ministral3", static config => new LlamaModel(config, new LlamaTraits(HasWindow: true)))
        {
            Defaults = Defaults("""
                {
                    "vocab_size": 131072, "intermediate_size": 14336, "num_hidden_layers": 34, "num_key_value_heads": 8, "head_dim": 128,
                    "max_position_embeddings": 262144, "rms_norm_eps": 1e-5, "sliding_window": null
                }
                """),
        },
    ];
}
