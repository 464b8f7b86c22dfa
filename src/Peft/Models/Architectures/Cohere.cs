using Peft.Models.Gguf;
using Peft.Models.Layers;

namespace Peft.Models.Architectures;

/// <summary>Command R (Cohere 2024): Llama's halves side by side below one norm without a bias, neighbouring elements of a head turning together.</summary>
internal static class Cohere
{
    public static Family Row { get; } = new("cohere", "Cohere", Model)
    {
        Gguf = GgufDecoderMaps.Cohere,
        Defaults = new() { ["logit_scale"] = 0.0625, ["rope_theta"] = 500000.0, ["pad_token_id"] = 0 },
    };

    private static DecoderModel Model(ModelConfig config)
    {
        var width = config.Size("hidden_size", 8192);
        var heads = config.Size("num_attention_heads", 64);
        var shape = DecoderAttention.ShapeOf(width, heads, config.Size("num_key_value_heads", heads), config.Number("attention_dropout"));
        var tokens = new Embedding(config.Size("vocab_size", 256000), width, config.Integer("pad_token_id"));
        var blocks = DecoderModel.Stack(config, "num_hidden_layers", 40, layer => Block(config, shape, layer));
        var norm = Norm(config, width);
        var rotary = new RotaryEmbedding(new RotaryFrequencies(config, shape.HeadSize), "CohereRotaryEmbedding", isInterleaved: true);
        var parts = new DecoderParts(tokens, blocks) { End = norm.Forward, Rotary = rotary };
        return new DecoderModel(config, parts, ("embed_tokens", tokens), ("layers", blocks), ("norm", norm), ("rotary_emb", rotary));
    }

    private static DecoderBlock Block(ModelConfig config, AttentionShape shape, int layer)
    {
        var width = shape.Heads * shape.HeadSize;
        var inner = config.Size("intermediate_size", 22528);
        var norm = Norm(config, width);
        var (gate, up, down) = (new Linear(width, inner), new Linear(width, inner), new Linear(inner, width));
        var activation = new Activation(config.String("hidden_act") ?? "silu");
        var mlp = new Branch("CohereMLP", ("gate_proj", gate), ("up_proj", up), ("down_proj", down), ("act_fn", activation));
        var (self, attention) = Attention(config, shape, layer);
        var parts = new BlockParts(norm, attention, null, DecoderMlps.Gated(mlp.Joining(gate, up), activation, down)) { Form = BlockForm.SideBySide };
        return new DecoderBlock("CohereDecoderLayer", parts, ("self_attn", self), ("mlp", mlp), ("input_layernorm", norm));
    }

    private static (Branch Branch, DecoderAttention Attention) Attention(ModelConfig config, AttentionShape shape, int layer)
    {
        var width = shape.Heads * shape.HeadSize;
        var shared = shape.KeyValueHeads * shape.HeadSize;
        var hasBias = config.Boolean("attention_bias") ?? false;
        var (queries, keys, values) = (new Linear(width, width, hasBias), new Linear(width, shared, hasBias), new Linear(width, shared, hasBias));
        var output = new Linear(width, width, hasBias);
        var hasNorms = config.Boolean("use_qk_norm") == true;
        var (queryNorm, keyNorm) = (Norm(config, shape.HeadSize, shape.Heads), Norm(config, shape.HeadSize, shape.KeyValueHeads));
        var branch = new Branch(
            "CohereAttention",
            ("q_proj", queries),
            ("k_proj", keys),
            ("v_proj", values),
            ("o_proj", output),
            ("q_norm", hasNorms ? queryNorm : null),
            ("k_norm", hasNorms ? keyNorm : null));
        return (branch, new DecoderAttention(shape, layer, branch.Joining(queries, keys, values).Forward, output)
        {
            Norms = hasNorms ? (queryNorm.Forward, keyNorm.Forward) : null,
        });
    }

    private static LayerNorm Norm(ModelConfig config, long width, long? heads = null) =>
        new(width, config.Number("layer_norm_eps") ?? 1e-5, hasBias: false, "CohereLayerNorm", printsDetails: false, heads);
}
