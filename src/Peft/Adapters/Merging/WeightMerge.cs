using System.Text.Json.Nodes;
using Peft.Adapters.Methods.TrainableTokens;
using Peft.Adapters.Slots;
using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Merging;

/// <summary>
/// Adapters put into the weights, with everything needed to take them out again bit for bit. Weights are edited in place, so that views of them
/// stay valid; weights that several modules share are untied where only one of them changes.
/// </summary>
internal sealed class WeightMerge
{
    /// <summary>Elements of a block of rows: half a megabyte in float32.</summary>
    private const long BlockElements = 1 << 17;

    private const string TieKey = "tie_word_embeddings";

    private readonly PretrainedModel _model;
    private readonly IReadOnlyList<ActiveAdapter> _set;
    private readonly IReadOnlyList<string> _names;
    private readonly ILookup<Parameter, Parameter> _tied;
    private readonly WeightEdits _edits = new();
    private WeightEdits? _conversion;
    private WeightEdits? _precision;
    private bool _unties;

    // Nothing is kept to go back to, so that all that can fail is tried before the first weight changes.
    private bool _isFinal;
    private bool _isTrial;

    // Weights lie in mapped files, whose changed pages would stay in memory until the whole file is let go of.
    private bool _leavesFiles;

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
        var merge = new WeightMerge(model, set, options) { _isFinal = true, _leavesFiles = true };
        RefuseObstacles(model, merge._names);
        return module =>
        {
            using var noGradients = no_grad();
            if (options.Ground != MergeGround.Quantized)
            {
                Unpack(module);
            }

            merge.MergeModule(module);
            merge.Keep();
        };
    }

    /// <summary>
    /// Merges adapters in the given order, at their strengths. What fails on the way leaves every weight as it was. A final merge keeps no originals: it is
    /// checked first, where that is asked for, and goes through to its end once weights change.
    /// </summary>
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
            merge._isFinal = options.Unload && merge._conversion is null && merge._precision is null;
            if (merge._isFinal)
            {
                merge.Try();
            }

            foreach (var module in model.Descendants())
            {
                if (!merge._isFinal)
                {
                    options.Cancellation.ThrowIfCancellationRequested();
                }

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

    private static void Unpack(Module module)
    {
        foreach (var parameter in module.Parameters.Where(static parameter => parameter is { IsOwner: true, Packed: not null }))
        {
            using var scope = NewDisposeScope();
            parameter.Assign(parameter.Unpacked(parameter.DataType).contiguous());
        }
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

    /// <summary>Forms what would be merged and looks at it, without changing anything.</summary>
    private void Try()
    {
        _isTrial = true;
        foreach (var module in Options.Safe ? _model.Descendants() : [])
        {
            Options.Cancellation.ThrowIfCancellationRequested();
            MergeModule(module);
        }

        _isTrial = false;
        Options.Cancellation.ThrowIfCancellationRequested();
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
        if (!_isTrial && Products(weight, layers) is { } products)
        {
            AddInPlace(module, weight, layers[0].Layer, products);
            return;
        }

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

    /// <summary>The changes of a plain weight that nobody shares, where all are products of narrow factors and nothing else changes there; null otherwise.</summary>
    private LowRank[]? Products(Parameter weight, (LayerAdapter Layer, float Strength)[] layers)
    {
        if (weight.Value is null || weight.TiedTo is not null || _tied[weight].Any() || Overlay(weight) is not null || layers[0].Layer.Layer is not Linear linear || (linear.Bias is { } bias && Overlay(bias) is not null))
        {
            return null;
        }

        LowRank[] products = [.. layers.Select(static entry => entry.Layer.Fused(entry.Strength)).OfType<LowRank>().Where(static product => product is { Magnitude: null, Bias: null })];
        return products.Length == layers.Length ? products : null;
    }

    /// <summary>One pass over the weight: what is read of it is written again with the product of the narrow factors added.</summary>
    private void AddInPlace(Module module, Parameter weight, LayerAdapter layer, LowRank[] products)
    {
        if (_isFinal && weight.Edits is null)
        {
            if (_leavesFiles)
            {
                weight.Assign(weight.Data.clone());
            }

            Add(weight.Data);
            weight.MarkChanged();
        }
        else
        {
            _edits.EditInPlace(weight, Add);
        }

        RefuseNotFinite(module, weight, weight.Data);

        void Add(Tensor current) => AddProducts(layer.Layer.ToMatrix(current), products);
    }

    /// <summary>Adds scale · B · A of each. The sum is formed in float32 at least; of narrower types a few rows at a time, which stay in the cache.</summary>
    private static void AddProducts(Tensor matrix, LowRank[] products)
    {
        using var scope = NewDisposeScope();
        var type = matrix.dtype == ScalarType.Float64 ? ScalarType.Float64 : ScalarType.Float32;
        var factors = products.Select(product => (A: product.FactorA(type), B: product.FactorB(type), Scale: (float)product.Scale)).ToArray();
        if (matrix.dtype == type)
        {
            AddTo(matrix, 0);
            return;
        }

        var rows = Math.Max(1, BlockElements / matrix.shape[1]);
        for (long row = 0; row < matrix.shape[0]; row += rows)
        {
            using var own = NewDisposeScope();
            var block = matrix.narrow(0, row, Math.Min(rows, matrix.shape[0] - row));
            block.copy_(AddTo(block.to(type), row));
        }

        Tensor AddTo(Tensor block, long row)
        {
            foreach (var (a, b, scale) in factors)
            {
                block.addmm_(b.narrow(0, row, block.shape[0]), a, 1, scale);
            }

            return block;
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
        if (_isTrial)
        {
            return;
        }

        var owner = parameter.TiedTo ?? parameter;
        var others = _tied[owner].Append(owner).Where(other => other != parameter && (other == owner || other.TiedTo == owner)).ToArray();
        if (others.Length > 0 && !SharesOverlay(parameter, others))
        {
            Untie(parameter, owner, others);
        }

        var written = parameter.TiedTo ?? parameter;
        if (_isFinal && !_leavesFiles && written is { Edits: null, Packed: null })
        {
            written.Data.copy_(merged);
            written.MarkChanged();
        }
        else
        {
            _edits.Set(written, merged);
        }
    }

    /// <summary>Whether all who share the weight are replaced by the same copy, or have the same vectors of tokens, so that it may stay shared.</summary>
    private bool SharesOverlay(Parameter parameter, Parameter[] others) =>
        (Overlay(parameter) is { } copy && Array.TrueForAll(others, other => Overlay(other) == copy) && !IsAdapted(parameter) && !Array.Exists(others, IsAdapted))
        || (Rows(parameter) is { Length: > 0 } rows && Array.TrueForAll(others, other => Rows(other).SequenceEqual(rows)));

    /// <summary>Whether a merged adapter changes the parameter beyond replacing it.</summary>
    private bool IsAdapted(Parameter parameter) => parameter.Slot is AdapterSlot slot && _names.Any(name => slot[name] is not null);

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
