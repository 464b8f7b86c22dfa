using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Adapters.Model;

/// <summary>Weights that are no numbers.</summary>
internal static class WeightCheck
{
    private const long PieceElements = 1 << 22;

    /// <summary>Looks for NaN and infinity in the weights of base and adapters: one spoils everything that is computed with it, without an error.</summary>
    /// <param name="model">The model, held by the caller.</param>
    /// <param name="cancellation">Looked at between weights.</param>
    /// <returns>A sentence that names the first of them, or null where all are finite.</returns>
    public static string? NonFinite(PeftModel model, CancellationToken cancellation)
    {
        using var noGradients = no_grad();
        List<string> bad = [];
        var weights = model.Base.NamedParameters().Where(static named => named.Parameter.IsOwner).Select(static named => (named.Path, named.Parameter))
            .Concat(model.Adapters.SelectMany(static adapter => adapter.TrainableParameters.Select(parameter => ($"{adapter.Name}: {parameter.FullKey}", parameter.Parameter))));
        foreach (var (path, parameter) in weights)
        {
            cancellation.ThrowIfCancellationRequested();
            if (parameter.Packed is { IsFinite: false } || (parameter.Value is { } value && !IsFinite(value)))
            {
                bad.Add(path);
            }

            parameter.Offloaded?.Drop();
        }

        return bad.Count == 0 ? null : FormattableString.Invariant(
            $"{bad.Count} weights of '{model.Name}' hold NaN or infinity, among them {string.Join(", ", bad.Take(3))}: what the model computes with them is no number. Fetch the files again, or train anew.");
    }

    private static bool IsFinite(Tensor value)
    {
        using var scope = NewDisposeScope();
        if (!value.is_floating_point())
        {
            return true;
        }

        if (value.device_type != DeviceType.CPU || !value.is_contiguous())
        {
            return IsPieceFinite(value);
        }

        var flat = value.view(-1);
        for (long start = 0; start < flat.NumberOfElements; start += PieceElements)
        {
            using var piece = flat.narrow(0, start, Math.Min(PieceElements, flat.NumberOfElements - start));
            if (!IsPieceFinite(piece))
            {
                return false;
            }
        }

        return true;
    }

    /// <summary>By the sum, for which a processor makes a copy in float32; a sum of finite numbers may overflow, so only then each is looked at.</summary>
    private static bool IsPieceFinite(Tensor piece)
    {
        using var sum = piece.sum(ScalarType.Float32);
        return float.IsFinite(sum.item<float>()) || piece.isfinite().all().item<bool>();
    }
}
