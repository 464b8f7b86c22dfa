using Peft.Models.Gguf;
using Peft.Models.Layers;

namespace Peft.Models.Architectures;

/// <summary>Phi 1, 1.5 and 2 (Gunasekar et al. 2023; Li et al. 2023): halves side by side below one norm, a part of each head turning, biases everywhere.</summary>
internal static class Phi
{
    public static Family Row { get; } = new("phi", "Phi", Model)
    {
        Gguf = GgufDecoderMaps.Phi,
        Heads = HeadRow.DecoderWith(causalBias: true),
        Defaults = ArchitectureRegistry.Defaults("{}"),
    };

    private static DecoderModel Model(ModelConfig config)
    {
        var width = config.Size("hidden_size", 2048);
        var heads = config.Size("num_attention_heads", 32);
        var shape = DecoderAttention.ShapeOf(width, heads, config.Size("num_key_value_heads", heads), config.Number("attention_dropout"));
        var tokens = new Embedding(config.Size("vocab_size", 51200), width, config.Integer("pad_token_id"));
        var blocks = DecoderModel.Stack(config, "num_hidden_layers", 24, layer => Block(config, shape, layer));
        var rotary = new RotaryEmbedding(new RotaryFrequencies(config, shape.HeadSize, partial: 0.5), "PhiRotaryEmbedding");
        var dropout = new Dropout(config.Number("embd_pdrop") ?? 0);
        var norm = Norm(config, width);
        var parts = new DecoderParts(tokens, blocks) { Begin = dropout.Forward, End = norm.Forward, Rotary = rotary };
        return new DecoderModel(config, parts, ("embed_tokens", tokens), ("layers", blocks), ("rotary_emb", rotary), ("embed_dropout", dropout), ("final_layernorm", norm));
    }

    private static DecoderBlock Block(ModelConfig config, AttentionShape shape, int layer)
    {
        var width = shape.Heads * shape.HeadSize;
        var shared = shape.KeyValueHeads * shape.HeadSize;
        var inner = config.Size("intermediate_size", 8192);
        var norm = Norm(config, width);
        var dropout = new Dropout(config.Number("resid_pdrop") ?? 0);
        var (queries, keys, values, output) = (Layer(width, width), Layer(width, shared), Layer(width, shared), Layer(width, width));
        var (up, down) = (Layer(width, inner), Layer(inner, width));
        var activation = new Activation(config.String("hidden_act") ?? "gelu_new");
        var (queryNorm, keyNorm) = config.Boolean("qk_layernorm") == true ? (Norm(config, shape.HeadSize), Norm(config, shape.HeadSize)) : (null, null);
        var self = new Branch(
            "PhiAttention",
            ("q_proj", queries),
            ("k_proj", keys),
            ("v_proj", values),
            ("dense", output),
            ("q_layernorm", queryNorm),
            ("k_layernorm", keyNorm));
        var attention = new DecoderAttention(shape, layer, self.Joining(queries, keys, values).Forward, output)
        {
            Dropout = dropout,
            Norms = queryNorm is null || keyNorm is null ? null : (queryNorm.Forward, keyNorm.Forward),
        };
        return new DecoderBlock(
            "PhiDecoderLayer",
            new BlockParts(norm, attention, null, DecoderMlps.Plain(up, activation, down, dropout)) { Form = BlockForm.SideBySide },
            ("self_attn", self),
            ("mlp", new Branch("PhiMLP", ("activation_fn", activation), ("fc1", up), ("fc2", down))),
            ("input_layernorm", norm),
            ("resid_dropout", dropout));

        static Linear Layer(long inputs, long outputs) => new(inputs, outputs, hasBias: true);
    }

    private static LayerNorm Norm(ModelConfig config, long width) => new(width, config.Number("layer_norm_eps") ?? 1e-5);
}
