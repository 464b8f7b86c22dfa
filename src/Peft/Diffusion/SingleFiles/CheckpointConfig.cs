using System.Text.Json.Nodes;
using Peft.Tensors;

namespace Peft.Diffusion.SingleFiles;

/// <summary>
/// What the <c>config.json</c> of each part would say, read off the shapes in a checkpoint of one file. What shapes don't tell (heads, norms, the noise
/// schedule) is as it was published for that kind of model.
/// </summary>
/// <param name="file">The file.</param>
/// <param name="kind">Which model it is.</param>
internal sealed class CheckpointConfig(TensorStore file, CheckpointKind kind)
{
    private const long HeadWidth = 64;
    private const long FirstHeads = 8;
    private const long AddedSizes = 6;

    private bool IsLarge => kind == CheckpointKind.Large;

    private bool IsSecond => kind == CheckpointKind.Second;

    /// <summary>The document of a part: <c>unet</c>, <c>vae</c> or a text encoder.</summary>
    /// <param name="component">The part.</param>
    /// <exception cref="PeftException"><c>CheckpointIncomplete</c>: a tensor is missing that tells a size.</exception>
    public JsonObject Of(string component) => component switch
    {
        "unet" => UNet(),
        "vae" => Autoencoder(),
        _ => Text(kind.Texts.Single(text => text.Component == component)),
    };

    /// <summary>The scheduler's document.</summary>
    public JsonObject Scheduler()
    {
        var document = new JsonObject
        {
            ["_class_name"] = IsLarge ? "EulerDiscreteScheduler" : IsSecond ? "DDIMScheduler" : "PNDMScheduler",
            ["beta_start"] = 0.00085,
            ["beta_end"] = 0.012,
            ["beta_schedule"] = "scaled_linear",
            ["num_train_timesteps"] = 1000,
            ["steps_offset"] = 1,
            ["clip_sample"] = false,
            ["set_alpha_to_one"] = false,
            ["skip_prk_steps"] = true,
            ["prediction_type"] = IsSecond ? "v_prediction" : "epsilon",
        };
        if (IsLarge)
        {
            document["timestep_spacing"] = "leading";
        }

        return document;
    }

    private JsonObject UNet()
    {
        const string Prefix = CheckpointLayout.UNetPrefix;
        var (blocks, textWidth, isLinear) = DownBlocks(Prefix);
        var channels = blocks.Select(static block => block.Channels);
        var attend = blocks.Select(static block => block.Depth > 0);
        var document = new JsonObject
        {
            ["_class_name"] = "UNet2DConditionModel",
            ["in_channels"] = Size(Prefix + "input_blocks.0.0.weight", 1),
            ["out_channels"] = Size(Prefix + "out.2.weight", 0),
            ["sample_size"] = IsLarge ? 128 : IsSecond ? 96 : 64,
            ["block_out_channels"] = List(channels),
            ["layers_per_block"] = blocks[0].Layers,
            ["down_block_types"] = List(attend.Select(static yes => yes ? "CrossAttnDownBlock2D" : "DownBlock2D")),
            ["up_block_types"] = List(attend.Reverse().Select(static yes => yes ? "CrossAttnUpBlock2D" : "UpBlock2D")),

            // A block without a transformer says 1, as published; the middle block takes the last one's number.
            ["transformer_layers_per_block"] = List(blocks.Select(static block => Math.Max(1, block.Depth))),
            ["cross_attention_dim"] = textWidth ?? throw Missing(Prefix + "*.attn2.to_k.weight"),
            ["attention_head_dim"] = isLinear ? List(channels.Select(static channel => Math.Max(1, channel / HeadWidth))) : FirstHeads,
            ["use_linear_projection"] = isLinear,
        };
        if (file.Contains(Prefix + "label_emb.0.0.weight"))
        {
            var added = Size(Prefix + "label_emb.0.0.weight", 1);
            var pooled = Size(kind.Texts[^1].Prefix + "text_projection", 1);
            document["addition_embed_type"] = "text_time";
            document["projection_class_embeddings_input_dim"] = added;
            document["addition_time_embed_dim"] = (added - pooled) / AddedSizes;
        }

        return document;
    }

    /// <summary>The blocks downwards: their channels, how many layers of their transformers and layers they have; the width of the prompt, and whether transformers project by linear layers.</summary>
    private (List<(long Channels, long Depth, long Layers)> Blocks, long? TextWidth, bool IsLinear) DownBlocks(string prefix)
    {
        List<(long, long, long)> blocks = [];
        long? textWidth = null;
        var (isLinear, width, depth, count) = (false, Size(prefix + "input_blocks.0.0.weight", 0), 0L, 0L);
        for (var i = 1; ; i++)
        {
            var head = $"{prefix}input_blocks.{i}.";
            if (file.Contains(head + "0.op.weight"))
            {
                blocks.Add((width, depth, count));
                (depth, count) = (0, 0);
            }
            else if (file.Contains(head + "0.in_layers.2.weight"))
            {
                width = Size(head + "0.in_layers.2.weight", 0);
                count++;
                if (file.Contains(head + "1.proj_in.weight"))
                {
                    isLinear = Shape(head + "1.proj_in.weight").Count == 2;
                    depth = CountOf(n => $"{head}1.transformer_blocks.{n}.norm1.weight");
                    textWidth = Size(head + "1.transformer_blocks.0.attn2.to_k.weight", 1);
                }
            }
            else
            {
                blocks.Add((width, depth, count));
                return (blocks, textWidth, isLinear);
            }
        }
    }

