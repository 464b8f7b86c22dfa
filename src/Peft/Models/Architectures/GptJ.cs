using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Models.Architectures;

/// <summary>
/// GPT-J (Wang and Komatsuzaki 2021) and CodeGen (Nijkamp et al. 2022): neighbouring elements of a part of each head turn together, and
/// attention stands beside the MLP below one norm. CodeGen holds q, k and v as one layer, cut into four as it was for the processors it was trained on.
/// </summary>
internal static class GptJ
{
    private const long CodeGenGroups = 4;

    public static IReadOnlyList<Family> Rows { get; } =
    [
        new("gptj", "GPTJ", static config => Model(config, isJoined: false))
        {
            Prefix = "transformer",
            Heads = HeadRow.DecoderWith(causalBias: true),
            Defaults = ArchitectureRegistry.Defaults("{}"),
        },
        new("codegen", "CodeGen", static config => Model(config, isJoined: true))
        {
            Prefix = "transformer",
            Heads = HeadRow.DecoderWith(causalBias: true),
            Defaults = ArchitectureRegistry.Defaults("{}"),
        },
    ];

    private static DecoderModel Model(ModelConfig config, bool isJoined)
    {
        var width = config.Size("n_embd", 4096);
        var shape = DecoderAttention.ShapeOf(width, config.Size("n_head", 16), dropout: config.Number("attn_pdrop"));
        if (isJoined && shape.Heads % CodeGenGroups != 0)
        {
            throw new PeftException("ModelConfigInvalid", FormattableString.Invariant($"CodeGen's heads stand in {CodeGenGroups} groups, which {shape.Heads} don't fill evenly."));
        }

        var rotarySize = config.Size("rotary_dim", 64);
        if (rotarySize > shape.HeadSize)
        {
            throw new PeftException("ModelConfigInvalid", FormattableString.Invariant($"Rotary positions can't turn {rotarySize} of the {shape.HeadSize} elements of a head."))
            {
                Target = "rotary_dim",
            };
        }

        var tokens = new Embedding(config.Size("vocab_size", 50400), width);
        var dropout = new Dropout(config.Number("embd_pdrop") ?? 0);
        var blocks = DecoderModel.Stack(config, "n_layer", 28, layer => Block(config, shape, layer, isJoined));
        var norm = Norm(config, width);
        var parts = new DecoderParts(tokens, blocks)
        {
            Begin = dropout.Forward,
            End = norm.Forward,
            Rotary = new RotaryEmbedding(new RotaryFrequencies(config, rotarySize), "RotaryEmbedding", isInterleaved: true),
        };
        return new DecoderModel(config, parts, ("wte", tokens), ("drop", dropout), ("h", blocks), ("ln_f", norm));
    }

    private static DecoderBlock Block(ModelConfig config, AttentionShape shape, int layer, bool isJoined)
    {
        var width = shape.Heads * shape.HeadSize;
        var inner = config.Size("n_inner", 4 * width);
        var stem = config.Family.Stem;
        var norm = Norm(config, width);
        var output = new Linear(width, width);
        var (attentionDropout, mlpDropout) = (new Dropout(config.Number("resid_pdrop") ?? 0), new Dropout(config.Number("resid_pdrop") ?? 0));
        var (self, project) = Attention(stem + "Attention", shape, attentionDropout, output, isJoined);
        var attention = new DecoderAttention(shape, layer, project, output) { Dropout = attentionDropout };
        var (up, down) = (new Linear(width, inner, hasBias: true), new Linear(inner, width, hasBias: true));
        var activation = new Activation(config.String("activation_function") ?? "gelu_new");
        var parts = new BlockParts(norm, attention, null, DecoderMlps.Plain(up, activation, down, mlpDropout)) { Form = BlockForm.SideBySide };
        return new DecoderBlock(
            stem + "Block",
            parts,
            ("ln_1", norm),
            ("attn", self),
            ("mlp", new Branch(stem + "MLP", ("fc_in", up), ("fc_out", down), ("act", activation), ("dropout", mlpDropout))));
    }

    private static (Branch Branch, Func<Tensor, ForwardContext, Tensor> Project) Attention(string className, AttentionShape shape, Dropout dropout, Linear output, bool isJoined)
    {
        var width = shape.Heads * shape.HeadSize;
        (string, Module?)[] first = [("attn_dropout", new Dropout(shape.Dropout)), ("resid_dropout", dropout)];
        if (isJoined)
        {
            var part = width / CodeGenGroups;
            var order = new HeadOrder(CodeGenGroups, [(HeadPart.Queries, part), (HeadPart.Values, part), (HeadPart.Keys, part)]);
            var projections = new Linear(width, 3 * width);
            return (new Branch(className, [.. first, ("qkv_proj", projections), ("out_proj", output)]), DecoderAttention.Ordered(projections, order));
        }

        var (queries, keys, values) = (new Linear(width, width), new Linear(width, width), new Linear(width, width));
        var branch = new Branch(className, [.. first, ("k_proj", keys), ("v_proj", values), ("q_proj", queries), ("out_proj", output)]);
        return (branch, branch.Joining(queries, keys, values).Forward);
    }

    private static LayerNorm Norm(ModelConfig config, long width) => new(width, config.Number("layer_norm_epsilon") ?? 1e-5);
}
