using Peft.Models.Gguf;
using Peft.Models.Layers;

namespace Peft.Models.Architectures;

/// <summary>
/// Falcon (Almazrouei et al. 2023) in its three forms: RW with ALiBi and a head of keys and values for each of queries, 7B with one for all,
/// 40B with groups and a norm for each half of a block.
/// </summary>
internal static class Falcon
{
    private const string LinearClass = "FalconLinear";

    public static Family Row { get; } = new("falcon", "Falcon", Model)
    {
        Gguf = GgufDecoderMaps.Falcon,
        Prefix = "transformer",
        Heads = HeadRow.DecoderWith(tokenHead: "classifier"),
        OtherNames = new Dictionary<string, string> { ["hidden_size"] = "n_embed" },
    };

    private static DecoderModel Model(ModelConfig config)
    {
        var width = config.Size("hidden_size", 4544);
        var heads = config.Size("num_attention_heads", 71);
        var keyValueHeads = IsNew(config) ? config.Size("num_kv_heads", heads) : config.Boolean("multi_query") ?? true ? 1 : heads;
        var hasAlibi = config.Boolean("alibi") == true;
        var shape = DecoderAttention.ShapeOf(width, heads, keyValueHeads, hasAlibi ? config.Number("attention_dropout") : 0);
        var tokens = new Embedding(config.Size("vocab_size", 65024), width);
        var norm = Norm(config, width);
        var blocks = DecoderModel.Stack(config, "num_hidden_layers", 32, layer => Block(config, shape, layer));
        var rotary = new RotaryEmbedding(new RotaryFrequencies(config, shape.HeadSize), "FalconRotaryEmbedding");
        var parts = new DecoderParts(tokens, blocks)
        {
            End = norm.Forward,
            Rotary = hasAlibi ? null : rotary,
            Alibi = hasAlibi ? new Alibi(heads) { Scale = shape.Scale, Rounds = true } : null,
        };
        return new DecoderModel(config, parts, ("word_embeddings", tokens), ("h", blocks), ("ln_f", norm), ("rotary_emb", rotary));
    }

    private static DecoderBlock Block(ModelConfig config, AttentionShape shape, int layer)
    {
        var width = shape.Heads * shape.HeadSize;
        var inner = config.Size("ffn_hidden_size", 4 * width);
        var hasBias = config.Boolean("bias") ?? false;
        var projections = Layer(width, shape.AllHeads * shape.HeadSize);
        var (dense, up, down) = (Layer(width, width), Layer(width, inner), Layer(inner, width));
        var activation = new Activation(config.String("activation") ?? "gelu");
        var dropout = new Dropout(config.Number("hidden_dropout") ?? 0);
        var isParallel = IsNew(config) || (config.Boolean("parallel_attn") ?? true);
        var hasTwo = isParallel && IsNew(config) && config.Size("num_ln_in_parallel_attn", 2) == 2;
        var attentionNorm = Norm(config, width);
        var mlpNorm = hasTwo || !isParallel ? Norm(config, width) : null;

        // transformers drops elements of the sum of halves that stand side by side; here each half is dropped by itself, to the same mean.
        var attentionDropout = isParallel ? dropout : new Dropout(config.Number("attention_dropout") ?? 0);
        var attention = new DecoderAttention(shape, layer, DecoderAttention.Ordered(projections, HeadOrder.ByKeyValueHead(shape)), dense) { Dropout = attentionDropout };
        var parts = new BlockParts(attentionNorm, attention, mlpNorm, DecoderMlps.Plain(up, activation, down, dropout))
        {
            Form = isParallel ? BlockForm.SideBySide : BlockForm.OneAfterTheOther,
        };
        return new DecoderBlock(
            "FalconDecoderLayer",
            parts,
            ("self_attention", new Branch(
                "FalconAttention",
                ("query_key_value", projections),
                ("dense", dense),
                ("attention_dropout", new Dropout(config.Number("attention_dropout") ?? 0)))),
            ("mlp", new Branch("FalconMLP", ("dense_h_to_4h", up), ("act", activation), ("dense_4h_to_h", down))),
            ("post_attention_layernorm", isParallel ? null : mlpNorm),
            (hasTwo ? "ln_attn" : "input_layernorm", attentionNorm),
            ("ln_mlp", hasTwo ? mlpNorm : null));

        Linear Layer(long inputs, long outputs) => new(inputs, outputs, hasBias, className: LinearClass);
    }

    private static bool IsNew(ModelConfig config) => config.Boolean("new_decoder_architecture") == true;

    private static LayerNorm Norm(ModelConfig config, long width) => new(width, config.Number("layer_norm_epsilon") ?? 1e-5);
}
