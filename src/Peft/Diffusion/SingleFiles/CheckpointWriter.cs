using Peft.Models;
using Peft.Tensors;
using static TorchSharp.torch;

namespace Peft.Diffusion.SingleFiles;

/// <summary>Writes a diffusion model as one file that web interfaces and the original scripts read.</summary>
internal static class CheckpointWriter
{
    /// <summary>Writes a model.</summary>
    /// <param name="model">The model.</param>
    /// <param name="path">The file; one of that name is replaced.</param>
    /// <param name="dataType">Type to save in; null for each weight's own.</param>
    /// <param name="onProgress">Sees the bytes that are formed, and how many there are.</param>
    /// <param name="cancellation">Looked at between parts.</param>
    /// <exception cref="NotSupportedByPeftException"><c>CheckpointFormatNotSupported</c>: another kind of file is asked for.</exception>
    public static void Write(DiffusionModel model, string path, ScalarType? dataType, Action<long, long>? onProgress, CancellationToken cancellation)
    {
        if (!path.EndsWith(".safetensors", StringComparison.OrdinalIgnoreCase))
        {
            throw new NotSupportedByPeftException("CheckpointFormatNotSupported", $"'{path}' can't be written: pickles are read, not written.")
            {
                Target = path,
                RecommendedAction = "Write a .safetensors file, which everybody reads.",
            };
        }

        var kind = CheckpointKind.Of(model);
        List<(string Name, Tensor Value)> tensors = [];
        var total = model.NamedParameters().Sum(static named => named.Parameter.Bytes);
        var done = 0L;
        foreach (var (name, part) in model.Parts)
        {
            cancellation.ThrowIfCancellationRequested();
            var places = kind.Places(name, part);
            var parameters = part.NamedParameters().ToDictionary(named => named.Path[(name.Length + 1)..], static named => named.Parameter, StringComparer.Ordinal);
            foreach (var group in places.GroupBy(static place => place.Value.Name))
            {
                Tensor[] pieces = [.. group.OrderBy(static place => place.Value.Index).Select(place => Formed(parameters[place.Key].Data, place.Value.Form))];
                var whole = pieces.Length == 1 ? pieces[0] : cat(pieces, 0);
                tensors.Add((group.Key, dataType is { } type ? whole.to(type) : whole));
                onProgress?.Invoke(Math.Min(done += whole.NumberOfElements * whole.ElementSize, total), total);
            }
        }

        SafetensorsWriter.Write(path, tensors);
    }

    private static Tensor Formed(Tensor values, CheckpointForm form) => form switch
    {
        CheckpointForm.OneTap => values.reshape(values.size(0), values.size(1), 1, 1),
        CheckpointForm.Transposed => values.t(),
        _ => values,
    };
}
