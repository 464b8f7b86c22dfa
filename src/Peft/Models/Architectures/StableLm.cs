using Peft.Models.Gguf;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Models.Architectures;

/// <summary>
/// StableLM (Bellagente et al. 2024): Llama's layers between layer norms, a part of each head turning; the 12B model has its halves side by side
/// and a norm for every head.
/// </summary>
internal static class StableLm
{
    public static Family Row { get; } = new("stablelm", "StableLm", Model) { Gguf = GgufDecoderMaps.StableLm, Defaults = ArchitectureRegistry.Defaults("{}") };

    private static DecoderModel Model(ModelConfig config)
    {
        var width = config.Size("hidden_size", 2560);
        var heads = config.Size("num_attention_heads", 32);
        var shape = DecoderAttention.ShapeOf(width, heads, config.Size("num_key_value_heads", 32), config.Number("attention_dropout"));
        var tokens = new Embedding(config.Size("vocab_size", 50304), width, config.Integer("pad_token_id"));
        var blocks = DecoderModel.Stack(config, "num_hidden_layers", 32, layer => Block(config, shape, layer));
        var norm = Norm(config, width);
        var rotary = new RotaryEmbedding(new RotaryFrequencies(config, shape.HeadSize, partial: 0.25), "StableLmRotaryEmbedding");
        var parts = new DecoderParts(tokens, blocks) { End = norm.Forward, Rotary = rotary };
        return new DecoderModel(config, parts, ("embed_tokens", tokens), ("layers", blocks), ("norm", norm), ("rotary_emb", rotary));
    }

    private static DecoderBlock Block(ModelConfig config, AttentionShape shape, int layer)
    {
        var width = shape.Heads * shape.HeadSize;
        var isParallel = config.Boolean("use_parallel_residual") ?? false;
        var inner = config.Size("intermediate_size", 6912);
        var dropout = new Dropout(config.Number("hidden_dropout") ?? 0);
        var (attentionNorm, mlpNorm) = (Norm(config, width), isParallel ? null : Norm(config, width));
        var (gate, up, down) = (new Linear(width, inner), new Linear(width, inner), new Linear(inner, width));
        var activation = new Activation(config.String("hidden_act") ?? "silu");
        var mlp = new Branch("StableLmMLP", ("gate_proj", gate), ("up_proj", up), ("down_proj", down), ("act_fn", activation));
        var (self, attention) = Attention(config, shape, layer);
        var parts = new BlockParts(attentionNorm, attention, mlpNorm, DecoderMlps.Gated(mlp.Joining(gate, up), activation, down, dropout))
        {
            Form = isParallel ? BlockForm.SideBySide : BlockForm.OneAfterTheOther,
        };
        return new DecoderBlock(
            "StableLmDecoderLayer",
            parts,
            ("self_attn", self),
            ("mlp", mlp),
            ("input_layernorm", attentionNorm),
            ("post_attention_layernorm", mlpNorm),
            ("dropout", dropout));
    }

    private static (Branch Branch, DecoderAttention Attention) Attention(ModelConfig config, AttentionShape shape, int layer)
    {
        var width = shape.Heads * shape.HeadSize;
        var shared = shape.KeyValueHeads * shape.HeadSize;
        var hasBias = config.Boolean("use_qkv_bias") ?? false;
        var (queries, keys, values) = (new Linear(width, width, hasBias), new Linear(width, shared, hasBias), new Linear(width, shared, hasBias));
        var output = new Linear(width, width);
        var (queryNorms, keyNorms) = config.Boolean("qk_layernorm") == true
            ? (Norms(config, shape.Heads, shape.HeadSize), Norms(config, shape.KeyValueHeads, shape.HeadSize))
            : (null, null);
        var branch = new Branch(
            "StableLmAttention",
            ("q_proj", queries),
            ("k_proj", keys),
            ("v_proj", values),
            ("o_proj", output),
            ("q_layernorm", Listed(queryNorms)),
            ("k_layernorm", Listed(keyNorms)));
        return (branch, new DecoderAttention(shape, layer, branch.Joining(queries, keys, values).Forward, output)
        {
            Norms = queryNorms is null || keyNorms is null ? null : (Each(queryNorms), Each(keyNorms)),
        });
    }

    private static Branch? Listed(ModuleList<LayerNorm>? norms) => norms is null ? null : new Branch("StableLmLayerNormPerHead", ("norms", norms));

    private static ModuleList<LayerNorm> Norms(ModelConfig config, long heads, long size) =>
        new(Enumerable.Range(0, (int)heads).Select(_ => new LayerNorm(size, config.Number("layer_norm_eps") ?? 1e-5, hasBias: false)));

    // A norm of its own for each head.
    private static Func<Tensor, ForwardContext, Tensor> Each(ModuleList<LayerNorm> norms) => (x, context) =>
    {
        var size = x.size(1) / norms.Items.Count;
        var heads = Splitting.Forward(x, [.. norms.Items.Select(_ => size)], context);
        return Concatenation.Forward([.. norms.Items.Zip(heads, (norm, head) => norm.Forward(head, context))], context);
    };

    private static LayerNorm Norm(ModelConfig config, long width) => new(width, config.Number("layer_norm_eps") ?? 1e-5);
}
