using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using Peft.Diffusion.Models;
using Peft.Files;
using Peft.Models;
using Peft.Models.Architectures;
using Peft.Models.Layers;
using Peft.Tensors;
using Peft.Tests.Models;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Golden;

/// <summary>The parts of Stable Diffusion as diffusers and transformers compute them: trees, outputs, losses and gradients.</summary>
public sealed class DiffusionModelGoldenTests
{
    [GoldenTheory]
    [GoldenData("diffusion", "unet-")]
    public void A_unet_estimates_what_the_peers_does(string path) => Run(path, static (part, recorded, tolerance) =>
    {
        var unet = (UNet2DConditionModel)part;
        using (no_grad())
        {
            TensorAssert.Close(recorded.Read("output"), unet.Forward(Inputs(unet, recorded, ""), new ForwardContext()), tolerance, "output");
            TensorAssert.Close(recorded.Read("odd.output"), unet.Forward(Inputs(unet, recorded, "odd."), new ForwardContext()), tolerance, "odd.output");
            var masked = Inputs(unet, recorded, "") with { TextMask = recorded.Read("encoder_attention_mask").to(ScalarType.Int64) };
            TensorAssert.Close(recorded.Read("masked.output"), unet.Forward(masked, new ForwardContext()), tolerance, "masked.output");
        }

        foreach (var checkpointing in new[] { false, true })
        {
            using var tape = new Tape();
            var context = new ForwardContext { Tape = tape, Checkpointing = checkpointing };
            var inputs = Inputs(unet, recorded, "");
            tape.AddRoot(inputs.Sample, needsGradient: true);
            tape.AddRoot(inputs.Text.Hidden, needsGradient: true);
            if (inputs.PooledText is { } pooled)
            {
                tape.AddRoot(pooled);
            }

            Train(unet);
            var target = recorded.Read("target");
            var output = unet.Forward(inputs, context);
            TensorAssert.Close(recorded.Read("loss"), (output - target).square().mean(), tolerance, "loss");
            var gradients = tape.BackwardTo([(output, (output - target).mul(2.0 / output.NumberOfElements))], [inputs.Sample, inputs.Text.Hidden], CancellationToken.None);
            TensorAssert.Close(recorded.Read("grad.input.sample"), gradients[0]!, tolerance, "gradient of the sample");
            TensorAssert.Close(recorded.Read("grad.input.encoder_hidden_states").flatten(0, 1), gradients[1]!, tolerance, "gradient of the text");
            Gradients(unet, recorded, tolerance);
        }
    });

    [GoldenTheory]
    [GoldenData("diffusion", "vae-")]
    public void An_autoencoder_gives_latents_and_images(string path) => Run(path, static (part, recorded, tolerance) =>
    {
        var autoencoder = (AutoencoderKL)part;
        using (no_grad())
        {
            var distribution = autoencoder.Encode(recorded.Read("image"), new ForwardContext());
            TensorAssert.Close(recorded.Read("mean"), distribution.Mean, tolerance, "mean");
            TensorAssert.Close(recorded.Read("logvar"), distribution.LogVariance, tolerance, "logvar");
            TensorAssert.Close(recorded.Read("std"), distribution.Deviation, tolerance, "std");
            TensorAssert.Close(recorded.Read("latent"), distribution.Sample(recorded.Read("noise")).mul(autoencoder.ScalingFactor), tolerance, "latent");
            TensorAssert.Close(recorded.Read("decoded"), autoencoder.Decode(recorded.Read("latent").div(autoencoder.ScalingFactor), new ForwardContext()), tolerance, "decoded");
        }

        using var tape = new Tape();
        var context = new ForwardContext { Tape = tape };
        var image = recorded.Read("image");
        tape.AddRoot(image);
        Train(autoencoder);
        var moments = autoencoder.Encode(image, context);
        var noise = recorded.Read("noise");
        var sample = ParameterTensor.Run(given => new LatentDistribution(given[0]).Sample(noise), [moments.Moments], [], context);
        var decoded = autoencoder.Decode(sample, context);
        var loss = ParameterTensor.Run(
            given =>
            {
                var own = new LatentDistribution(given[1]);
                var divergence = (own.Mean.square() + own.LogVariance.exp() - 1 - own.LogVariance).sum([1, 2, 3]).mul(0.5);
                return (given[0] - image).square().mean() + (divergence.mean() * 0.1);
            },
            [decoded, moments.Moments],
            [],
            context);
        TensorAssert.Close(recorded.Read("loss"), loss, tolerance, "loss");
        tape.Backward(loss);
        Gradients(autoencoder, recorded, tolerance);
    });

