using System.Text.Json.Nodes;
using Peft.Adapters.Methods.TrainableTokens;
using Peft.Adapters.Slots;
using Peft.Models;
using static TorchSharp.torch;

namespace Peft.Adapters.Merging;

/// <summary>
/// Adapters put into the weights, with everything needed to take them out again bit for bit. Weights are edited in place, so that views of them
/// stay valid; weights that several modules share are untied where only one of them changes.
/// </summary>
internal sealed class WeightMerge
{
    private const string TieKey = "tie_word_embeddings";

    private readonly PretrainedModel _model;
    private readonly IReadOnlyList<ActiveAdapter> _set;
    private readonly IReadOnlyList<string> _names;
    private readonly ILookup<Parameter, Parameter> _tied;
    private readonly WeightEdits _edits = new();
    private WeightEdits? _conversion;
    private WeightEdits? _precision;
    private bool _unties;

    private WeightMerge(PretrainedModel model, IReadOnlyList<ActiveAdapter> set, MergeOptions options)
    {
        _model = model;
        _set = set;
        _names = [.. set.Select(static entry => entry.Name)];
        Options = options;
        _tied = model.NamedParameters().Select(static named => named.Parameter).Where(static parameter => parameter.TiedTo is not null)
            .Distinct().ToLookup(static parameter => parameter.TiedTo!);
    }

    /// <summary>How it was merged.</summary>
    public MergeOptions Options { get; }

    /// <summary>Merges adapters into one module after the other, as the caller asks for them, for good: for weights that are written and let go of.</summary>
    /// <exception cref="PeftException"><c>MergeNotPossible</c>.</exception>
    public static Action<Module> ByModule(PretrainedModel model, IReadOnlyList<ActiveAdapter> set, MergeOptions options)
    {
        var merge = new WeightMerge(model, set, options);
        RefuseObstacles(model, merge._names);
        return module =>
        {
            using var noGradients = no_grad();
            merge.MergeModule(module);
            merge.Keep();
        };
    }

    /// <summary>Merges adapters in the given order, at their strengths. What fails on the way leaves every weight as it was.</summary>
    /// <exception cref="PeftException"><c>MergeNotPossible</c>, <c>MergeNotFinite</c> or <c>WeightsNotLoaded</c>.</exception>
    public static WeightMerge Apply(PretrainedModel model, IReadOnlyList<ActiveAdapter> set, MergeOptions options)
    {
        var merge = new WeightMerge(model, set, options);
        RefuseObstacles(model, merge._names);
        try
        {
            using var noGradients = no_grad();
            merge._conversion = Unpacked(model, options);
            merge._precision = options.DataType is { } type ? WeightEdits.Convert(model, type) : null;
            foreach (var module in model.Descendants())
            {
                options.Cancellation.ThrowIfCancellationRequested();
                merge.MergeModule(module);
            }

            merge.MarkSlots(merge._names);
        }
        catch (Exception error)
        {
            merge.Undo();
            if (Engine.EngineErrors.IsOutOfMemory(error))
            {
                throw new PeftException("OutOfMemory", $"There is not enough memory to merge {string.Join(", ", merge._names)}. Nothing was changed.", error)
                {
                    RecommendedAction = "Merge-LoraAdapter -Path BASE -AdapterPath ADAPTER -OutputPath FOLDER merges from folder to folder, a file at a time; -Unload needs no copy of the originals.",
                };
            }

            throw;
        }

        return merge;
    }

    /// <summary>Gives every weight its original bits back.</summary>
    public void Undo()
    {
        WeightEdits.Undo([.. new[] { _edits, _precision, _conversion }.OfType<WeightEdits>()]);
        if (_unties)
        {
            _model.Config.Document[TieKey] = true;
        }

        MarkSlots([]);
    }

    /// <summary>Drops the originals: the merge is final.</summary>
    public void Keep()
    {
        _edits.Keep();
        _precision?.Keep();
        _conversion?.Keep();
    }

    /// <summary>What the changes are added to, where it isn't the weights as they are.</summary>
    private static WeightEdits? Unpacked(PretrainedModel model, MergeOptions options)
    {
        if (options.Ground == MergeGround.Quantized || !model.NamedParameters().Any(static named => named.Parameter.Packed is not null))
        {
            return null;
        }

        using var scope = NewDisposeScope();
        using var original = options.Ground == MergeGround.Original ? OpenOriginal(options.OriginalPath) : null;
        return WeightEdits.Unpack(model, original);
    }

    private static PretrainedModel OpenOriginal(string? path)
    {
        try
        {
            return ModelLoader.Load(path ?? throw new PeftException("MergeOriginalMissing", "The model wasn't loaded from a folder, so its unquantised weights aren't known."));
        }
        catch (NotSupportedByPeftException error) when (error.ErrorId == "QuantizationNotSupported")
        {
            throw new PeftException("MergeOriginalMissing", $"'{path}' holds quantised weights, not those that they were made from.", error) { Target = path };
        }
    }

    private static void RefuseObstacles(PretrainedModel model, IReadOnlyList<string> names)
    {
        foreach (var (path, parameter, _) in model.NamedParameters())
        {
            foreach (var name in parameter.Slot is AdapterSlot ? names : [])
            {
                if (((AdapterSlot)parameter.Slot!)[name]?.MergeObstacle is { } obstacle)
                {
                    throw new PeftException("MergeNotPossible", $"The adapter '{name}' can't be merged into '{path}': {obstacle}.") { Target = path };
                }
            }
        }
    }