    private JsonObject Autoencoder()
    {
        const string Prefix = CheckpointLayout.AutoencoderPrefix;
        var blocks = (int)CountOf(n => $"{Prefix}encoder.down.{n}.block.0.conv1.weight");
        if (blocks == 0)
        {
            throw Missing(Prefix + "encoder.down.0.block.0.conv1.weight");
        }

        return new JsonObject
        {
            ["_class_name"] = "AutoencoderKL",
            ["in_channels"] = Size(Prefix + "encoder.conv_in.weight", 1),
            ["out_channels"] = Size(Prefix + "decoder.conv_out.weight", 0),
            ["latent_channels"] = Size(Prefix + "decoder.conv_in.weight", 1),
            ["block_out_channels"] = List(Enumerable.Range(0, blocks).Select(n => Size($"{Prefix}encoder.down.{n}.block.0.conv1.weight", 0))),
            ["layers_per_block"] = CountOf(n => $"{Prefix}encoder.down.0.block.{n}.conv1.weight"),
            ["down_block_types"] = List(Enumerable.Repeat("DownEncoderBlock2D", blocks)),
            ["up_block_types"] = List(Enumerable.Repeat("UpDecoderBlock2D", blocks)),
            ["sample_size"] = IsLarge ? 1024 : IsSecond ? 768 : 512,
            ["scaling_factor"] = IsLarge ? 0.13025 : 0.18215,
            ["use_quant_conv"] = file.Contains(Prefix + "quant_conv.weight"),
            ["use_post_quant_conv"] = file.Contains(Prefix + "post_quant_conv.weight"),
        };
    }

    private JsonObject Text(CheckpointText text)
    {
        var isProjected = text.Component == "text_encoder_2";
        var (table, positions, inner, layers) = text.IsOpenClip
            ? (text.Prefix + "token_embedding.weight", text.Prefix + "positional_embedding", text.Prefix + "transformer.resblocks.0.mlp.c_fc.weight",
                CountOf(n => $"{text.Prefix}transformer.resblocks.{n}.ln_1.weight"))
            : (text.TextPrefix + "embeddings.token_embedding.weight", text.TextPrefix + "embeddings.position_embedding.weight", text.TextPrefix + "encoder.layers.0.mlp.fc1.weight",
                CountOf(n => $"{text.TextPrefix}encoder.layers.{n}.layer_norm1.weight"));
        var (vocabulary, width) = (Size(table, 0), Size(table, 1));
        return new JsonObject
        {
            ["architectures"] = new JsonArray(isProjected ? "CLIPTextModelWithProjection" : "CLIPTextModel"),
            ["model_type"] = "clip_text_model",
            ["vocab_size"] = vocabulary,
            ["hidden_size"] = width,
            ["intermediate_size"] = Size(inner, 0),

            // Stable Diffusion 2 reads the state before the last block, which its folders therefore leave out.
            ["num_hidden_layers"] = IsSecond ? layers - 1 : layers,
            ["num_attention_heads"] = Math.Max(1, width / HeadWidth),
            ["hidden_act"] = text.IsOpenClip ? "gelu" : "quick_gelu",
            ["max_position_embeddings"] = Size(positions, 0),
            ["projection_dim"] = isProjected ? Size(text.Prefix + "text_projection", 1) : width,
            ["bos_token_id"] = vocabulary - 2,
            ["eos_token_id"] = vocabulary - 1,
            ["pad_token_id"] = text.IsOpenClip ? 0 : vocabulary - 1,
        };
    }

    private static JsonArray List<T>(IEnumerable<T> values) => [.. values.Select(static value => JsonValue.Create(value))];

    private long CountOf(Func<int, string> name)
    {
        var count = 0;
        while (file.Contains(name(count)))
        {
            count++;
        }

        return count;
    }

    private IReadOnlyList<long> Shape(string name) => file.TryGetEntry(name, out var entry) ? entry.Shape : throw Missing(name);

    private long Size(string name, int dimension) => Shape(name) is var shape && dimension < shape.Count ? shape[dimension] : throw new PeftException(
        "CheckpointIncomplete", $"'{name}' in '{file.Path}' has the shape [{string.Join(", ", shape)}], and tells no sizes of {kind.Name}.") { Target = file.Path };

    private PeftException Missing(string name) => new("CheckpointIncomplete", $"'{file.Path}' lacks '{name}', which a checkpoint of {kind.Name} has.") { Target = file.Path };
}
