using System.Text.Json.Nodes;
using Peft.Diffusion.Models;
using Peft.Models;

namespace Peft.Diffusion.Adapters;

/// <summary>The structures of the published Stable Diffusion models, without weights: enough to know the modules that a file names.</summary>
internal sealed class PublishedModel : PretrainedModel
{
    private const string Attending = "CrossAttnDownBlock2D", AttendingUp = "CrossAttnUpBlock2D", Down = "DownBlock2D", Up = "UpBlock2D";

    private PublishedModel(string name, JsonObject unet, params (string Name, JsonObject Config)[] texts)
        : base(new ModelConfig([]), name)
    {
        Add(DiffusionModules.UNet, DiffusionPart.Create(new ModelConfig(unet)));
        foreach (var (component, config) in texts)
        {
            Add(component, DiffusionPart.Create(new ModelConfig(config)));
        }
    }

    /// <summary>The structure of a kind, as <see cref="BaseModelKind"/> calls it.</summary>
    public static PublishedModel Of(string kind) => kind switch
    {
        BaseModelKind.First => new PublishedModel(kind, UNet(768, [8]), (DiffusionModules.TextEncoder, Text(768, 12, 12))),
        BaseModelKind.Second => new PublishedModel(kind, UNet(1024, [5, 10, 20, 20], isLinear: true), (DiffusionModules.TextEncoder, Text(1024, 23, 16))),
        _ => new PublishedModel(kind, Large(), (DiffusionModules.TextEncoder, Text(768, 12, 12)), (DiffusionModules.SecondTextEncoder, Text(1280, 32, 20, "CLIPTextModelWithProjection"))),
    };

    private static JsonObject UNet(int textWidth, int[] heads, bool isLinear = false) => new()
    {
        ["_class_name"] = "UNet2DConditionModel",
        ["attention_head_dim"] = heads.Length == 1 ? heads[0] : Numbers(heads),
        ["block_out_channels"] = Numbers(320, 640, 1280, 1280),
        ["cross_attention_dim"] = textWidth,
        ["down_block_types"] = new JsonArray(Attending, Attending, Attending, Down),
        ["layers_per_block"] = 2,
        ["up_block_types"] = new JsonArray(Up, AttendingUp, AttendingUp, AttendingUp),
        ["use_linear_projection"] = isLinear,
    };

    private static JsonObject Large() => new()
    {
        ["_class_name"] = "UNet2DConditionModel",
        ["addition_embed_type"] = "text_time",
        ["addition_time_embed_dim"] = 256,
        ["attention_head_dim"] = Numbers(5, 10, 20),
        ["block_out_channels"] = Numbers(320, 640, 1280),
        ["cross_attention_dim"] = 2048,
        ["down_block_types"] = new JsonArray(Down, Attending, Attending),
        ["layers_per_block"] = 2,
        ["projection_class_embeddings_input_dim"] = 2816,
        ["transformer_layers_per_block"] = Numbers(1, 2, 10),
        ["up_block_types"] = new JsonArray(AttendingUp, AttendingUp, Up),
        ["use_linear_projection"] = true,
    };

    private static JsonObject Text(int width, int layers, int heads, string className = "CLIPTextModel") => new()
    {
        ["architectures"] = new JsonArray(className),
        ["model_type"] = "clip_text_model",
        ["hidden_size"] = width,
        ["intermediate_size"] = 4 * width,
        ["max_position_embeddings"] = 77,
        ["num_attention_heads"] = heads,
        ["num_hidden_layers"] = layers,
        ["projection_dim"] = width,
        ["vocab_size"] = 49408,
    };

    private static JsonArray Numbers(params int[] values) => [.. values.Select(static value => JsonValue.Create(value))];
}
