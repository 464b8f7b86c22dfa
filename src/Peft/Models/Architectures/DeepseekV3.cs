using System.Text.Json.Nodes;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Models.Architectures;

/// <summary>DeepSeek-V3 (DeepSeek-AI 2024): latent attention, experts chosen in groups, and experts that every token visits.</summary>
internal static class DeepseekV3
{
    public static LlamaTraits Traits { get; } = new()
    {
        RotarySize = "qk_rope_head_dim",
        IsInterleaved = true,
        Mixer = static (config, layer) => new DeepseekV3Attention(config, layer),
        FeedForward = static (config, layer) => layer < config.Source.Size("first_k_dense_replace", 3, least: 0)
            ? new LlamaMLP(config)
            : Mixture.Block(config, Block(config)),
    };

    public static JsonObject Defaults { get; } = ArchitectureRegistry.Defaults("""
        {
            "vocab_size": 129280, "hidden_size": 7168, "intermediate_size": 18432, "num_hidden_layers": 61, "num_attention_heads": 128,
            "max_position_embeddings": 4096, "q_lora_rank": 1536, "num_experts_per_tok": 8, "norm_topk_prob": true
        }
        """);

    /// <summary>GLM-4.5 to 4.7: these experts, over Llama's attention with a part of the head turned and heads normed where the configuration says so.</summary>
    public static LlamaTraits Glm(ModelConfig source) => new(HasHeadNorms: source.Boolean("use_qk_norm") ?? false)
    {
        HasOutputBias = false,
        RotaryShare = 0.5,
        FeedForward = Traits.FeedForward,
    };

    public static JsonObject GlmDefaults { get; } = ArchitectureRegistry.Defaults("""
        {
            "vocab_size": 151552, "intermediate_size": 10944, "num_hidden_layers": 46, "num_attention_heads": 96, "num_key_value_heads": 8,
            "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "moe_intermediate_size": 1408, "num_experts_per_tok": 8, "n_routed_experts": 128, "norm_topk_prob": true,
            "routed_scaling_factor": 1.0, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1
        }
        """);

    private static SparseBlock Block(LlamaConfig config)
    {
        var source = config.Source;
        var inner = source.Size("moe_intermediate_size", 2048);
        var rule = new RouterRule(Mixture.Chosen(config), RouterScores.Sigmoid)
        {
            Normalises = source.Boolean("norm_topk_prob") ?? true,
            Epsilon = 1e-20,
            Scale = source.Number("routed_scaling_factor") ?? 2.5,
            Groups = source.Size("n_group", 8, most: 4096),
            ChosenGroups = source.Size("topk_group", 4, most: 4096),
        };
        return new SparseBlock(Mixture.Count(config, "n_routed_experts", "num_local_experts"), inner, rule)
        {
            ClassSuffix = "MoE",
            ListsExpertsFirst = true,
            Correction = "e_score_correction_bias",
            Shared = () => new LlamaMLP(config, inner * source.Size("n_shared_experts", 1, most: 64)),
            SharedName = "shared_experts",
        };
    }
}

/// <summary>
/// Attention whose keys and values come from a latent of low rank, with one rotary key for all heads (DeepSeek-AI 2024, section 2.1): the
/// cache keeps latents and that key.
/// </summary>
internal sealed class DeepseekV3Attention : LlamaMixer
{
    private const double LatentEpsilon = 1e-6;

    private readonly AttentionShape _shape;
    private readonly Linear? _query;
    private readonly Linear? _queryDown;
    private readonly RmsNorm? _queryNorm;
    private readonly Linear? _queryUp;
    private readonly Linear _latent;
    private readonly RmsNorm _latentNorm;
    private readonly Linear _up;
    private readonly Linear _output;
    private readonly long _rank;
    private readonly long _plainSize;
    private readonly long _rotarySize;

