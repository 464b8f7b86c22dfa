using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Models.Architectures;

/// <summary>
/// OPT (Zhang et al. 2022): learned positions, counted over what is no padding; norms before the halves of a block or (350M) behind them, and
/// vectors of tokens that may be narrower than the model.
/// </summary>
internal static class Opt
{
    // Rows at the beginning of the table of positions that no position uses; padding's is the second.
    private const long PositionOffset = 2;

    private const double NormEpsilon = 1e-5;

    public static Family Row { get; } = new("opt", "OPT", Model)
    {
        Defaults = new() { ["pad_token_id"] = 1 },
    };

    private static DecoderModel Model(ModelConfig config)
    {
        if (config.Boolean("layer_norm_elementwise_affine") == false)
        {
            throw new NotSupportedByPeftException("ArchitectureNotSupported", "An OPT whose norms have no weights (layer_norm_elementwise_affine) is not supported.")
            {
                Target = "layer_norm_elementwise_affine",
                RecommendedAction = "Use a model whose norms have weights.",
            };
        }

        var width = config.Size("hidden_size", 768);
        var tokenWidth = config.Size("word_embed_proj_dim", width);
        var normsBefore = config.Boolean("do_layer_norm_before") ?? true;
        var tokens = new Embedding(config.Size("vocab_size", 50272), tokenWidth, config.Integer("pad_token_id"));
        var positions = new Embedding(config.Size("max_position_embeddings", 2048) + PositionOffset, width, className: "OPTLearnedPositionalEmbedding");
        var (projectOut, projectIn) = tokenWidth == width ? (null, null) : (new Linear(width, tokenWidth), new Linear(tokenWidth, width));
        var norm = normsBefore && config.Boolean("_remove_final_layer_norm") != true ? new LayerNorm(width, NormEpsilon) : null;
        var shape = DecoderAttention.ShapeOf(width, config.Size("num_attention_heads", 12), dropout: config.Number("attention_dropout"));
        var blocks = DecoderModel.Stack(config, "num_hidden_layers", 12, layer => Block(config, shape, normsBefore, layer));
        var parts = new DecoderParts(tokens, blocks)
        {
            Begin = (x, context) => ResidualSum.Forward(projectIn?.Forward(x, context) ?? x, Positions(positions, x.device, context), context),
            End = (x, context) =>
            {
                x = norm?.Forward(x, context) ?? x;
                return projectOut?.Forward(x, context) ?? x;
            },
        };
        return new DecoderModel(config, parts, ("decoder", new Branch(
            "OPTDecoder",
            ("embed_tokens", tokens),
            ("embed_positions", positions),
            ("project_out", projectOut),
            ("project_in", projectIn),
            ("final_layer_norm", norm),
            ("layers", blocks))));
    }

    private static DecoderBlock Block(ModelConfig config, AttentionShape shape, bool normsBefore, int layer)
    {
        var width = shape.Heads * shape.HeadSize;
        var hasBias = config.Boolean("enable_bias") ?? true;
        var inner = config.Size("ffn_dim", 3072);
        var (queries, keys, values, output) = (Square(), Square(), Square(), Square());
        var (up, down) = (new Linear(width, inner, hasBias), new Linear(inner, width, hasBias));
        var (attentionNorm, mlpNorm) = (new LayerNorm(width, NormEpsilon), new LayerNorm(width, NormEpsilon));
        var activation = new Activation(config.String("activation_function") ?? "relu");
        var dropout = new Dropout(config.Number("dropout") ?? 0.1);
        var self = new Branch("OPTAttention", ("k_proj", keys), ("v_proj", values), ("q_proj", queries), ("out_proj", output));
        var attention = new DecoderAttention(shape, layer, self.Joining(queries, keys, values).Forward, output) { Dropout = dropout };
        var parts = new BlockParts(attentionNorm, attention, mlpNorm, DecoderMlps.Plain(up, activation, down, dropout))
        {
            Form = normsBefore ? BlockForm.OneAfterTheOther : BlockForm.NormsAfterwards,
        };
        return new DecoderBlock(
            "OPTDecoderLayer",
            parts,
            ("self_attn", self),
            ("activation_fn", activation),
            ("self_attn_layer_norm", attentionNorm),
            ("fc1", up),
            ("fc2", down),
            ("final_layer_norm", mlpNorm));

        Linear Square() => new(width, width, hasBias);
    }

    private static Tensor Positions(Embedding table, Device device, ForwardContext context)
    {
        using var scope = NewDisposeScope();
        var counted = context is { Positions: null, AttentionMask: { } mask }
            ? context with { Positions = LearnedPositions.Counted(mask.to(device)).narrow(1, context.Start, context.Length) }
            : context;
        return LearnedPositions.Forward(table, counted, device, PositionOffset).MoveToOuterDisposeScope();
    }
}