    private void MarkSlots(IReadOnlyList<string> merged)
    {
        foreach (var (_, parameter, _) in _model.NamedParameters())
        {
            (parameter.Slot as AdapterSlot)?.SetMerged(merged);
        }
    }

    private void MergeModule(Module module)
    {
        foreach (var parameter in module.Parameters)
        {
            if (parameter.Slot is AdapterSlot slot && _names.Any(name => slot[name] is not null || slot.OverlayOf(name) is not null))
            {
                using var scope = NewDisposeScope();
                if (_names.Any(name => slot[name] is not null))
                {
                    MergeLayer(module, parameter, slot);
                }
                else if (!IsChangedWithItsLayer(module, parameter))
                {
                    Write(module, parameter, Current(parameter));
                }
            }
        }
    }

    private void MergeLayer(Module module, Parameter weight, AdapterSlot slot)
    {
        (LayerAdapter Layer, float Strength)[] layers = [.. _set.Where(entry => slot[entry.Name] is not null).Select(entry => (slot[entry.Name]!, entry.At(module.Path)))];
        var bias = layers[0].Layer.Layer.Bias;
        var type = weight.DataType == ScalarType.Float64 ? ScalarType.Float64 : ScalarType.Float32;
        var bare = new Affine(Current(weight).to(type), bias is null ? null : Current(bias).to(type));
        var affine = new Affine(bare.Weight.clone(), bare.Bias?.clone());
        foreach (var (layer, strength) in layers)
        {
            affine = layer.Merge(affine, bare, strength);
        }

        Write(module, weight, affine.Weight);
        if (bias is not null)
        {
            Write(module, bias, affine.Bias!);
        }
    }

    /// <summary>A bias is written together with the weight of its layer where an adapter changes that.</summary>
    private bool IsChangedWithItsLayer(Module module, Parameter parameter) =>
        module.Parameters.Any(other => other.Slot is AdapterSlot slot && _names.Any(name => slot[name]?.Layer.Bias == parameter));

    private Parameter? Overlay(Parameter parameter) => parameter.Slot is AdapterSlot slot
        ? _names.Select(slot.OverlayOf).LastOrDefault(static copy => copy is not null)
        : null;

    private Tensor Current(Parameter parameter)
    {
        var current = Overlay(parameter) ?? parameter;
        return current.Unpacked(current.DataType);
    }

    private void Write(Module module, Parameter parameter, Tensor merged)
    {
        RefuseNotFinite(module, parameter, merged);
        var owner = parameter.TiedTo ?? parameter;
        var others = _tied[owner].Append(owner).Where(other => other != parameter && (other == owner || other.TiedTo == owner)).ToArray();
        if (others.Length > 0 && !SharesOverlay(parameter, others))
        {
            Untie(parameter, owner, others);
        }

        _edits.Set(parameter.TiedTo ?? parameter, merged);
    }

    /// <summary>Whether all who share the weight are replaced by the same copy, or have the same vectors of tokens, so that it may stay shared.</summary>
    private bool SharesOverlay(Parameter parameter, Parameter[] others) =>
        (Overlay(parameter) is { } copy && Array.TrueForAll(others, other => Overlay(other) == copy))
        || (Rows(parameter) is { Length: > 0 } rows && Array.TrueForAll(others, other => Rows(other).SequenceEqual(rows)));

    /// <summary>What replaces rows of a parameter, where nothing else acts on it.</summary>
    private Parameter[] Rows(Parameter parameter)
    {
        LayerAdapter[] layers = parameter.Slot is AdapterSlot slot ? [.. _names.Select(name => slot[name]).OfType<LayerAdapter>()] : [];
        return Array.TrueForAll(layers, static layer => layer is TokenRowsLayer) ? [.. layers.Select(static layer => ((TokenRowsLayer)layer).Rows)] : [];
    }

    private void Untie(Parameter parameter, Parameter owner, Parameter[] others)
    {
        // An edited parameter has weights of its own.
        foreach (var leaving in parameter == owner ? others : [parameter])
        {
            _edits.Edit(leaving, static current => current);
        }

        if (_model.TiedParameters.Any(tie => _model.FindParameter(tie.Owner) == owner) && _model.Config.Document[TieKey] is JsonValue flag && flag.TryGetValue<bool>(out var value) && value)
        {
            _model.Config.Document[TieKey] = false;
            _unties = true;
        }
    }

    private void RefuseNotFinite(Module module, Parameter parameter, Tensor merged)
    {
        if (!Options.Safe)
        {
            return;
        }

        using var finite = merged.isfinite().all();
        if (!finite.item<bool>())
        {
            throw new PeftException(
                "MergeNotFinite",
                $"Merging {string.Join(", ", _names)} would give '{module.Path}.{parameter.Name}' values that are not finite (NaN or infinity). Nothing was changed.")
            {
                Target = $"{module.Path}.{parameter.Name}",
                RecommendedAction = "The adapter is broken there: train it again with a lower learning rate, or load an earlier checkpoint.",
            };
        }
    }
}
