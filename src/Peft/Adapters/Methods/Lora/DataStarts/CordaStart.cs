using System.Text.Json.Serialization;
using Peft.Models;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.Lora.DataStarts;

/// <summary>Settings of the start <c>corda</c>. Files and half precision of PEFT's covariances are kept as written; none are used here.</summary>
/// <param name="Method"><c>ipm</c> takes the directions that the data uses most, to learn them fast; <c>kpm</c> those that it uses least, to keep what the data is about.</param>
/// <param name="CacheFile">PEFT's own.</param>
/// <param name="CovarianceFile">PEFT's own.</param>
/// <param name="Verbose">PEFT's own.</param>
/// <param name="HalfPrecision">PEFT's own.</param>
/// <param name="Prunes">PEFT's own.</param>
public sealed record CordaSettings(
    [property: JsonPropertyName("corda_method")] string Method = "ipm",
    [property: JsonPropertyName("cache_file")] string? CacheFile = null,
    [property: JsonPropertyName("covariance_file")] string? CovarianceFile = null,
    [property: JsonPropertyName("verbose")] bool Verbose = false,
    [property: JsonPropertyName("use_float16_for_covariance")] bool HalfPrecision = false,
    [property: JsonPropertyName("prune_temporary_fields")] bool Prunes = true)
{
    /// <summary>Refuses an unknown method.</summary>
    /// <exception cref="PeftException"><c>AdapterConfigContradictory</c>.</exception>
    internal void Validate()
    {
        if (Method is not ("ipm" or "kpm"))
        {
            throw new PeftException("AdapterConfigContradictory", $"corda_config has the method '{Method}'; it can be ipm or kpm.") { Target = "corda_config" };
        }
    }
}

/// <summary>
/// CorDA (Yang et al. 2024): the weight is decomposed as the data uses it, times the covariance C of its inputs. The first or last directions of W C, with C⁻¹ behind them,
/// are the factors, and leave the base.
/// </summary>
internal static class CordaStart
{
    private const double Damping = 0.01;
    private const double InverseError = 0.05;

    /// <summary>The factors.</summary>
    public static Dictionary<string, (Tensor A, Tensor? B)> Compute(StartRun run)
    {
        var covariances = Covariances(run);
        Dictionary<string, (Tensor A, Tensor? B)> factors = new(StringComparer.Ordinal);
        foreach (var layer in run.Layers)
        {
            run.Cancellation.ThrowIfCancellationRequested();
            using var scope = NewDisposeScope();
            var (rank, scale) = run.Config.ForLayer(layer);
            if (rank > Math.Min(layer.Inputs, layer.Outputs))
            {
                throw new PeftException("RankInvalid", $"CorDA takes {rank} directions of '{layer.Path}', which has {Math.Min(layer.Inputs, layer.Outputs)}.") { Target = layer.Path, RecommendedAction = "Give a lower rank." };
            }

            var (covariance, inverse) = Invertible(covariances[layer.Module]);
            var (u, s, vh) = linalg.svd(layer.ToMatrix(layer.Weight.Data).to(ScalarType.Float32).mm(covariance), fullMatrices: false);
            var first = (run.Config.Corda ?? new CordaSettings()).Method == "ipm" ? 0 : s.size(0) - rank;
            var roots = (s.narrow(0, first, rank) / scale).sqrt();
            var a = vh.narrow(0, first, rank).mm(inverse) * roots.unsqueeze(1);
            var b = u.narrow(1, first, rank) * roots;
            factors[layer.Path] = (a.MoveToOuterDisposeScope(), b.MoveToOuterDisposeScope());
            run.Report(factors.Count, run.Layers.Count, $"CorDA: {factors.Count} of {run.Layers.Count} weights");
        }

        return factors;
    }

    /// <summary>Means of XᵀX over the batches, each divided by its largest element's absolute value.</summary>
    private static Dictionary<Module, Tensor> Covariances(StartRun run)
    {
        var wanted = run.Layers.Select(static layer => layer.Module).ToHashSet();
        Dictionary<Module, Tensor> sums = [];
        for (var i = 0; i < run.Data.Batches; i++)
        {
            run.Cancellation.ThrowIfCancellationRequested();
            run.Report(i, run.Data.Batches, $"CorDA: {i} of {run.Data.Batches} batches");
            run.Data.Observe(i, (module, x) =>
            {
                if (!wanted.Contains(module))
                {
                    return;
                }

                using var scope = NewDisposeScope();
                var scaled = x.to(ScalarType.Float32);
                scaled /= scaled.max().abs();
                var covariance = scaled.t().mm(scaled);
                RefuseNotFinite(covariance, module);
                if (sums.TryGetValue(module, out var sum))
                {
                    sum.add_(covariance);
                }
                else
                {
                    sums[module] = covariance.DetachFromDisposeScope();
                }
            }, onlyLearnt: false);
        }

        return sums.ToDictionary(static entry => entry.Key, entry => Mean(entry.Value));

        // A result of the caller's scope, in place of a sum that belongs to none.
        Tensor Mean(Tensor sum)
        {
            using (sum)
            {
                return sum.div(run.Data.Batches);
            }
        }
    }

    /// <summary>The covariance, damped until its inverse is one.</summary>
    private static (Tensor Matrix, Tensor Inverse) Invertible(Tensor covariance)
    {
        var unit = eye(covariance.size(0), dtype: covariance.dtype, device: covariance.device);
        var mean = covariance.diagonal().mean();
        for (var damping = Damping; ; damping *= 2)
        {
            var matrix = covariance + (unit * (mean * damping));
            var inverse = linalg.inv(matrix);
            if ((matrix.mm(inverse) - unit).norm().item<float>() < InverseError)
            {
                return (matrix, inverse);
            }
        }
    }

    private static void RefuseNotFinite(Tensor covariance, Module module)
    {
        if (!covariance.isfinite().all().item<bool>())
        {
            throw new PeftException("StartDataInvalid", $"The inputs of '{module.Path}' hold numbers that are none, or zeros alone.")
            {
                Target = module.Path,
                RecommendedAction = "Look for NaN in the model's weights, or compute in float32.",
            };
        }
    }
}
