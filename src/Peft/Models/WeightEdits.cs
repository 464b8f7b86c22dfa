using static TorchSharp.torch;

namespace Peft.Models;

/// <summary>
/// What one cause did to weights of a model: the start of an adapter that takes its part out of the base, a conversion of precision, a merge.
/// It can be taken back bit for bit at any time: where another cause edited a weight later, that edit is made again on what is left.
/// </summary>
/// <remarks>
/// Each parameter keeps the weights it was loaded with once, whatever the number of edits, and the edits in their order. Weights are edited in place
/// where their type stays, so that views of them stay valid; a parameter that shares another's weights gets its own while it is edited.
/// </remarks>
public sealed class WeightEdits
{
    private readonly List<Parameter> _edited = [];
    private PretrainedModel? _converted;

    /// <summary>Puts every floating-point weight of a model into another type. What fails on the way leaves every weight as it was.</summary>
    /// <param name="model">A model whose weights are loaded.</param>
    /// <param name="type">The type to compute in.</param>
    public static WeightEdits Convert(PretrainedModel model, ScalarType type)
    {
        using var noGradients = no_grad();
        var edits = new WeightEdits { _converted = model };
        try
        {
            foreach (var parameter in model.NamedParameters().Select(static named => named.Parameter).Where(static parameter => parameter is { IsOwner: true, KeepsFloat32: false }).Distinct())
            {
                if (parameter.Packed is not null || (parameter.Data.is_floating_point() && parameter.DataType != type))
                {
                    edits.Edit(parameter, current => current.to(type), unpacks: true);
                }
            }

            model.Fuse();
        }
        catch
        {
            edits.Undo();
            throw;
        }

        return edits;
    }

    /// <summary>Makes the packed weights of a model plain ones. What fails on the way leaves every weight as it was.</summary>
    /// <param name="model">A model whose weights are loaded.</param>
    /// <param name="original">The same model as it was before its weights were packed, for those weights; null for the values that the packed ones stand for.</param>
    /// <exception cref="PeftException"><c>MergeOriginalUnfit</c>: the original has no such weight.</exception>
    public static WeightEdits Unpack(PretrainedModel model, PretrainedModel? original)
    {
        using var noGradients = no_grad();
        var edits = new WeightEdits { _converted = model };
        try
        {
            foreach (var (path, parameter, _) in model.NamedParameters().Where(static named => named.Parameter is { IsOwner: true, Packed: not null }).ToArray())
            {
                var values = original is null ? null : Original(original, path, parameter);
                edits.Edit(parameter, current => values?.clone() ?? current, unpacks: true);
            }

            model.Fuse();
        }
        catch
        {
            edits.Undo();
            throw;
        }

        return edits;
    }

    /// <summary>Edits a weight.</summary>
    /// <param name="parameter">The parameter; its weights are loaded.</param>
    /// <param name="change">Makes the new weights, of the same shape, from the current ones, which it must not touch. Called again when an edit below is taken back.</param>
    /// <param name="unpacks">Whether packed weights become plain ones; otherwise what they become is packed again.</param>
    public void Edit(Parameter parameter, Func<Tensor, Tensor> change, bool unpacks = false)
    {
        ArgumentNullException.ThrowIfNull(parameter);
        parameter.RefuseOffloaded("changed in place");
        (parameter.Edits ??= new EditStack(parameter)).Push(this, new WeightEdit(change, unpacks));
        _edited.Add(parameter);
    }

    /// <summary>Edits a plain weight where it lies, which spares a copy of the result.</summary>
    /// <param name="parameter">The parameter; its weights are loaded and not packed.</param>
    /// <param name="change">Changes the weights in place. Called again when an edit below is taken back.</param>
    internal void EditInPlace(Parameter parameter, Action<Tensor> change)
    {
        parameter.RefuseOffloaded("changed in place");
        (parameter.Edits ??= new EditStack(parameter)).Push(this, new WeightEdit(static current => current, Unpacks: false) { InPlace = change });
        _edited.Add(parameter);
    }

    /// <summary>Gives a weight new values, once and for all that lies below: while this stands, no earlier edit of the weight can be taken back.</summary>
    /// <param name="parameter">The parameter; its weights are loaded.</param>
    /// <param name="weights">The new weights, in any floating-point type; copied into the parameter's.</param>
    public void Set(Parameter parameter, Tensor weights)
    {
        var isSet = false;
        Edit(parameter, current =>
        {
            if (isSet)
            {
                throw new InvalidOperationException("An edit that lies below fixed weights can't be taken back before they are.");
            }

            isSet = true;
            return weights.to(current.dtype);
        });
    }

    /// <summary>Whether any weight is edited now.</summary>
    public bool Any => _edited.Count > 0;

    /// <summary>Takes the edits back.</summary>
    public void Undo() => Undo([this]);

    /// <summary>Takes back what several causes did, together: an edit of one of them isn't made again on what another leaves.</summary>
    public static void Undo(IReadOnlyList<WeightEdits> causes)
    {
        using var noGradients = no_grad();
        foreach (var parameter in causes.SelectMany(static cause => cause._edited).Distinct().Reverse())
        {
            parameter.Edits?.Remove(causes);
        }

        foreach (var cause in causes)
        {
            cause._edited.Clear();

            // Weights of another type are other tensors: those that are used together are joined again.
            cause._converted?.Fuse();
        }
    }