    public DeepseekV3Attention(LlamaConfig config, int layer)
        : base(config.Stem + "Attention", layer)
    {
        var source = config.Source;
        _rank = source.Size("kv_lora_rank", 512);
        _plainSize = source.Size("qk_nope_head_dim", 128);
        _rotarySize = source.Size("qk_rope_head_dim", 64);
        var heads = config.Attention.Heads;
        var size = _plainSize + _rotarySize;
        _shape = new AttentionShape(heads, heads, size, Scale(source) / Math.Sqrt(size)) { ValueSize = source.Size("v_head_dim", 128) };
        if (source.Integer("q_lora_rank") is not null)
        {
            var queryRank = source.Size("q_lora_rank", 1536);
            _queryDown = Add("q_a_proj", new Linear(config.HiddenSize, queryRank, config.AttentionBias));
            _queryNorm = Add("q_a_layernorm", new RmsNorm(queryRank, LatentEpsilon, config.Stem + "RMSNorm"));
            _queryUp = Add("q_b_proj", new Linear(queryRank, heads * size));
        }
        else
        {
            _query = Add("q_proj", new Linear(config.HiddenSize, heads * size));
        }

        _latent = Add("kv_a_proj_with_mqa", new Linear(config.HiddenSize, _rank + _rotarySize, config.AttentionBias));
        _latentNorm = Add("kv_a_layernorm", new RmsNorm(_rank, LatentEpsilon, config.Stem + "RMSNorm"));
        _up = Add("kv_b_proj", new Linear(_rank, heads * (_plainSize + _shape.ValueSize)));
        _output = Add("o_proj", new Linear(heads * _shape.ValueSize, config.HiddenSize, config.AttentionBias));
    }

    public override Tensor Forward(Tensor x, Tensor? residual, LlamaPass pass, ForwardContext context)
    {
        var queries = _query?.Forward(x, context) ?? _queryUp!.Forward(_queryNorm!.Forward(_queryDown!.Forward(x, context), context), context);
        queries = pass.Rotary!.Forward(Formed(inputs => RotaryFirst(inputs[0]), [queries], context), _shape.HeadSize, context);
        var parts = Splitting.Forward(_latent.Forward(x, context), [_rank, _rotarySize], context);
        var latents = _latentNorm.Forward(parts[0], context);
        var turned = pass.Rotary!.Forward(parts[1], _rotarySize, context);
        var all = context;
        if (context.Cache is { } cache)
        {
            var (oldLatents, oldTurned) = cache.State<KeyValueState>(Layer).Append(PerRow(latents, context), PerRow(turned, context), cache.Length);
            (latents, turned) = (oldLatents.reshape(-1, _rank), oldTurned.reshape(-1, _rotarySize));
            all = context with { Length = oldLatents.size(2) };
        }

        var expanded = _up.Forward(latents, all);
        var keys = Formed(inputs => Keys(inputs[0], inputs[1]), [expanded, turned], context);
        var values = Formed(inputs => Heads(inputs[0]).narrow(2, _plainSize, _shape.ValueSize).reshape(inputs[0].size(0), -1), [expanded], context);

        // Keys and values are whole: the cache has been asked already.
        var attended = Attention.Forward(queries, keys, values, _shape, null, pass.Plans[0], Layer, context with { Cache = null });
        return _output.Forward(attended, context, residual);
    }

    private static Tensor Formed(Func<IReadOnlyList<Tensor>, Tensor> form, Tensor[] inputs, ForwardContext context) =>
        context.Tape is { } tape ? tape.Autograd(form, inputs, []) : form(inputs);

    private static Tensor PerRow(Tensor x, ForwardContext context) => x.view(context.Rows, 1, context.Length, -1);

    // Turned elements go first, as the tables expect; scores don't depend on the order.
    private Tensor RotaryFirst(Tensor queries)
    {
        var heads = queries.view(queries.size(0), _shape.Heads, _shape.HeadSize);
        return cat([heads.narrow(2, _plainSize, _rotarySize), heads.narrow(2, 0, _plainSize)], 2).view(queries.shape);
    }

    private Tensor Keys(Tensor expanded, Tensor turned) => cat(
        [turned.unsqueeze(1).expand(turned.size(0), _shape.Heads, _rotarySize), Heads(expanded).narrow(2, 0, _plainSize)], 2).view(turned.size(0), -1);

    private Tensor Heads(Tensor expanded) => expanded.view(expanded.size(0), _shape.Heads, _plainSize + _shape.ValueSize);

    // YaRN's attention factor acts on scores where mscale_all_dim is given.
    private static double Scale(ModelConfig source)
    {
        var rotary = new ModelConfig(source.Node("rope_parameters") as JsonObject ?? source.Node("rope_scaling") as JsonObject ?? []);
        var kind = rotary.String("rope_type") ?? rotary.String("type") ?? "default";
        if (kind == "default" || rotary.Number("mscale_all_dim") is not { } all || all == 0 || (rotary.Number("factor") ?? 1) is not (> 1 and var factor))
        {
            return 1;
        }

        var grown = (0.1 * all * Math.Log(factor)) + 1;
        return grown * grown;
    }
}
