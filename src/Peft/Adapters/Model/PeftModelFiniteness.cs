using static TorchSharp.torch;

namespace Peft.Adapters.Model;

/// <content>Weights that are no numbers.</content>
public sealed partial class PeftModel
{
    /// <summary>
    /// Looks for NaN and infinity in the weights of base and adapters: one spoils everything that is computed with it, without an error.
    /// </summary>
    /// <param name="cancellation">Looked at between weights.</param>
    /// <returns>A sentence that names the first of them, or null where all are finite.</returns>
    /// <exception cref="PeftException"><c>PeftModelBusy</c> or <c>ModelDisposed</c>.</exception>
    public string? NonFiniteWarning(CancellationToken cancellation = default)
    {
        using var held = Acquire("looking at the weights");
        using var noGradients = no_grad();
        List<string> bad = [];
        var weights = Base.NamedParameters().Where(static named => named.Parameter.IsOwner).Select(static named => (named.Path, named.Parameter))
            .Concat(adapters.SelectMany(static adapter => adapter.TrainableParameters.Select(parameter => ($"{adapter.Name}: {parameter.FullKey}", parameter.Parameter))));
        foreach (var (path, parameter) in weights)
        {
            cancellation.ThrowIfCancellationRequested();
            if (parameter.Value is { } value && !IsFinite(value))
            {
                bad.Add(path);
            }
        }

        return bad.Count == 0 ? null : FormattableString.Invariant(
            $"{bad.Count} weights of '{Name}' hold NaN or infinity, among them {string.Join(", ", bad.Take(3))}: what the model computes with them is no number. Fetch the files again, or train anew.");
    }

    private static bool IsFinite(Tensor value)
    {
        using var scope = NewDisposeScope();
        if (!value.is_floating_point())
        {
            return true;
        }

        // One pass that makes nothing; a sum of finite numbers may overflow, so only then each is looked at.
        return float.IsFinite(value.sum(ScalarType.Float32).item<float>()) || value.isfinite().all().item<bool>();
    }
}
