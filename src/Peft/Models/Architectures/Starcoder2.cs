using Peft.Models.Gguf;
using Peft.Models.Layers;

namespace Peft.Models.Architectures;

/// <summary>StarCoder 2 (Lozhkov et al. 2024): Llama's attention, with biases and a window, between layer norms and a plain MLP.</summary>
internal static class Starcoder2
{
    public static Family Row { get; } = new("starcoder2", "Starcoder2", Model) { Gguf = GgufDecoderMaps.Starcoder2 };

    private static DecoderModel Model(ModelConfig config)
    {
        var width = config.Size("hidden_size", 3072);
        var shape = DecoderAttention.ShapeOf(
            width, config.Size("num_attention_heads", 24), config.Size("num_key_value_heads", 2), config.Number("attention_dropout"));
        var tokens = new Embedding(config.Size("vocab_size", 49152), width, config.Integer("pad_token_id"));
        var embeddingDropout = new Dropout(config.Number("embedding_dropout") ?? 0);
        var blocks = DecoderModel.Stack(config, "num_hidden_layers", 30, layer => Block(config, shape, layer));
        var norm = Norm(config, width);
        var rotary = new RotaryEmbedding(new RotaryFrequencies(config, shape.HeadSize), "Starcoder2RotaryEmbedding");
        var parts = new DecoderParts(tokens, blocks) { Begin = embeddingDropout.Forward, End = norm.Forward, Rotary = rotary };
        return new DecoderModel(config, parts, ("embed_tokens", tokens), ("layers", blocks), ("norm", norm), ("rotary_emb", rotary));
    }

    private static DecoderBlock Block(ModelConfig config, AttentionShape shape, int layer)
    {
        var width = shape.Heads * shape.HeadSize;
        var shared = shape.KeyValueHeads * shape.HeadSize;
        var inner = config.Size("intermediate_size", 12288);
        var hasBias = config.Boolean("use_bias") ?? true;
        var dropout = new Dropout(config.Number("residual_dropout") ?? 0);
        var (attentionNorm, mlpNorm) = (Norm(config, width), Norm(config, width));
        var (queries, keys, values) = (new Linear(width, width, hasBias), new Linear(width, shared, hasBias), new Linear(width, shared, hasBias));
        var output = new Linear(width, width, hasBias);
        var (up, down) = (new Linear(width, inner, hasBias), new Linear(inner, width, hasBias));
        var activation = new Activation(config.String("hidden_act") ?? "gelu_pytorch_tanh");
        var self = new Branch("Starcoder2Attention", ("q_proj", queries), ("k_proj", keys), ("v_proj", values), ("o_proj", output));
        var attention = new DecoderAttention(shape, layer, self.Joining(queries, keys, values).Forward, output)
        {
            Dropout = dropout,
            Window = config.Integer("sliding_window") is null ? 0 : config.Size("sliding_window", 4096),
        };
        return new DecoderBlock(
            "Starcoder2DecoderLayer",
            new BlockParts(attentionNorm, attention, mlpNorm, DecoderMlps.Plain(up, activation, down, dropout)),
            ("self_attn", self),
            ("mlp", new Branch("Starcoder2MLP", ("c_fc", up), ("c_proj", down), ("act", activation))),
            ("input_layernorm", attentionNorm),
            ("post_attention_layernorm", mlpNorm));
    }

    private static LayerNorm Norm(ModelConfig config, long width) => new(width, config.Number("norm_epsilon") ?? 1e-5);
}
