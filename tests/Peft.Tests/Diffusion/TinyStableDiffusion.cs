using System.Text.Json.Nodes;
using Peft.Adapters.Model;
using Peft.Diffusion;
using Peft.Diffusion.Models;
using Peft.Diffusion.Schedulers;
using Peft.Models;
using Peft.Tokenization;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Diffusion;

/// <summary>Stable Diffusion with random weights and as few channels as the published rules for heads and norms allow.</summary>
internal static class TinyStableDiffusion
{
    private const int TextLength = 8;
    private static readonly string[] s_words = ["<start>", "<end>", "a", "red", "blue", "bird", "fish", "with", "many", "feathers"];

    /// <summary>A model in memory.</summary>
    /// <param name="folder">Where its tokenizer's files go.</param>
    /// <param name="channels">What its UNet reads: 9 of a model that fills parts of pictures.</param>
    public static PeftModel Create(string folder, int channels = 4)
    {
        // Its own generator: another test may draw from the common one meanwhile, and two models that are made so are the same.
        using var generator = new Generator(1);
        var tokenizer = Path.Combine(folder, "words");
        Directory.CreateDirectory(tokenizer);
        File.WriteAllText(Path.Combine(tokenizer, "tokenizer.json"), new JsonObject
        {
            ["version"] = "1.0",
            ["added_tokens"] = new JsonArray(s_words[..2].Select((word, i) => (JsonNode)new JsonObject { ["id"] = i, ["content"] = word, ["special"] = true, ["single_word"] = false, ["lstrip"] = false, ["rstrip"] = false, ["normalized"] = false }).ToArray()),
            ["pre_tokenizer"] = new JsonObject { ["type"] = "Whitespace" },
            ["model"] = new JsonObject { ["type"] = "WordLevel", ["unk_token"] = "<end>", ["vocab"] = new JsonObject(s_words.Select(static (word, i) => KeyValuePair.Create(word, (JsonNode?)i))) },
        }.ToJsonString());
        File.WriteAllText(Path.Combine(tokenizer, "tokenizer_config.json"), """{ "bos_token": "<start>", "eos_token": "<end>", "pad_token": "<end>" }""");
        (string, PretrainedModel)[] parts =
        [
            ("text_encoder", Filled("""
                { "architectures": ["CLIPTextModel"], "model_type": "clip_text_model", "vocab_size": 10, "hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 2,
                  "num_attention_heads": 1, "max_position_embeddings": 8, "eos_token_id": 1 }
                """, generator)),
            ("unet", Filled("""
                { "_class_name": "UNet2DConditionModel", "sample_size": 8, "block_out_channels": [32, 64], "layers_per_block": 1, "cross_attention_dim": 64,
                  "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"], "attention_head_dim": 8, "in_channels": CHANNELS }
                """.Replace("CHANNELS", channels.ToString(System.Globalization.CultureInfo.InvariantCulture), StringComparison.Ordinal), generator)),
            ("vae", Filled("""
                { "_class_name": "AutoencoderKL", "block_out_channels": [32, 32], "layers_per_block": 1, "latent_channels": 4,
                  "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"], "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"] }
                """, generator)),
        ];
        var scheduler = new SchedulerConfig(new JsonObject { ["_class_name"] = "DDIMScheduler", ["beta_start"] = 0.00085, ["beta_end"] = 0.012, ["beta_schedule"] = "scaled_linear", ["steps_offset"] = 1, ["clip_sample"] = false, ["set_alpha_to_one"] = false });
        var index = new ModelConfig(new JsonObject
        {
            ["_class_name"] = "StableDiffusionPipeline",
            ["text_encoder"] = new JsonArray("transformers", "CLIPTextModel"),
            ["unet"] = new JsonArray("diffusers", "UNet2DConditionModel"),
            ["vae"] = new JsonArray("diffusers", "AutoencoderKL"),
        });
        return new PeftModel(new DiffusionModel(index, parts, scheduler, new Dictionary<string, Tokenizer> { ["tokenizer"] = Tokenizer.FromFolder(tokenizer) }), "tiny");
    }

    /// <summary>The number of tokens that its text encoder reads at once.</summary>
    public static int Length => TextLength;

    private static PretrainedModel Filled(string config, Generator generator)
    {
        var part = DiffusionPart.Create(ModelConfig.FromText(config));
        using var noGradients = no_grad();
        foreach (var (_, parameter, _) in part.NamedParameters())
        {
            var noise = randn(parameter.Shape.ToArray(), ScalarType.Float32, generator: generator);
            parameter.Assign(parameter.Shape.Count > 1 ? noise.mul(1 / Math.Sqrt(parameter.Count / (double)parameter.Shape[0])) : parameter.Name == "weight" ? noise.mul(0.1).add(1) : noise.mul(0.1));
        }

        part.Prepare();
        return part;
    }
}
