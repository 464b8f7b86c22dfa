using System.Text.Json.Nodes;
using Peft.Models.Gguf;
using Peft.Models.Heads;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Models.Architectures;

/// <summary>MPT (MosaicML 2023): scores that fall with the distance, no biases. Of its configuration's options transformers computes clipping and the scale alone.</summary>
internal static class Mpt
{
    public static Family Row { get; } = new("mpt", "Mpt", Model)
    {
        Gguf = GgufDecoderMaps.Mpt,
        Prefix = "transformer",
        Heads = [new("ForCausalLM", "CAUSAL_LM", static (config, name) => new CausalModel(config, name, scales: false)), .. HeadRow.DecoderWith(tokenHead: "classifier").Skip(1)],
        OtherNames = new Dictionary<string, string> { ["d_model"] = "hidden_size", ["n_layers"] = "num_hidden_layers", ["n_heads"] = "num_attention_heads" },
    };

    private static DecoderModel Model(ModelConfig config)
    {
        var width = config.Size("d_model", 2048);
        var options = new ModelConfig(config.Node("attn_config") as JsonObject ?? []);
        var shape = DecoderAttention.ShapeOf(width, config.Size("n_heads", 16), dropout: options.Number("attn_pdrop"));
        shape = shape with { Scale = options.Number("softmax_scale") ?? shape.Scale };
        var tokens = new Embedding(config.Size("vocab_size", 50368), width);
        var blocks = DecoderModel.Stack(config, "n_layers", 24, layer => Block(config, shape, layer, options.Number("clip_qkv") ?? 0));
        var norm = Norm(config, width);
        var parts = new DecoderParts(tokens, blocks) { End = norm.Forward, Alibi = new Alibi(shape.Heads) };
        return new DecoderModel(config, parts, ("wte", tokens), ("blocks", blocks), ("norm_f", norm));
    }

    private static DecoderBlock Block(ModelConfig config, AttentionShape shape, int layer, double clip)
    {
        var width = shape.Heads * shape.HeadSize;
        var (attentionNorm, mlpNorm) = (Norm(config, width), Norm(config, width));
        var (projections, output) = (new Linear(width, 3 * width), new Linear(width, width));
        var (up, down) = (new Linear(width, 4 * width), new Linear(4 * width, width));
        var activation = new Activation("gelu", "GELU", "approximate='none'");
        var dropout = new Dropout(shape.Dropout, printsWhole: true);
        var attention = new DecoderAttention(shape, layer, Clipped(projections, shape, clip), output) { Dropout = dropout };
        return new DecoderBlock(
            "MptBlock",
            new BlockParts(attentionNorm, attention, mlpNorm, DecoderMlps.Plain(up, activation, down, dropout)),
            ("norm_1", attentionNorm),
            ("attn", new Branch("MptAttention", ("Wqkv", projections), ("out_proj", output))),
            ("norm_2", mlpNorm),
            ("ffn", new Branch("MptMLP", ("up_proj", up), ("act", activation), ("down_proj", down))),
            ("resid_attn_dropout", dropout));
    }

    private static Func<Tensor, ForwardContext, Tensor> Clipped(Linear projections, AttentionShape shape, double clip) => clip == 0
        ? DecoderAttention.Ordered(projections, HeadOrder.SideBySide(shape))
        : (x, context) => ParameterTensor.Run(values => values[0].clamp(-clip, clip), [projections.Forward(x, context)], [], context);

    private static LayerNorm Norm(ModelConfig config, long width) => new(width, config.Number("layer_norm_epsilon") ?? 1e-5, hasBias: false);
}
