using System.Text.Json.Nodes;
using Peft.Models;

namespace Peft.Diffusion.Models;

/// <summary>What a UNet's configuration says, in diffusers' names; what it leaves out is as in diffusers.</summary>
internal sealed class UNetConfig
{
    // What changes the structure or the pass, and the values with which nothing changes.
    private static readonly (string Key, string[] Known)[] s_fixed =
    [
        ("class_embed_type", ["null"]), ("encoder_hid_dim_type", ["null"]), ("time_embedding_type", ["positional"]), ("time_cond_proj_dim", ["null"]),
        ("mid_block_type", ["UNetMidBlock2DCrossAttn"]), ("resnet_time_scale_shift", ["default"]), ("cross_attention_norm", ["null"]), ("act_fn", ["silu"]),
        ("dual_cross_attention", ["false"]), ("only_cross_attention", ["false"]), ("addition_embed_type", ["null", "text_time"]), ("attention_type", ["default"]),
        ("num_class_embeds", ["null"]), ("encoder_hid_dim", ["null"]), ("resnet_skip_time_act", ["false"]), ("center_input_sample", ["false"]),
        ("time_embedding_act_fn", ["null"]), ("timestep_post_act", ["null"]), ("conv_in_kernel", ["3"]), ("conv_out_kernel", ["3"]),
        ("mid_block_only_cross_attention", ["null", "false"]), ("class_embeddings_concat", ["false"]), ("time_embedding_dim", ["null"]), ("downsample_padding", ["1"]),
    ];

    public UNetConfig(ModelConfig config)
    {
        foreach (var (key, known) in s_fixed)
        {
            RefuseOther(config, key, known);
        }

        InputChannels = config.Size("in_channels", 4);
        OutputChannels = config.Size("out_channels", 4);
        Channels = [.. config.Numbers("block_out_channels")?.Select(static number => (long)number) ?? [320, 640, 1280, 1280]];
        Groups = config.Size("norm_num_groups", 32);
        Epsilon = config.Number("norm_eps") ?? 1e-5;
        LayersPerBlock = PerBlock(config, "layers_per_block", 2);
        Heads = PerBlock(config, config.Node("num_attention_heads") is null ? "attention_head_dim" : "num_attention_heads", 8);
        CrossWidths = PerBlock(config, "cross_attention_dim", 1280);
        Transformers = PerBlock(config, "transformer_layers_per_block", 1);
        UpTransformers = config.Node("reverse_transformer_layers_per_block") is null ? [.. Transformers.Reverse()] : PerBlock(config, "reverse_transformer_layers_per_block", 1);
        DownHaveAttention = HaveAttention(config, "down_block_types", ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"]);
        UpHaveAttention = HaveAttention(config, "up_block_types", ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"]);
        LinearProjection = config.Boolean("use_linear_projection") ?? false;
        CosineFirst = config.Boolean("flip_sin_to_cos") ?? true;
        FrequencyShift = config.Number("freq_shift") ?? 0;
        DropoutRate = config.Number("dropout") ?? 0;
        OutputScale = config.Number("resnet_out_scale_factor") ?? 1;
        MiddleScale = config.Number("mid_block_scale_factor") ?? 1;
        if (config.String("addition_embed_type") is not null)
        {
            (AddedTimeWidth, AddedWidth) = (config.RequiredInteger("addition_time_embed_dim"), config.RequiredInteger("projection_class_embeddings_input_dim"));
        }

        if (DownHaveAttention.Count != Channels.Count || UpHaveAttention.Count != Channels.Count || Channels.Any(static width => width is < 1 or > ModelConfig.MaxSize))
        {
            throw new PeftException("ModelConfigInvalid", "'block_out_channels', 'down_block_types' and 'up_block_types' of the UNet's configuration must have as many entries.");
        }
    }

    public long InputChannels { get; }

    public long OutputChannels { get; }

    public IReadOnlyList<long> Channels { get; }

    public long Groups { get; }

    public double Epsilon { get; }

    public IReadOnlyList<long> LayersPerBlock { get; }

    /// <summary>Number of heads; the key <c>attention_head_dim</c> holds it in spite of its name.</summary>
    public IReadOnlyList<long> Heads { get; }

    public IReadOnlyList<long> CrossWidths { get; }

    public IReadOnlyList<long> Transformers { get; }

    public IReadOnlyList<long> UpTransformers { get; }

    public IReadOnlyList<bool> DownHaveAttention { get; }

    public IReadOnlyList<bool> UpHaveAttention { get; }

    public bool LinearProjection { get; }

    public bool CosineFirst { get; }

    public double FrequencyShift { get; }

    public double DropoutRate { get; }

    public double OutputScale { get; }

    public double MiddleScale { get; }

    /// <summary>Width of each of SDXL's sizes as sinusoids; null for models without them.</summary>
    public long? AddedTimeWidth { get; }

    /// <summary>Width of the pooled text with all sizes behind it.</summary>
    public long AddedWidth { get; }

    public long TimeWidth => 4 * Channels[0];

    private static IReadOnlyList<bool> HaveAttention(ModelConfig config, string key, string[] fallback) => [.. (config.Texts(key) ?? fallback).Select(name => name switch
    {
        "CrossAttnDownBlock2D" or "CrossAttnUpBlock2D" => true,
        "DownBlock2D" or "UpBlock2D" => false,
        _ => throw NotSupported(key, name),
    })];

    private static IReadOnlyList<long> PerBlock(ModelConfig config, string key, long fallback)
    {
        var blocks = config.Numbers("block_out_channels")?.Count ?? 4;
        return config.Node(key) is not JsonArray
            ? [.. Enumerable.Repeat(config.Size(key, fallback), blocks)]
            : config.Numbers(key) is { } each && each.Count == blocks
                ? [.. each.Select(static number => (long)number)]
                : throw new PeftException("ModelConfigInvalid", $"'{key}' of the UNet's configuration must be a number or a list of {blocks}.") { Target = key };
    }

    private static void RefuseOther(ModelConfig config, string key, string[] known)
    {
        var value = config.Node(key);
        var text = value?.GetValueKind() == System.Text.Json.JsonValueKind.String ? value.GetValue<string>() : value?.ToJsonString();
        if (text is not null && !known.Contains(text))
        {
            throw NotSupported(key, text);
        }
    }

    private static NotSupportedByPeftException NotSupported(string key, string value) =>
        new("ArchitectureNotSupported", $"A UNet with {key} '{value}' is not supported.")
        {
            Target = key,
            RecommendedAction = "Supported are the UNets of Stable Diffusion 1, 2 and XL.",
        };
}