    [GoldenTheory]
    [GoldenData("diffusion", "clip-")]
    public void A_text_encoder_gives_states_and_a_pooled_one(string path) => Run(path, static (model, recorded, tolerance) =>
    {
        var encoder = (ClipTextModel)model.Backbone;
        var ids = recorded.Read("input_ids");
        using (no_grad())
        {
            var context = new ForwardContext { KeepsHiddenStates = true };
            var output = model.Forward(ids, context);
            for (var i = 0; i < output.HiddenStates!.Count; i++)
            {
                Compare($"hidden_states.{i.ToString(CultureInfo.InvariantCulture)}", output.HiddenStates[i]);
            }

            Compare("last_hidden_state", output.Hidden);
            Compare("clip_skip_1", encoder.FinalNorm.Forward(output.HiddenStates[^2], context));
            var (name, pooled) = model is ClipTextProjectionModel projecting ? ("text_embeds", projecting.Project(output, context)) : ("pooler_output", encoder.Pool(output, context));
            TensorAssert.Close(recorded.Read(name), pooled, tolerance, name);
            Compare("masked.last_hidden_state", model.Forward(ids, context with { AttentionMask = recorded.Read("attention_mask") }).Hidden);
        }

        using var tape = new Tape();
        var training = new ForwardContext { Tape = tape };
        Train(model);
        var states = model.Forward(ids, training);
        Tensor[] squared = model is ClipTextProjectionModel last ? [states.Hidden, last.Project(states, training)] : [states.Hidden];
        var loss = ParameterTensor.Run(static given => given.Select(static value => value.square().mean()).Aggregate(static (a, b) => a + b), squared, [], training);
        TensorAssert.Close(recorded.Read("loss"), loss, tolerance, "loss");
        tape.Backward(loss);
        Gradients(model, recorded, tolerance);

        void Compare(string name, Tensor actual) => TensorAssert.Close(recorded.Read(name).flatten(0, 1), actual, tolerance, name);
    });

    [GoldenTheory]
    [GoldenData("diffusion", "unet-")]
    [GoldenData("diffusion", "vae-")]
    [GoldenData("diffusion", "clip-")]
    public void The_tree_is_the_peers(string path) => GoldenCases.Run("diffusion", path, folder =>
    {
        var expected = JsonFile.Read(Path.Combine(folder, "case.json"));
        using var model = DiffusionPart.Load(PartFolder(expected), new LoadOptions { StructureOnly = true });
        Assert.Equal(File.ReadAllText(Path.Combine(folder, "print.txt")).TrimEnd('\n'), ModuleText.Print(model));
        Assert.Equal(expected.GetProperty("parameters").GetInt64(), model.CountParameters());
        Assert.Equal(
            JsonFile.Read(Path.Combine(folder, "modules.json")).EnumerateArray().Select(static row => row.GetRawText().Replace(" ", "", StringComparison.Ordinal)),
            model.Descendants().Select(module => string.Create(
                CultureInfo.InvariantCulture,
                $"[\"{(ReferenceEquals(module, model) ? "" : module.Path)}\",\"{module.ClassName}\",{module.Parameters.Sum(static parameter => parameter.Count)}]")));
    });

    [GoldenTheory]
    [GoldenFiles("diffusion", "")]
    public void Published_models_have_as_many_parameters(string name)
    {
        var rows = JsonFile.Read(Path.Combine(GoldenCases.PathOf("diffusion", ""), $"{name}.json"));
        foreach (var row in name == "counts" ? rows.EnumerateObject().Where(static row => row.Value.TryGetProperty("config", out _)) : [])
        {
            var document = JsonObject.Create(row.Value.GetProperty("config"))!;
            var className = row.Value.GetProperty("class").GetString()!;
            (document["_class_name"], document["architectures"], document["model_type"]) = className.StartsWith("CLIP", StringComparison.Ordinal)
                ? (null, new JsonArray(className), "clip_text_model")
                : (className, (JsonNode?)null, "");
            using var model = DiffusionPart.Create(new ModelConfig(document));
            Assert.Equal(row.Value.GetProperty("parameters").GetInt64(), model.CountParameters());
            Assert.Equal(row.Value.GetProperty("modules").GetInt32(), model.Descendants().Count());
        }
    }

    private static string PartFolder(JsonElement expected) => Path.Combine(GoldenCases.PathOf("diffusion", expected.GetProperty("arguments").GetProperty("model").GetString()!));

    private static UNetInputs Inputs(UNet2DConditionModel unet, SafetensorsFile recorded, string prefix)
    {
        Tensor Read(string name) => recorded.Read($"{prefix}input.{name}");
        var text = Read("encoder_hidden_states");
        var inputs = new UNetInputs(Read("sample"), Read("timestep"), new BackboneOutput(text.flatten(0, 1), text.size(0), text.size(1)));
        return unet.ReadsSizes ? inputs with { PooledText = Read("text_embeds"), Sizes = Read("time_ids") } : inputs;
    }

    private static void Train(PretrainedModel model)
    {
        foreach (var (_, parameter, _) in model.NamedParameters())
        {
            parameter.Gradient = zeros([.. parameter.Shape]);
            parameter.Data.requires_grad_(true);
        }
    }

    private static void Gradients(PretrainedModel model, SafetensorsFile recorded, JsonElement tolerance)
    {
        const string Prefix = "grad.";
        var names = recorded.Names.Where(static name => name.StartsWith(Prefix, StringComparison.Ordinal) && !name.StartsWith("grad.input.", StringComparison.Ordinal)).ToArray();
        Assert.NotEmpty(names);
        foreach (var name in names)
        {
            TensorAssert.Close(recorded.Read(name), model.FindParameter(name[Prefix.Length..])!.Gradient!, tolerance, name);
        }

        foreach (var (_, parameter, _) in model.NamedParameters())
        {
            parameter.Gradient = null;
            parameter.Data.requires_grad_(false);
        }
    }

    private static void Run(string path, Action<PretrainedModel, SafetensorsFile, JsonElement> body) => GoldenCases.Run("diffusion", path, folder =>
    {
        using var scope = NewDisposeScope();
        var expected = JsonFile.Read(Path.Combine(folder, "case.json"));
        using var model = DiffusionPart.Load(PartFolder(expected));
        using var recorded = SafetensorsFile.Open(Path.Combine(folder, "data.safetensors"));
        body(model, recorded, expected.GetProperty("tolerance"));
    });
}
