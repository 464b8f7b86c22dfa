using System.Text.Json.Nodes;
using Peft.Adapters.Model;
using Peft.Tests.Models;
using Peft.Training;
using static TorchSharp.torch;

namespace Peft.Tests.Golden;

/// <summary>A training on a quantised base beside the peer's.</summary>
internal static class QuantizedTraining
{
    /// <summary>Trains and compares losses, norms and the final adapter.</summary>
    public static void Hold(JsonObject record, string folder, PeftModel model)
    {
        var arguments = record["arguments"]!;
        using var data = GoldenBatches.Open(Path.Combine(folder, "batches.safetensors"));
        List<float> losses = [];
        var run = new Trainer(new TrainingRequest
        {
            Model = model,
            AdapterName = "default",
            Data = data,
            Options = new TrainingOptions
            {
                Optimizer = "adamw_torch",
                LearningRate = (double)arguments["learning_rate"]!,
                WeightDecay = (double)arguments["weight_decay"]!,
                MaxSteps = (int)arguments["steps"]!,
                MaxGradientNorm = (double?)arguments["clipping"] ?? 0,
                Schedule = "constant",
                BatchSize = 1,
                Sampling = "sequential",
            },
            OnStep = step => losses.AddRange(step.Losses),
        }).Train();
        var (trace, tolerance) = (record["trace"]!, record["tolerance_trace"]!);
        Hold(trace["loss"]!.AsArray(), losses, tolerance, "loss");
        Hold(trace["gradient_norm"]!.AsArray(), [.. run.Steps.Select(static step => (float)step.GradientNorm)], tolerance, "gradient norm");
        var final = AdapterGolden.Tensors(Path.Combine(folder, "adapter_final", "adapter_model.safetensors"));
        foreach (var parameter in model.Adapters[0].Adapter.Parameters())
        {
            TensorAssert.Close(final[parameter.FullKey], parameter.Parameter.Data, 1e-3, 1e-3, parameter.FullKey);
        }

        AdapterGolden.Free(final);
    }

    private static void Hold(JsonArray expected, List<float> found, JsonNode tolerance, string what)
    {
        Assert.Equal(expected.Count, found.Count);
        AdapterGolden.AssertClose(tensor(expected.Select(static value => (float)value!).ToArray()), tensor(found.ToArray()), tolerance, what);
    }
}
