using Peft.Models.Gguf;
using Peft.Models.Layers;

namespace Peft.Models.Architectures;

/// <summary>
/// GPT-NeoX (Black et al. 2022), which Pythia, OpenCALM, Dolly and rinna's models are: rotary positions on a part of each head, and attention
/// beside the MLP (Pythia) or before it (OpenCALM).
/// </summary>
internal static class GptNeoX
{
    public static Family Row { get; } = new("gpt_neox", "GPTNeoX", Model)
    {
        Gguf = GgufDecoderMaps.GptNeoX,
        Prefix = "gpt_neox",
        Heads = HeadRow.DecoderWith(tokenHead: "classifier"),
        Keys = new KeyMap(new KeyRule("lm_head", "embed_out")),
        OtherNames = new Dictionary<string, string> { ["partial_rotary_factor"] = "rotary_pct", ["rope_theta"] = "rotary_emb_base" },
        Defaults = ArchitectureRegistry.Defaults("{}"),
    };

    private static DecoderModel Model(ModelConfig config)
    {
        var width = config.Size("hidden_size", 6144);
        var shape = DecoderAttention.ShapeOf(width, config.Size("num_attention_heads", 64), dropout: config.Number("attention_dropout"));
        var tokens = new Embedding(config.Size("vocab_size", 50432), width);
        var dropout = Dropped(config);
        var blocks = DecoderModel.Stack(config, "num_hidden_layers", 44, layer => Block(config, shape, layer));
        var norm = Norm(config);
        var rotary = new RotaryEmbedding(new RotaryFrequencies(config, shape.HeadSize, partial: 0.25), "GPTNeoXRotaryEmbedding");
        var parts = new DecoderParts(tokens, blocks) { Begin = dropout.Forward, End = norm.Forward, Rotary = rotary };
        return new DecoderModel(config, parts, ("embed_in", tokens), ("emb_dropout", dropout), ("layers", blocks), ("final_layer_norm", norm), ("rotary_emb", rotary));
    }

    private static DecoderBlock Block(ModelConfig config, AttentionShape shape, int layer)
    {
        var width = shape.Heads * shape.HeadSize;
        var inner = config.Size("intermediate_size", 24576);
        var hasBias = config.Boolean("attention_bias") ?? true;
        var (attentionNorm, mlpNorm) = (Norm(config), Norm(config));
        var (attentionDropout, mlpDropout) = (Dropped(config), Dropped(config));
        var projections = new Linear(width, 3 * width, hasBias);
        var dense = new Linear(width, width, hasBias);
        var (up, down) = (new Linear(width, inner, hasBias: true), new Linear(inner, width, hasBias: true));
        var activation = new Activation(config.String("hidden_act") ?? "gelu");
        var attention = new DecoderAttention(shape, layer, DecoderAttention.Ordered(projections, HeadOrder.ByKeyValueHead(shape)), dense) { Dropout = attentionDropout };
        var parts = new BlockParts(attentionNorm, attention, mlpNorm, DecoderMlps.Plain(up, activation, down, mlpDropout))
        {
            Form = config.Boolean("use_parallel_residual") ?? true ? BlockForm.SideBySide : BlockForm.OneAfterTheOther,
        };
        return new DecoderBlock(
            "GPTNeoXLayer",
            parts,
            ("input_layernorm", attentionNorm),
            ("post_attention_layernorm", mlpNorm),
            ("post_attention_dropout", attentionDropout),
            ("post_mlp_dropout", mlpDropout),
            ("attention", new Branch("GPTNeoXAttention", ("query_key_value", projections), ("dense", dense))),
            ("mlp", new Branch("GPTNeoXMLP", ("dense_h_to_4h", up), ("dense_4h_to_h", down), ("act", activation))));
    }

    private static LayerNorm Norm(ModelConfig config) => new(config.Size("hidden_size", 6144), config.Number("layer_norm_eps") ?? 1e-5);

    private static Dropout Dropped(ModelConfig config) => new(config.Number("hidden_dropout") ?? 0);
}
