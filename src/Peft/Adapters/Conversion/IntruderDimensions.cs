using Peft.Adapters.Model;
using static TorchSharp.torch;

namespace Peft.Adapters.Conversion;

/// <summary>
/// Directions that training put among a weight's leading ones although the weight had none like them, by which low-rank training forgets more than training in full
/// does (Shuttleworth et al. 2024): left singular vectors of the adapted weight that resemble none of the base's.
/// </summary>
public static class IntruderDimensions
{
    /// <summary>Looks for them in each layer of an adapter that can be merged.</summary>
    /// <param name="model">The model.</param>
    /// <param name="name">The adapter.</param>
    /// <param name="leading">How many of the leading directions are looked at.</param>
    /// <param name="threshold">Cosine below which a direction resembles none of the base's.</param>
    /// <param name="onProgress">Sees the layers that are done, and how many there are.</param>
    /// <param name="cancellation">Looked at between layers.</param>
    /// <exception cref="PeftException"><c>AdapterNotFound</c>, or <c>AdapterConversionNotPossible</c>: it can't be merged.</exception>
    public static IReadOnlyList<IntruderReport> Find(PeftModel model, string name, int leading = 10, double threshold = 0.5, Action<int, int>? onProgress = null, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(model);
        using var held = model.Acquire("looking for intruder dimensions");
        using var noGradients = no_grad();
        var source = model[name];
        AdapterConversion.RefuseObstacles(model, source);
        List<IntruderReport> found = [];
        foreach (var (layer, adapter) in source.Adapter.Layers)
        {
            cancellation.ThrowIfCancellationRequested();
            using var scope = NewDisposeScope();
            var loaded = layer.Weight.Loaded(ScalarType.Float32);
            var (merged, _) = AdapterConversion.MergeAlone(layer, adapter);
            var before = linalg.svd(layer.ToMatrix(loaded), fullMatrices: false).U;
            var after = linalg.svd(layer.ToMatrix(merged.Weight).to(ScalarType.Float32), fullMatrices: false).U;
            after = after.narrow(1, 0, Math.Min(leading, after.size(1)));
            var likeness = after.t().mm(before).abs().amax([1]).to(CPU).data<float>().ToArray();
            found.Add(new IntruderReport(layer.Path, likeness.Count(value => value < threshold), Values.Of(likeness.Select(static value => (double)value))));
            onProgress?.Invoke(found.Count, source.Adapter.Layers.Count);
        }

        return Values.Of<IntruderReport>(found);
    }
}

/// <summary>The leading directions of one adapted weight.</summary>
/// <param name="Module">The layer's path.</param>
/// <param name="Count">How many of them are intruders.</param>
/// <param name="Likeness">Of each leading direction, the strongest first: the largest cosine with one of the base's, 1 for a direction that was there.</param>
public sealed record IntruderReport(string Module, int Count, IReadOnlyList<double> Likeness);
