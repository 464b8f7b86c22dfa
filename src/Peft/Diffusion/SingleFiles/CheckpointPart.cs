using System.Diagnostics.CodeAnalysis;
using Peft.Tensors;
using static TorchSharp.torch;

namespace Peft.Diffusion.SingleFiles;

/// <summary>One part of a checkpoint in one file, under the names and in the shapes of diffusers' folders.</summary>
/// <param name="file">The file; whoever opened it closes it, and takes its mapped memory.</param>
/// <param name="places">Where each parameter of the part is.</param>
internal sealed class CheckpointPart(TensorStore file, IReadOnlyDictionary<string, CheckpointPlace> places) : TensorStore
{
    private const int Thirds = 3;

    /// <inheritdoc/>
    public override IReadOnlyCollection<string> Names { get; } = [.. places.Where(place => file.Contains(place.Value.Name)).Select(static place => place.Key)];

    /// <inheritdoc/>
    public override string Path => file.Path;

    /// <inheritdoc/>
    public override bool TryGetEntry(string name, [NotNullWhen(true)] out TensorEntry? entry)
    {
        if (!places.TryGetValue(name, out var place) || !file.TryGetEntry(place.Name, out entry))
        {
            entry = null;
            return false;
        }

        entry = entry with { Name = name, Shape = Shape(place.Form, entry.Shape) };
        return true;
    }

    /// <inheritdoc/>
    public override Tensor Map(string name, ScalarType? type = null) =>
        places.TryGetValue(name, out var place) && place.Form == CheckpointForm.Same ? file.Map(place.Name, type) : Read(name, type);

    /// <inheritdoc/>
    internal override bool IsMapped(Tensor tensor) => file.IsMapped(tensor);

    /// <inheritdoc/>
    protected override Tensor ReadStored(TensorEntry entry)
    {
        using var scope = NewDisposeScope();
        var place = places[entry.Name];
        var stored = file.Read(place.Name);
        var formed = place.Form switch
        {
            CheckpointForm.Third => stored.narrow(0, place.Index * entry.Shape[0], entry.Shape[0]).clone(),
            CheckpointForm.Transposed => stored.t().contiguous(),
            _ => stored.reshape([.. entry.Shape]),
        };
        return formed.MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
    }

    private static IReadOnlyList<long> Shape(CheckpointForm form, IReadOnlyList<long> stored) => (form, stored) switch
    {
        (CheckpointForm.OneTap, [var rows, var columns, 1, 1]) => [rows, columns],
        (CheckpointForm.Transposed, [var rows, var columns]) => [columns, rows],
        (CheckpointForm.Third, _) when stored.Count > 0 && stored[0] % Thirds == 0 => [stored[0] / Thirds, .. stored.Skip(1)],
        _ => stored,
    };
}
