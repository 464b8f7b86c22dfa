using Peft.Models.Gguf;
using Peft.Models.Layers;

namespace Peft.Models.Architectures;

/// <summary>BLOOM (BigScience 2022): scores that fall with the distance, and a norm of the vectors of tokens.</summary>
internal static class Bloom
{
    public static Family Row { get; } = new("bloom", "Bloom", Model)
    {
        Gguf = GgufDecoderMaps.Bloom,
        Prefix = "transformer",
        Heads = HeadRow.DecoderWith(tokenHead: "classifier"),
        OtherNames = new Dictionary<string, string> { ["hidden_size"] = "n_embed", ["n_layer"] = "num_hidden_layers", ["n_head"] = "num_attention_heads" },
    };

    private static DecoderModel Model(ModelConfig config)
    {
        var width = config.Size("hidden_size", 64);
        var shape = DecoderAttention.ShapeOf(width, config.Size("n_head", 8), dropout: config.Number("attention_dropout"));
        var tokens = new Embedding(config.Size("vocab_size", 250880), width);
        var (first, last) = (Norm(config, width), Norm(config, width));
        var blocks = DecoderModel.Stack(config, "n_layer", 2, layer => Block(config, shape, layer));
        var parts = new DecoderParts(tokens, blocks) { Begin = first.Forward, End = last.Forward, Alibi = new Alibi(shape.Heads) };
        return new DecoderModel(config, parts, ("word_embeddings", tokens), ("word_embeddings_layernorm", first), ("h", blocks), ("ln_f", last));
    }

    private static DecoderBlock Block(ModelConfig config, AttentionShape shape, int layer)
    {
        var width = shape.Heads * shape.HeadSize;
        var (attentionNorm, mlpNorm) = (Norm(config, width), Norm(config, width));
        var dropout = new Dropout(config.Number("hidden_dropout") ?? 0);
        var (projections, dense) = (new Linear(width, 3 * width, hasBias: true), new Linear(width, width, hasBias: true));
        var (up, down) = (new Linear(width, 4 * width, hasBias: true), new Linear(4 * width, width, hasBias: true));
        var activation = new Activation("gelu_new", "BloomGelu");
        var attention = new DecoderAttention(shape, layer, DecoderAttention.Ordered(projections, HeadOrder.ByKeyValueHead(shape)), dense) { Dropout = dropout };
        var parts = new BlockParts(attentionNorm, attention, mlpNorm, DecoderMlps.Plain(up, activation, down, dropout))
        {
            Form = config.Boolean("apply_residual_connection_post_layernorm") == true ? BlockForm.NormsInResidual : BlockForm.OneAfterTheOther,
        };
        return new DecoderBlock(
            "BloomBlock",
            parts,
            ("input_layernorm", attentionNorm),
            ("self_attention", new Branch("BloomAttention", ("query_key_value", projections), ("dense", dense), ("attention_dropout", new Dropout(shape.Dropout)))),
            ("post_attention_layernorm", mlpNorm),
            ("mlp", new Branch("BloomMLP", ("dense_h_to_4h", up), ("gelu_impl", activation), ("dense_4h_to_h", down))));
    }

    private static LayerNorm Norm(ModelConfig config, long width) => new(width, config.Number("layer_norm_epsilon") ?? 1e-5);
}
