using Peft.Models.Layers;

namespace Peft.Models.Architectures;

/// <summary>GPT-Neo (Black et al. 2021): GPT-2 with layers in turn that see all positions and a window of the last; scores are not scaled.</summary>
internal static class GptNeo
{
    public static Family Row { get; } = new("gpt_neo", "GPTNeo", Model)
    {
        Prefix = "transformer",
        Heads = HeadRow.DecoderWith(tokenHead: "classifier"),
        OtherNames = new Dictionary<string, string> { ["num_layers"] = "num_hidden_layers", ["num_heads"] = "num_attention_heads" },
    };

    private static DecoderModel Model(ModelConfig config)
    {
        var width = config.Size("hidden_size", 2048);
        var tokens = new Embedding(config.Size("vocab_size", 50257), width);
        var positions = new Embedding(config.Size("max_position_embeddings", 2048), width);
        var dropout = new Dropout(config.Number("embed_dropout") ?? 0);
        var kinds = Kinds(config);
        var blocks = DecoderModel.Stack(config, "num_layers", 24, layer => Block(config, layer, width, kinds.Count > 0 ? kinds[layer % kinds.Count] : "global"));
        var norm = Norm(config, width);
        var parts = new DecoderParts(tokens, blocks) { Begin = LearnedPositions.AddedAndDropped(positions, dropout), End = norm.Forward };
        return new DecoderModel(config, parts, ("wte", tokens), ("wpe", positions), ("drop", dropout), ("h", blocks), ("ln_f", norm));
    }

    private static DecoderBlock Block(ModelConfig config, int layer, long width, string kind)
    {
        var shape = DecoderAttention.ShapeOf(width, config.Size("num_heads", 16), dropout: config.Number("attention_dropout")) with { Scale = 1 };
        var inner = config.Size("intermediate_size", 4 * width);
        var (attentionNorm, mlpNorm) = (Norm(config, width), Norm(config, width));
        var (attentionDropout, mlpDropout) = (Dropped(), Dropped());
        var (queries, keys, values) = (new Linear(width, width), new Linear(width, width), new Linear(width, width));
        var output = new Linear(width, width, hasBias: true);
        var (up, down) = (new Linear(width, inner, hasBias: true), new Linear(inner, width, hasBias: true));
        var activation = new Activation(config.String("activation_function") ?? "gelu_new");
        var self = new Branch(
            "GPTNeoSelfAttention",
            ("attn_dropout", new Dropout(shape.Dropout)),
            ("resid_dropout", attentionDropout),
            ("k_proj", keys),
            ("v_proj", values),
            ("q_proj", queries),
            ("out_proj", output));
        var attention = new DecoderAttention(shape, layer, self.Joining(queries, keys, values).Forward, output)
        {
            Dropout = attentionDropout,
            Window = kind == "local" ? config.Size("window_size", 256) : 0,
        };
        return new DecoderBlock(
            "GPTNeoBlock",
            new BlockParts(attentionNorm, attention, mlpNorm, DecoderMlps.Plain(up, activation, down, mlpDropout)),
            ("ln_1", attentionNorm),
            ("attn", new Branch("GPTNeoAttention", ("attention", self))),
            ("ln_2", mlpNorm),
            ("mlp", new Branch("GPTNeoMLP", ("c_fc", up), ("c_proj", down), ("act", activation), ("dropout", mlpDropout))));

        Dropout Dropped() => new(config.Number("resid_dropout") ?? 0);
    }

    /// <summary>What layers see, in order: <c>attention_layers</c>, or lists with how often each stands there (<c>attention_types</c>).</summary>
    private static IReadOnlyList<string> Kinds(ModelConfig config)
    {
        if (config.Texts("attention_layers") is { Count: > 0 } layers)
        {
            return layers;
        }

        if (config.Node("attention_types") is not { } types)
        {
            return ["global", "local"];
        }

        try
        {
            return [.. types.AsArray().SelectMany(static entry =>
            {
                var (kinds, times) = (entry!.AsArray()[0]!.AsArray(), Math.Min(entry.AsArray()[1]!.GetValue<int>(), 10_000));
                return Enumerable.Repeat(kinds, times).SelectMany(static kinds => kinds.Select(static kind => kind!.GetValue<string>()));
            })];
        }
        catch (Exception error) when (error is InvalidOperationException or FormatException or NullReferenceException or ArgumentOutOfRangeException)
        {
            throw new PeftException("ModelConfigInvalid", "'attention_types' of the model's configuration must be a list of [kinds, number].", error) { Target = "attention_types" };
        }
    }

    private static LayerNorm Norm(ModelConfig config, long width) => new(width, config.Number("layer_norm_epsilon") ?? 1e-5);
}