    private static Tensor Original(PretrainedModel original, string path, Parameter parameter) =>
        original.FindParameter(path) is { Value: { } values } && values.shape.AsSpan().SequenceEqual([.. parameter.Shape])
            ? Layers.LinearProduct.Cast(values, parameter.DataType).to(parameter.Device)
            : throw new PeftException("MergeOriginalUnfit", $"The unquantised model has no weight '{path}' of [{string.Join(", ", parameter.Shape)}].") { Target = path };

    /// <summary>Makes the edited weights the parameters' own: what they were loaded with is freed, and no edit of them can be taken back any more.</summary>
    public void Keep()
    {
        foreach (var parameter in _edited)
        {
            parameter.Edits?.Forget();
        }

        _edited.Clear();
    }
}

/// <summary>The edits of one parameter, with the weights that lie below them.</summary>
internal sealed class EditStack(Parameter parameter)
{
    private readonly List<(WeightEdits Cause, WeightEdit Edit)> _edits = [];
    private PackedWeight? _originalForm;
    private Parameter? _tiedTo;

    /// <summary>The weights as they were loaded; null where they were another parameter's.</summary>
    public Tensor? Original { get; private set; }

    /// <summary>Memory that these take, without asking the tensor: another thread may free it meanwhile.</summary>
    public long OriginalBytes { get; private set; }

    /// <summary>The weights below all edits, in a type, for the caller's dispose scope.</summary>
    public Tensor Loaded(ScalarType type) => _originalForm is { } form ? Parameter.Unpacked(form, type) : Layers.LinearProduct.Cast(Original ?? _tiedTo!.Data, type);

    public void Push(WeightEdits cause, WeightEdit edit)
    {
        using var scope = NewDisposeScope();
        if (_edits.Count == 0 && parameter.TiedTo is { } owner)
        {
            _tiedTo = owner;
            parameter.Assign(owner.Data.clone());
        }

        try
        {
            Apply(edit);
            _edits.Add((cause, edit));
        }
        finally
        {
            Settle();
        }
    }

    public void Remove(IReadOnlyList<WeightEdits> causes)
    {
        if (_edits.RemoveAll(edit => causes.Contains(edit.Cause)) == 0)
        {
            return;
        }

        using var scope = NewDisposeScope();
        if (_originalForm is { } form)
        {
            _originalForm = null;
            parameter.Pack(form);
        }
        else if (_edits.Count > 0)
        {
            Put((Original ?? _tiedTo!.Data).clone());
        }
        else if (Original is not null)
        {
            Put(Original.alias());
        }

        foreach (var (_, edit) in _edits)
        {
            Apply(edit);
        }

        Settle();
    }

    public void Forget()
    {
        Original?.Dispose();
        Original = null;
        _originalForm?.Dispose();
        _originalForm = null;
        parameter.Edits = null;
    }

    /// <summary>Where no edit is left, the parameter shares its weights again and nothing is kept.</summary>
    private void Settle()
    {
        if (_edits.Count == 0)
        {
            if (_tiedTo is not null)
            {
                parameter.TieTo(_tiedTo);
            }

            Forget();
        }
    }

    private void Apply(WeightEdit edit)
    {
        if (parameter.Packed is { } form)
        {
            ApplyPacked(edit, form);
            return;
        }

        var current = parameter.Data;
        if (edit.InPlace is { } change)
        {
            if (Original is null && _originalForm is null && _tiedTo is null)
            {
                Original = current.clone().DetachFromDisposeScope();
                OriginalBytes = parameter.Count * Tensors.ElementType.SizeOf(current.dtype);
            }

            change(current);
            parameter.MarkChanged();
            return;
        }

        var changed = edit.Change(current);
        if (Original is null && _originalForm is null && _tiedTo is null)
        {
            // Where the type changes, the parameter gets another tensor and the one it had is kept; no copy is made.
            Original = (changed.dtype == current.dtype ? current.clone() : current.alias()).DetachFromDisposeScope();
            OriginalBytes = parameter.Count * Tensors.ElementType.SizeOf(current.dtype);
        }

        Put(changed);
    }

    private void ApplyPacked(WeightEdit edit, PackedWeight form)
    {
        var changed = edit.Change(parameter.Unpacked(parameter.DataType));
        var repacked = edit.Unpacks ? null : form.Repack(form.IsTransposed ? changed.transpose(-2, -1) : changed);
        if (_originalForm is null)
        {
            _originalForm = parameter.TakePacked();
            OriginalBytes = form.Bytes;
        }

        if (repacked is null)
        {
            parameter.Assign(changed.contiguous());
        }
        else
        {
            parameter.Pack(repacked);
        }
    }

    /// <summary>In place where the type stays; a tensor of another type is handed over.</summary>
    private void Put(Tensor weights)
    {
        if (weights.dtype == parameter.DataType)
        {
            parameter.Data.copy_(weights);
            parameter.MarkChanged();
        }
        else
        {
            parameter.Assign(weights);
        }
    }
}

/// <summary>A change of a weight.</summary>
/// <param name="Change">Makes the new weights from the current ones.</param>
/// <param name="Unpacks">Whether packed weights become plain ones.</param>
internal sealed record WeightEdit(Func<Tensor, Tensor> Change, bool Unpacks)
{
    /// <summary>Changes the weights where they lie, in the place of <see cref="Change"/>; null where it doesn't.</summary>
    public Action<Tensor>? InPlace { get; init; }
}
