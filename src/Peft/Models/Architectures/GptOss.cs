using System.Text.Json.Nodes;
using Peft.Models.Layers;
using Peft.Models.Steps;
using static TorchSharp.torch;

namespace Peft.Models.Architectures;

/// <summary>gpt-oss (OpenAI 2025): sinks beside the scores, every other layer within a window, and experts with biases and a clamped SwiGLU.</summary>
internal static class GptOss
{
    public static LlamaTraits Traits { get; } = new(HasWindow: true)
    {
        HasSinks = true,
        FullEvery = 2,
        FeedForward = static (config, _) =>
        {
            var sizes = new ExpertSizes(Mixture.Count(config, "num_local_experts", "num_experts"), config.HiddenSize, config.InnerSize) { IsTransposed = true, HasBias = true };
            var block = new SparseBlock(sizes.Count, sizes.InnerSize, new RouterRule(Chosen(config), RouterScores.SoftmaxOfChosen))
            {
                ClassSuffix = "MLP",
                Router = "router",
                MakeExperts = () => new GptOssExperts(sizes, config.Source.Number("swiglu_alpha") ?? 1.702, config.Source.Number("swiglu_limit") ?? 7),
            };
            return Mixture.Block(config, block);
        },
    };

    public static JsonObject Defaults { get; } = ArchitectureRegistry.Defaults("""
        {
            "vocab_size": 201088, "hidden_size": 2880, "intermediate_size": 2880, "num_hidden_layers": 36, "num_attention_heads": 64,
            "num_key_value_heads": 8, "head_dim": 64, "sliding_window": 128, "rms_norm_eps": 1e-5, "max_position_embeddings": 131072,
            "rope_theta": 150000.0, "attention_bias": true, "num_local_experts": 128,
            "rope_scaling": {
                "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": false, "original_max_position_embeddings": 4096
            }
        }
        """);

    private static long Chosen(LlamaConfig config) => config.Source.Size("num_experts_per_tok", config.Source.Size("experts_per_token", 4, most: 4096), most: 4096);
}

/// <summary>Experts whose gate and up stand in turn, with (up + 1) · gate · sigmoid(alpha · gate), gate clamped from above and up on both sides.</summary>
internal sealed class GptOssExperts(ExpertSizes sizes, double alpha, double limit) : Experts(sizes, "GptOssExperts", new Activation("silu"), listsActivation: false)
{
    protected override Tensor Activate(Tensor projections, ForwardContext context) => context.Tape is { } tape
        ? tape.Autograd(inputs => Form(inputs[0]), [projections], [])
        : Form(projections);

    private protected override ExpertGate? Gate { get; } = new ClampedExpertGate((float)alpha, (float)limit);

    private Tensor Form(Tensor projections)
    {
        var pairs = projections.view(projections.size(0), -1, 2);
        var gate = pairs.select(2, 0).clamp_max(limit);
        var up = pairs.select(2, 1).clamp(-limit, limit);
        return (up + 1) * gate * (gate * alpha).sigmoid();
    }
}
