using Peft.Adapters.Model;
using Peft.Models;
using static TorchSharp.torch;

namespace Peft.Training;

/// <summary>
/// By how much an error in each column of a linear layer's weight counts: the mean square of what the layer is given there, over the first rows of a
/// data set. Quantisers weigh errors by it, as llama.cpp's importance matrices do.
/// </summary>
public static class ColumnImportance
{
    /// <summary>Runs rows through a model.</summary>
    /// <param name="model">The model; its adapters don't act.</param>
    /// <param name="data">The rows; the first <see cref="StartRows.Most"/> are used.</param>
    /// <param name="onProgress">Sees how many batches are done, and how many there are.</param>
    /// <param name="cancellation">Looked at between layers.</param>
    /// <returns>A number for each column, by the path of the weight.</returns>
    /// <exception cref="PeftException"><c>TokenOutOfRange</c> or <c>PeftModelBusy</c>.</exception>
    public static IReadOnlyDictionary<string, float[]> Measure(PeftModel model, ITrainingData data, Action<long, long>? onProgress = null, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(model);
        using var held = model.Acquire("measuring inputs");
        var rows = new StartRows(model, data, new TrainingOptions(), cancellation);
        var sums = new Dictionary<string, (double[] Squares, long Rows)>(StringComparer.Ordinal);
        for (var batch = 0; batch < rows.Batches; batch++)
        {
            rows.Observe(batch, Add, onlyLearnt: false);
            onProgress?.Invoke(batch + 1, rows.Batches);
        }

        return sums.ToDictionary(static entry => entry.Key, static entry => Array.ConvertAll(entry.Value.Squares, square => (float)(square / entry.Value.Rows)), StringComparer.Ordinal);

        void Add(Module module, Tensor inputs)
        {
            using var scope = NewDisposeScope();
            var squares = inputs.to(ScalarType.Float32).square().sum(dim: 0).cpu().data<float>().ToArray();
            var path = module.Path + ".weight";
            var (known, count) = sums.TryGetValue(path, out var found) ? found : (new double[squares.Length], 0);
            for (var i = 0; i < squares.Length; i++)
            {
                known[i] += squares[i];
            }

            sums[path] = (known, count + inputs.size(0));
        }
    }
}

/// <summary>A model as a GGUF file that was quantised by the importance of its inputs.</summary>
/// <param name="Path">The file.</param>
/// <param name="Type">How weights are stored.</param>
/// <param name="Rows">Rows of the data set that decided.</param>
/// <param name="PerplexityBefore">The model's on the data set.</param>
/// <param name="PerplexityAfter">The file's.</param>
public sealed record CalibratedFile(string Path, string Type, int Rows, double PerplexityBefore, double PerplexityAfter);
