using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using Peft.Diffusion;
using Peft.Models;
using Peft.Models.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Samples.Emoji;

/// <summary>A Stable Diffusion of a hundredth of the size: the same parts and files, with fresh weights.</summary>
internal static partial class TinyModel
{
    private const int TextWidth = 48;
    private const int TextLength = 12;

    /// <summary>Writes a model folder in diffusers' layout whose tokenizer knows the words of some captions.</summary>
    public static void Write(string folder, IEnumerable<string> captions)
    {
        string[] words = ["<|startoftext|>", "<|endoftext|>", "<|unknown|>", .. captions.SelectMany(static caption => Words().Matches(caption).Select(static word => word.Value)).Distinct().Order(StringComparer.Ordinal)];
        Json(folder, "model_index.json", """
            {"_class_name": "StableDiffusionPipeline", "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
             "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"], "scheduler": ["diffusers", "DDIMScheduler"]}
            """);
        Json(folder, "scheduler/scheduler_config.json", """
            {"_class_name": "DDIMScheduler", "num_train_timesteps": 1000, "beta_schedule": "squaredcos_cap_v2", "clip_sample": false, "prediction_type": "v_prediction", "steps_offset": 1, "set_alpha_to_one": true}
            """);
        Json(folder, "unet/config.json", $$"""
            {"_class_name": "UNet2DConditionModel", "sample_size": 16, "in_channels": 4, "out_channels": 4, "layers_per_block": 1, "block_out_channels": [48, 96], "cross_attention_dim": {{TextWidth}},
             "attention_head_dim": 4, "norm_num_groups": 16, "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D"], "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D"]}
            """);
        Json(folder, "vae/config.json", """
            {"_class_name": "AutoencoderKL", "in_channels": 3, "out_channels": 3, "latent_channels": 4, "layers_per_block": 1, "block_out_channels": [16, 32, 32], "norm_num_groups": 8, "sample_size": 64, "scaling_factor": 1.0,
             "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"], "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"]}
            """);
        Json(folder, "text_encoder/config.json", $$"""
            {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model", "vocab_size": {{words.Length}}, "hidden_size": {{TextWidth}}, "intermediate_size": {{2 * TextWidth}}, "num_hidden_layers": 2, "num_attention_heads": 4,
             "max_position_embeddings": {{TextLength}}, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-05, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
            """);
        Json(folder, "tokenizer/tokenizer_config.json", """{"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "unk_token": "<|unknown|>"}""");
        var vocabulary = new JsonObject([.. words.Select(static (word, id) => KeyValuePair.Create(word, (JsonNode?)id))]);
        Json(folder, "tokenizer/tokenizer.json", $$"""
            {"version": "1.0", "added_tokens": [], "normalizer": {"type": "Lowercase"}, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
             "model": {"type": "WordLevel", "unk_token": "<|unknown|>", "vocab": {{vocabulary.ToJsonString()}} } }
            """);
    }

    /// <summary>Gives every weight a fresh value: PyTorch's usual ones, and 0 where a residual branch ends, so that training begins calmly.</summary>
    public static void Initialise(PretrainedModel model)
    {
        foreach (var (path, parameter, module) in model.NamedParameters())
        {
            var shape = parameter.Shape.ToArray();
            parameter.Assign(
                module is Embedding ? randn(shape).mul(0.05)
                : shape.Length == 1 ? parameter.Name == "weight" ? ones(shape) : zeros(shape)
                : path.EndsWith("conv2.weight", StringComparison.Ordinal) || path.EndsWith("conv_out.weight", StringComparison.Ordinal) ? randn(shape).mul(1e-3)
                : rand(shape).mul(2).sub(1).div(Math.Sqrt(shape[1..].Aggregate(1L, static (product, size) => product * size))));
        }
    }

    /// <summary>What makes latents vary as noise does, written into the autoencoder's configuration.</summary>
    public static void SetScale(string folder, double mean, double deviation)
    {
        var path = Path.Combine(folder, "vae", "config.json");
        var config = JsonNode.Parse(File.ReadAllText(path))!;
        config["shift_factor"] = mean;
        config["scaling_factor"] = 1 / deviation;
        File.WriteAllText(path, config.ToJsonString(new JsonSerializerOptions { WriteIndented = true }));
    }

    private static void Json(string folder, string name, string text)
    {
        var path = Path.Combine(folder, name);
        Directory.CreateDirectory(Path.GetDirectoryName(path)!);
        File.WriteAllText(path, text);
    }

    [GeneratedRegex(@"\w+", RegexOptions.NonBacktracking)]
    private static partial Regex Words();
}
