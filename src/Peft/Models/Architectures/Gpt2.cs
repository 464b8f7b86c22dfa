using Peft.Models.Gguf;
using Peft.Models.Layers;

namespace Peft.Models.Architectures;

/// <summary>
/// GPT-2 (Radford et al. 2019): learned positions, its weights lying the other way round; and GPT-BigCode (SantaCoder, StarCoder, Ben Allal et al.
/// 2023), which is GPT-2 with one head of keys and values for all of queries. What a configuration leaves out is as in the smallest GPT-2.
/// </summary>
internal static class Gpt2
{
    public static IReadOnlyList<Family> Rows { get; } =
    [
        new("gpt2", "GPT2", static config => Model(config, isBigCode: false))
        {
            Gguf = GgufDecoderMaps.Gpt2,
            Prefix = "transformer",
            Heads = HeadRow.DecoderWith(causal: "LMHeadModel", tokenHead: "classifier"),
        },
        new("gpt_bigcode", "GPTBigCode", static config => Model(config, isBigCode: true))
        {
            Gguf = GgufDecoderMaps.GptBigCode,
            Prefix = "transformer",
            Heads = HeadRow.DecoderWith(tokenHead: "classifier"),
            Defaults = new() { ["activation_function"] = "gelu_pytorch_tanh", ["multi_query"] = true, ["num_key_value_heads"] = 1 },
        },
    ];

    private static DecoderModel Model(ModelConfig config, bool isBigCode)
    {
        RefuseEncoder(config);
        var width = config.Size("n_embd", 768);
        var tokens = new Embedding(config.Size("vocab_size", 50257), width);
        var positions = new Embedding(config.Size("n_positions", 1024), width);
        var dropout = Dropped(config, "embd_pdrop");
        var blocks = DecoderModel.Stack(config, "n_layer", 12, layer => Block(config, layer, width, isBigCode));
        var norm = Norm(config, width);
        var parts = new DecoderParts(tokens, blocks) { Begin = LearnedPositions.AddedAndDropped(positions, dropout), End = norm.Forward, GatedPromptTarget = isBigCode ? null : "attn" };
        return new DecoderModel(config, parts, ("wte", tokens), ("wpe", positions), ("drop", dropout), ("h", blocks), ("ln_f", norm));
    }

    private static DecoderBlock Block(ModelConfig config, int layer, long width, bool isBigCode)
    {
        var stem = config.Family.Stem;
        var heads = config.Size("n_head", 12);
        var shape = Scaled(DecoderAttention.ShapeOf(width, heads, config.Boolean("multi_query") == true ? 1 : heads, Probability(config, "attn_pdrop")), config, layer);
        var inner = config.Size("n_inner", 4 * width);
        var (attentionNorm, mlpNorm) = (Norm(config, width), Norm(config, width));
        var (attentionDropout, mlpDropout) = (Dropped(config, "resid_pdrop"), Dropped(config, "resid_pdrop"));
        var (projections, output) = (Layer(width, shape.AllHeads * shape.HeadSize), Layer(width, width));
        var (up, down) = (Layer(width, inner), Layer(inner, width));
        var activation = new Activation(config.String("activation_function") ?? "gelu_new");
        var order = isBigCode ? HeadOrder.ByKeyValueHead(shape) : HeadOrder.SideBySide(shape);
        var attention = new DecoderAttention(shape, layer, DecoderAttention.Ordered(projections, order), output) { Dropout = attentionDropout };
        return new DecoderBlock(
            stem + "Block",
            new BlockParts(attentionNorm, attention, mlpNorm, DecoderMlps.Plain(up, activation, down, mlpDropout)),
            ("ln_1", attentionNorm),
            ("attn", new Branch(
                stem + "Attention",
                ("c_attn", projections),
                ("c_proj", output),
                ("attn_dropout", isBigCode ? null : new Dropout(shape.Dropout)),
                ("resid_dropout", attentionDropout))),
            ("ln_2", mlpNorm),
            ("mlp", new Branch(stem + "MLP", ("c_fc", up), ("c_proj", down), ("act", activation), ("dropout", mlpDropout))));

        Linear Layer(long inputs, long outputs) => new(inputs, outputs, hasBias: true, isTransposed: !isBigCode);
    }

    private static AttentionShape Scaled(AttentionShape shape, ModelConfig config, int layer)
    {
        var scale = config.Boolean("scale_attn_weights") == false ? 1 : shape.Scale;
        return shape with { Scale = config.Boolean("scale_attn_by_inverse_layer_idx") == true ? scale / (layer + 1) : scale };
    }

    private static void RefuseEncoder(ModelConfig config)
    {
        if (config.Boolean("add_cross_attention") == true)
        {
            throw new NotSupportedByPeftException("ArchitectureNotSupported", "A GPT-2 that reads an encoder (add_cross_attention) is not supported.")
            {
                Target = "add_cross_attention",
                RecommendedAction = "Use a model without cross-attention.",
            };
        }
    }

    private static LayerNorm Norm(ModelConfig config, long width) => new(width, config.Number("layer_norm_epsilon") ?? 1e-5);

    private static Dropout Dropped(ModelConfig config, string key) => new(Probability(config, key));

    private static double Probability(ModelConfig config, string key) => config.Number(key) ?? 0.1;
}
