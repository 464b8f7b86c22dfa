using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using Peft.Diffusion.Schedulers;
using Peft.Diffusion.Training;
using Peft.Files;
using Peft.Tensors;
using Peft.Tests.Models;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Golden;

/// <summary>Noise schedulers and training quantities against diffusers: timesteps, levels, and every sample of a run with given model outputs and noise.</summary>
public sealed class SchedulerGoldenTests
{
    [GoldenTheory]
    [GoldenData("diffusion", "schedulers/")]
    public void A_scheduler_computes_what_diffusers_does(string path) => GoldenCases.Run("diffusion", path, static folder =>
    {
        using var scope = NewDisposeScope();
        var expected = JsonFile.Read(Path.Combine(folder, "case.json"));
        using var recorded = SafetensorsFile.Open(Path.Combine(folder, "data.safetensors"));
        var arguments = expected.GetProperty("arguments");
        var tolerance = expected.GetProperty("tolerance");
        if (arguments.TryGetProperty("num_inference_steps", out var steps))
        {
            Run(arguments, steps.GetInt32(), expected, recorded, tolerance);
        }
        else if (arguments.TryGetProperty("gamma", out var gamma))
        {
            Targets(new SchedulerConfig((JsonObject)JsonFile.Node(arguments.GetProperty("config"))!), gamma.GetDouble(), recorded, tolerance);
        }
        else
        {
            Average(arguments, recorded, tolerance);
        }
    });

    private static void Run(JsonElement arguments, int steps, JsonElement expected, SafetensorsFile recorded, JsonElement tolerance)
    {
        var config = new SchedulerConfig((JsonObject)JsonFile.Node(arguments.GetProperty("config"))!);
        using var scheduler = SchedulerRegistry.Create(config, arguments.GetProperty("class").GetString());
        foreach (var argument in arguments.GetProperty("step").EnumerateObject())
        {
            Assert.Equal("eta", argument.Name);
            scheduler.Eta = argument.Value.GetDouble();
        }

        Close(expected.GetProperty("init_noise_sigma").GetDouble(), scheduler.InitialNoise, "init_noise_sigma");
        scheduler.Start(steps);
        TensorAssert.Close(tensor(expected.GetProperty("timesteps").EnumerateArray().Select(static t => t.GetDouble()).ToArray()), tensor(scheduler.Timesteps.ToArray()), tolerance, "timesteps");
        if (recorded.Contains("sigmas"))
        {
            // Some keep a level twice, for their two calls or in front of the end.
            var levels = Distinct(recorded.Read("sigmas").data<float>().Select(static sigma => (double)sigma));
            TensorAssert.Close(tensor(levels), tensor(Distinct(scheduler.Sigmas)), tolerance, "sigmas");
        }

        var draws = 0;
        var sample = recorded.Read("init_sample");
        while (!scheduler.IsFinished)
        {
            var call = scheduler.Index;
            var what = $"call {call.ToString(CultureInfo.InvariantCulture)}";
            TensorAssert.Close(recorded.Read("scaled_inputs")[call], scheduler.ScaleInput(sample), tolerance, $"{what}: scaled input");
            var step = scheduler.Step(recorded.Read("model_outputs")[call], sample, () => recorded.Read("noise")[draws++]);
            TensorAssert.Close(recorded.Read("samples")[call], step.Sample, tolerance, $"{what}: sample");
            if (recorded.Contains("pred_original_samples"))
            {
                TensorAssert.Close(recorded.Read("pred_original_samples")[call], step.Original!, tolerance, $"{what}: original");
            }

            sample = step.Sample;
        }

        Assert.Equal(recorded.Read("model_outputs").size(0), scheduler.Timesteps.Count);
        Assert.Equal(recorded.Contains("noise") ? recorded.Read("noise").size(0) : 0, draws);
    }

    private static void Targets(SchedulerConfig config, double gamma, SafetensorsFile recorded, JsonElement tolerance)
    {
        var levels = new NoiseLevels(config);
        var plain = new NoiseLevels(config.With(new JsonObject { ["rescale_betas_zero_snr"] = false }));
        var targets = new NoiseTargets(levels);
        int[] timesteps = [.. recorded.Read("timesteps").data<long>().Select(static t => (int)t)];
        var (x, noise) = (recorded.Read("x"), recorded.Read("noise"));
        Compare("betas", tensor(levels.Beta.ToArray()));
        Compare("alphas_cumprod", tensor(levels.AlphaCumulative.ToArray()));
        Compare("noisy", targets.Noisy(x, noise, timesteps));
        Compare("velocity", targets.Velocity(x, noise, timesteps));
        Compare("snr", tensor(timesteps.Select(targets.SignalToNoise).ToArray()));
        Compare("weight_v", tensor(timesteps.Select(t => targets.MinSnrWeight(PredictionKind.Velocity, t, gamma)).ToArray()));
        if (recorded.Contains("weight_epsilon"))
        {
            Compare("weight_epsilon", tensor(timesteps.Select(t => targets.MinSnrWeight(PredictionKind.Epsilon, t, gamma)).ToArray()));
        }

        // What is recorded there is made of the betas as they are, moved or not.
        Compare("betas_rescaled", tensor(NoiseLevels.WithPureNoiseAtTheEnd(levels.Beta)));
        Assert.Equal(0, new NoiseLevels(config.With(new JsonObject { ["rescale_betas_zero_snr"] = true })).AlphaCumulative[^1]);
        Assert.True(plain.AlphaCumulative[^1] > 0);

        void Compare(string name, Tensor actual) => TensorAssert.Close(recorded.Read(name), actual, tolerance, name);
    }

    private static void Average(JsonElement arguments, SafetensorsFile recorded, JsonElement tolerance)
    {
        var values = recorded.Read("values");
        var warmup = arguments.GetProperty("use_ema_warmup").GetBoolean()
            ? ((double, double)?)(arguments.GetProperty("inv_gamma").GetDouble(), arguments.GetProperty("power").GetDouble())
            : null;
        using var average = new MovingAverage([zeros_like(values[0])], arguments.GetProperty("decay").GetDouble(), warmup);
        for (var i = 0; i < values.size(0); i++)
        {
            average.Update([values[i]]);
            TensorAssert.Close(recorded.Read("shadows")[i], average.Averages[0], tolerance, "shadow");
            Close(recorded.Read("decays")[i].item<float>(), average.Decay, "decay");
        }
    }

    private static double[] Distinct(IEnumerable<double> levels)
    {
        var all = levels.ToArray();
        return [.. all.Where((level, i) => i == 0 || level != all[i - 1])];
    }

    private static void Close(double expected, double actual, string what) =>
        Assert.True(Math.Abs(expected - actual) <= 1e-6 + (1e-6 * Math.Abs(expected)), $"{what}: {expected:R} expected, {actual:R} found");
}
