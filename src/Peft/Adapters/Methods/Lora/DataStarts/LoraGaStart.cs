using System.Text.Json.Serialization;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Lora.DataStarts;

/// <summary>Settings of the start <c>lora_ga</c>.</summary>
/// <param name="Direction">Which of the gradient's leading 2 · rank singular vectors are A's and B's: <c>ArB2r</c> the first half A's, <c>A2rBr</c> the second, <c>ArBr</c> in turns, <c>random</c> some for both.</param>
/// <param name="Scale">How large they are: <c>stable</c> by the root of the outputs, <c>weight_svd</c> as the weight's largest, <c>gd_scale</c> divided by the adapter's strength, <c>unit</c> as they come.</param>
/// <param name="StableGamma">Divides the factors of <c>stable</c>, by its root.</param>
public sealed record LoraGaSettings(
    [property: JsonPropertyName("direction")] string Direction = "ArB2r",
    [property: JsonPropertyName("scale")] string Scale = "stable",
    [property: JsonPropertyName("stable_gamma")] int StableGamma = 16)
{
    /// <summary>Refuses unknown choices.</summary>
    /// <exception cref="PeftException"><c>AdapterConfigContradictory</c>.</exception>
    internal void Validate()
    {
        if (Direction is not ("ArB2r" or "A2rBr" or "ArBr" or "random") || Scale is not ("stable" or "weight_svd" or "gd_scale" or "unit") || StableGamma < 1)
        {
            throw new PeftException("AdapterConfigContradictory", $"lora_ga_config has the direction '{Direction}', the scale '{Scale}' and stable_gamma {StableGamma}; directions are ArB2r, A2rBr, ArBr and random, scales stable, weight_svd, gd_scale and unit, and stable_gamma is at least 1.") { Target = "lora_ga_config" };
        }
    }
}

/// <summary>LoRA-GA (Wang et al. 2024): the factors are leading singular vectors of the loss's gradient, so that the first steps go where full training would; they leave the base.</summary>
internal static class LoraGaStart
{
    private const ulong Seed = 42;

    /// <summary>The factors.</summary>
    public static Dictionary<string, (Tensor A, Tensor? B)> Compute(StartRun run)
    {
        Parameter[] weights = [.. run.Layers.Select(static layer => layer.Weight)];
        try
        {
            foreach (var weight in weights)
            {
                weight.Gradient = zeros_like(weight.Data, dtype: ScalarType.Float32).DetachFromDisposeScope();
            }

            for (var i = 0; i < run.Data.Batches; i++)
            {
                run.Cancellation.ThrowIfCancellationRequested();
                run.Report(i, run.Data.Batches, $"LoRA-GA: gradients of {i} of {run.Data.Batches} batches");
                run.Data.AddGradients(i, weights);
            }

            return run.Layers.ToDictionary(static layer => layer.Path, layer => Factors(run, layer), StringComparer.Ordinal);
        }
        finally
        {
            foreach (var weight in weights)
            {
                weight.Gradient?.Dispose();
                weight.Gradient = null;
            }
        }
    }

    private static (Tensor A, Tensor? B) Factors(StartRun run, IAdaptable layer)
    {
        run.Cancellation.ThrowIfCancellationRequested();
        using var scope = NewDisposeScope();
        var (settings, (rank, strength)) = (run.Config.LoraGa ?? new LoraGaSettings(), run.Config.ForLayer(layer));
        if (2 * rank > Math.Min(layer.Inputs, layer.Outputs))
        {
            throw new PeftException("RankInvalid", $"LoRA-GA takes twice the rank of singular vectors: '{layer.Path}' has {Math.Min(layer.Inputs, layer.Outputs)}, and {2 * rank} are asked for.") { Target = layer.Path, RecommendedAction = "Give a lower rank." };
        }

        var (u, s, vh) = StartRun.Leading(layer.ToMatrix(layer.Weight.Gradient!).div(run.Data.Batches), 2 * rank);
        var (ofA, ofB) = Places(settings.Direction, rank);
        var (a, values) = (vh.index_select(0, ofA.to(vh.device)), s.index_select(0, ofB.to(s.device)));
        var b = u.index_select(1, ofB.to(u.device)) * values;
        (a, b) = settings.Scale switch
        {
            "stable" => (a, b * (Math.Pow(layer.Outputs, 0.25) / Math.Sqrt(settings.StableGamma))),
            "weight_svd" when values[0].item<float>() > 0 => (a, b * (StartRun.Leading(layer.ToMatrix(layer.Weight.Data).to(ScalarType.Float32), rank).S[0] / values[0])),
            "gd_scale" => (a / strength, b / strength),
            _ => (a, b),
        };
        return (a.MoveToOuterDisposeScope(), b.MoveToOuterDisposeScope());
    }

    private static (Tensor OfA, Tensor OfB) Places(string direction, int rank)
    {
        var all = arange(2 * rank, ScalarType.Int64);
        var (first, second) = (all.narrow(0, 0, rank), all.narrow(0, rank, rank));
        if (direction == "random")
        {
            using var generator = new Generator(Seed);
            var chosen = randperm(2 * rank, ScalarType.Int64, generator: generator).narrow(0, 0, rank);
            return (chosen, chosen);
        }

        return direction switch
        {
            "ArBr" => ((arange(rank, ScalarType.Int64) * 2) + 1, arange(rank, ScalarType.Int64) * 2),
            "A2rBr" => (second, first),
            _ => (first, second),
        };
    }
}
