using System.Text.Json;
using System.Text.Json.Nodes;
using Peft.Diffusion;
using Peft.Diffusion.Pipelines;
using Peft.Diffusion.Schedulers;
using Peft.Files;
using Peft.Images;
using Peft.Models;
using Peft.Tensors;
using Peft.Tests.Models;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Golden;

/// <summary>Pipelines against diffusers: prompts as states, every step from given noise, and the picture.</summary>
public sealed class DiffusionPipelineGoldenTests
{
    [GoldenTheory]
    [GoldenData("diffusion", "pipelines/")]
    public void A_picture_is_made_as_diffusers_makes_it(string path) => GoldenCases.Run("diffusion", path, static folder =>
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        var expected = JsonFile.Read(Path.Combine(folder, "case.json"));
        var arguments = expected.GetProperty("arguments");
        using var recorded = SafetensorsFile.Open(Path.Combine(folder, "data.safetensors"));
        using var model = DiffusionModelFiles.Load(GoldenCases.PathOf("diffusion", arguments.GetProperty("model").GetString()!));
        var check = new Check(recorded, expected.GetProperty("tolerance"));
        var call = arguments.GetProperty("call");
        var options = Options(arguments, call);
        var parts = (DiffusionModel)model.Base;
        var (prompt, negative) = new PromptEncoder(model, parts).Encode(call.GetProperty("prompt").GetString()!, options.NegativePrompt, options, default);
        check.Close("prompt_embeds", prompt.States);
        check.Close("negative_prompt_embeds", negative.States);
        check.Close("pooled_prompt_embeds", prompt.Pooled);
        check.Close("negative_pooled_prompt_embeds", negative.Pooled);

        using var scheduler = options.CreateScheduler(parts.SchedulerConfig);
        List<Tensor> latents = [], estimates = [];
        var draws = 0;
        var run = new DenoisingRun(model, parts, options);
        var last = run.Run(scheduler, prompt, negative, Start(recorded, parts), () => recorded.Read("noise")[draws++], step =>
        {
            latents.Add(step.Latents.clone().DetachFromDisposeScope());
            estimates.Add(step.Estimate.clone().DetachFromDisposeScope());
        }, default);
        check.Close("timesteps", tensor(scheduler.Timesteps.ToArray()));
        check.Close("unet_outputs", stack(estimates));
        check.Close("latents", stack(latents));
        var decoded = parts.Autoencoder.Decode(last.div(parts.Autoencoder.ScalingFactor), new ForwardContext());
        check.Close("decoded", decoded);
        check.Close("image", decoded.div(2).add(0.5).clamp(0, 1).permute(0, 2, 3, 1));
        Assert.Equal(recorded.Contains("noise") ? recorded.Read("noise").size(0) : 0, draws);
    });

    private static LatentStart Start(SafetensorsFile recorded, DiffusionModel parts)
    {
        if (recorded.Contains("initial_latents"))
        {
            return new LatentStart(recorded.Read("initial_latents"));
        }

        var pixels = recorded.Read("input_image").mul(2).sub(1);
        var original = parts.Autoencoder.Encode(pixels, new ForwardContext()).Sample(recorded.Read("posterior_noise")).mul(parts.Autoencoder.ScalingFactor);
        var noise = recorded.Read("start_noise");
        var mask = recorded.Contains("mask_image") ? nn.functional.interpolate(recorded.Read("mask_image"), [noise.size(2), noise.size(3)]) : null;
        return new LatentStart(noise) { Original = original, Mask = mask };
    }

    private static ImageOptions Options(JsonElement arguments, JsonElement call)
    {
        var options = new ImageOptions
        {
            Scheduler = arguments.GetProperty("scheduler").GetString(),
            SchedulerOptions = (JsonObject)JsonFile.Node(arguments.GetProperty("scheduler_changes"))!,
            TruncatesPrompts = !arguments.TryGetProperty("truncate", out var truncates) || truncates.GetBoolean(),
        };
        foreach (var argument in call.EnumerateObject())
        {
            options = argument.Name switch
            {
                "prompt" => options,
                "negative_prompt" => options with { NegativePrompt = argument.Value.GetString() },
                "num_inference_steps" => options with { Steps = argument.Value.GetInt32() },
                "guidance_scale" => options with { GuidanceScale = argument.Value.GetDouble() },
                "guidance_rescale" => options with { GuidanceRescale = argument.Value.GetDouble() },
                "clip_skip" => options with { ClipSkip = argument.Value.GetInt32() },
                "strength" => options with { Strength = argument.Value.GetDouble() },
                _ => throw new NotSupportedByPeftException("CaseNotSupported", $"The call gives '{argument.Name}'."),
            };
        }

        return options;
    }

    private sealed class Check(SafetensorsFile recorded, JsonElement tolerance)
    {
        public void Close(string name, Tensor? actual)
        {
            if (recorded.Contains(name))
            {
                Assert.NotNull(actual);
                TensorAssert.Close(recorded.Read(name).to(ScalarType.Float32), actual.to(ScalarType.Float32), tolerance, name);
            }
        }
    }
}
