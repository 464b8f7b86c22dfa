using Peft.Models;
using Peft.Models.Layers;
using static TorchSharp.torch;

namespace Peft.Adapters.Slots;

/// <summary>
/// What adapters put on one parameter: for the weight of a layer a <see cref="LayerAdapter"/> each, for any parameter an overlay each.
/// Naming, choosing, mixing, weighting, per-row selection and the order of several adapters are done here once, for every method.
/// </summary>
public sealed class AdapterSlot : Slot
{
    private readonly List<(string Name, LayerAdapter Layer)> _layers = [];
    private readonly List<(string Name, Parameter Copy)> _overlays = [];
    private readonly HashSet<string> _merged = [];
    private Choice? _lastChoice;

    private AdapterSlot(Module module, Parameter parameter)
    {
        Module = module;
        Parameter = parameter;
    }

    /// <summary>The module that holds the parameter.</summary>
    public Module Module { get; }

    /// <summary>The parameter itself.</summary>
    public Parameter Parameter { get; }

    /// <summary>Whether nothing is attached any more.</summary>
    public bool IsEmpty => _layers.Count == 0 && _overlays.Count == 0;

    /// <summary>Names of the adapters whose change is in the weights at the moment.</summary>
    public IReadOnlyCollection<string> Merged => _merged;

    /// <summary>What all adapters have here.</summary>
    public IEnumerable<LayerAdapter> Layers => _layers.Select(static entry => entry.Layer);

    /// <summary>What the adapter of this name has here, or null.</summary>
    public LayerAdapter? this[string name] => _layers.Find(entry => entry.Name == name).Layer;

    /// <summary>Names of the adapters that have something here, in the order they were attached.</summary>
    public IEnumerable<string> Names => _layers.Select(static entry => entry.Name);

    /// <summary>What the adapter of this name has here, where it is of a kind; null otherwise.</summary>
    internal TLayer? Layer<TLayer>(string name)
        where TLayer : LayerAdapter => this[name] as TLayer;

    /// <summary>The slot of a parameter, made when it isn't there yet.</summary>
    public static AdapterSlot Of(Module module, Parameter parameter) =>
        (AdapterSlot)(parameter.Slot ??= new AdapterSlot(module, parameter));

    /// <summary>Puts an adapter's layer here.</summary>
    public void Attach(string name, LayerAdapter layer)
    {
        _layers.Add((name, layer));
        _lastChoice = null;
    }

    /// <summary>Puts an adapter's own copy of the parameter here.</summary>
    public void Attach(string name, Parameter copy)
    {
        _overlays.Add((name, copy));
        _lastChoice = null;
    }

    /// <summary>Takes everything of this name away, and the slot itself off the parameter when that was the last.</summary>
    public void Detach(string name)
    {
        _layers.RemoveAll(entry => entry.Name == name);
        _overlays.RemoveAll(entry => entry.Name == name);
        _merged.Remove(name);
        _lastChoice = null;
        if (IsEmpty)
        {
            Parameter.Slot = null;
        }
    }

    /// <summary>The copy with which the adapter of this name replaces the parameter, or null.</summary>
    public Parameter? OverlayOf(string name) => _overlays.Find(entry => entry.Name == name).Copy;

    /// <inheritdoc/>
    public override Parameter? Overlay(ForwardContext context) => Choose(context.Selection).Overlay;

    /// <inheritdoc/>
    public override SlotPlan Plan(ForwardContext context)
    {
        var choice = Choose(context.Selection);
        return choice is { Plan.NeedsForward: true, Rows: null, Spans: null } && (context.Tape is not null || context.Checkpointing) && ActsInWeight(choice, context)
            ? new SlotPlan([], NeedsForward: false) { Weight = choice.InWeight ??= new MergedWeight(this, [.. choice.Acting.Select(static entry => entry.Layer)]) }
            : choice.Plan;
    }

    /// <inheritdoc/>
    public override Tensor Forward(Tensor x, ForwardContext context, Func<Tensor, ForwardContext, Tensor> baseProduct)
    {
        context.Recorder?.Refuse();
        var choice = Choose(context.Selection);
        return choice.Spans is { } spans ? ForwardSpans(spans, x, context, baseProduct)
            : choice.Rows is { } rows ? ForwardRows(rows, x, context, baseProduct)
            : Nest(choice.Acting, x, context, baseProduct);
    }

    /// <summary>Says which adapters' changes are in the weights now; they no longer act beside them.</summary>
    internal void SetMerged(IEnumerable<string> names)
    {
        _merged.Clear();
        _merged.UnionWith(names.Where(name => this[name] is not null || OverlayOf(name) is not null));
        _lastChoice = null;
    }

    /// <summary>Whether a linear layer forms its product with what the adapters make of its weight. In lower precision a change may be less than a step of the weight's type.</summary>
    private bool ActsInWeight(Choice choice, ForwardContext context)
    {
        if (Module is not Linear || Parameter.Effective(context) is not { DataType: ScalarType.Float32, Packed: null, IsTrained: false })
        {
            return false;
        }

        foreach (var (layer, weight) in choice.Acting)
        {
            if (weight != 1f || !layer.ActsInWeight(context))
            {
                return false;
            }
        }

        return true;
    }

    /// <summary>Inputs pass from the outermost adapter to the innermost, outputs come back.</summary>
    private Tensor Nest(
        IReadOnlyList<(LayerAdapter Layer, float Weight)> acting, Tensor x, ForwardContext context, Func<Tensor, ForwardContext, Tensor> baseProduct)
    {
        var inputs = new Tensor[acting.Count];
        for (var i = acting.Count - 1; i >= 0; i--)
        {
            var (layer, weight) = acting[i];
            inputs[i] = x;
            if (layer.ChangesInput)
            {
                var call = new SlotCall(this, context, weight);
                x = context.Tape is { } tape && x.is_floating_point() ? tape.Autograd(given => layer.Before(given[0], call), [x], [.. layer.Reads(context)]) : layer.Before(x, call);
            }
        }

        var y = baseProduct(x, context);
        for (var i = 0; i < acting.Count; i++)
        {
            y = After(acting[i].Layer, inputs[i], y, new SlotCall(this, context, acting[i].Weight));
        }

        return y;
    }

    private static Tensor After(LayerAdapter layer, Tensor x, Tensor y, SlotCall call) =>
        call.Context.Tape is { } tape ? layer.AfterOn(tape, x, y, call) : layer.After(x, y, call);

    /// <summary>Adapters that share a pass: the layer's own product once for all positions, then every adapter on its stretch, as one piece.</summary>
    private Tensor ForwardSpans(IReadOnlyList<SpanGroup> groups, Tensor x, ForwardContext context, Func<Tensor, ForwardContext, Tensor> baseProduct)
    {
        var y = baseProduct(x, context with { Selection = AdapterSelection.Base });
        SlotCall[] calls = [.. groups.Select(group => new SlotCall(this, context with { Selection = group.Selection, Generator = context.Generators.GetValueOrDefault(group.Span.Name) }, 1f))];
        if (context.Tape is not { } tape)
        {
            return Together(x, y);
        }

        Parameter[] read = [.. groups.SelectMany((group, i) => group.Layer.Reads(calls[i].Context))];
        return x.is_floating_point() ? tape.Autograd(given => Together(given[0], given[1]), [x, y], read) : tape.Autograd(given => Together(x, given[0]), [y], read);

        Tensor Together(Tensor inputs, Tensor outputs)
        {
            List<Tensor> parts = [];
            long at = 0;
            foreach (var (i, (_, layer, (_, start, count))) in groups.Index())
            {
                parts.Add(outputs.narrow(0, at, start - at));
                parts.Add(layer.After(inputs.narrow(0, start, count), outputs.narrow(0, start, count), calls[i]).to(outputs.dtype));
                at = start + count;
            }

            parts.Add(outputs.narrow(0, at, outputs.size(0) - at));
            return cat([.. parts.Where(static part => part.size(0) > 0)], 0);
        }
    }

    /// <summary>A mixed batch: the layer's own product once for all rows, then every adapter on its rows.</summary>
    private Tensor ForwardRows(IReadOnlyList<RowGroup> groups, Tensor x, ForwardContext context, Func<Tensor, ForwardContext, Tensor> baseProduct)
    {
        RefuseUnfitRows(context);
        var y = baseProduct(x, context with { Selection = AdapterSelection.Base });

        foreach (var group in groups)
        {
            using var scope = NewDisposeScope();
            var rows = tensor(group.Rows, device: y.device);
            var inputs = Rows(x, rows, context);
            var inner = context with { Selection = group.Selection, Rows = group.Rows.Length };
            if (context.Activations.TryGetValue(group.Name, out var acts))
            {
                inner = inner with { Activations = new Dictionary<string, Tensor> { [group.Name] = acts.index_select(0, rows) } };
            }

            var outputs = OverlayOf(group.Name) is null ? Rows(y, rows, context) : baseProduct(inputs, inner);
            if (this[group.Name] is { } layer)
            {
                outputs = After(layer, inputs, outputs, new SlotCall(this, inner, 1f));
            }

            y = WithRows(y, rows, outputs, context).MoveToOuterDisposeScope();
        }

        return y;
    }

    /// <summary>Some rows of a batch. Whatever a layer is given (whole rows, or the last position of each), every row has an equal share of it.</summary>
    private static Tensor Rows(Tensor x, Tensor rows, ForwardContext context)
    {
        if (!x.is_floating_point())
        {
            var ids = x.view(context.Rows, -1).index_select(0, rows);
            return x.dim() == 1 ? ids.view(-1) : ids;
        }

        return context.Tape is { } tape ? tape.Autograd(given => Select(given[0]), [x], []) : Select(x);

        Tensor Select(Tensor given) => given.view([context.Rows, -1, .. given.shape[1..]]).index_select(0, rows).flatten(0, 1);
    }

    /// <summary>A batch with some rows replaced; in place where no tape needs what was there.</summary>
    private static Tensor WithRows(Tensor y, Tensor rows, Tensor replaced, ForwardContext context)
    {
        var shape = y.shape;
        if (context.Tape is { } tape)
        {
            return tape.Autograd(given => Shaped(given[0]).index_copy(0, rows, Part(given[1])).view(shape), [y, replaced], []);
        }

        Shaped(y).index_copy_(0, rows, Part(replaced));
        return y;

        Tensor Shaped(Tensor all) => all.view([context.Rows, -1, .. shape[1..]]);

        Tensor Part(Tensor part) => part.view([rows.size(0), -1, .. shape[1..]]).to(y.dtype);
    }

    private static void RefuseUnfitRows(ForwardContext context)
    {
        var names = context.Selection.RowNames!;
        // A block that will run again in the backward pass has no tape yet.
        if (context is { IsTraining: true, Tape: null, Checkpointing: false })
        {
            throw new PeftException("MixedBatchInTraining", "A batch with an adapter for each row is trained on with a tape, or computed without training.");
        }

        if (names.Count != context.Rows)
        {
            throw new PeftException(
                "RowNamesMismatch", $"A mixed batch needs one adapter name for each row: {names.Count} names were given for {context.Rows} rows.");
        }
    }

    private Choice Choose(AdapterSelection selection)
    {
        var last = _lastChoice;
        if (last is not null && ReferenceEquals(last.Selection, selection))
        {
            return last;
        }

        return _lastChoice = selection.Spans is { } spans ? ChooseBySpan(selection, spans)
            : selection.RowNames is { } names ? ChooseByRow(selection, names)
            : ChooseForAll(selection);
    }

    private Choice ChooseForAll(AdapterSelection selection)
    {
        List<(LayerAdapter Layer, float Weight)> acting = [];
        Parameter? overlay = null;
        foreach (var entry in selection.Order)
        {
            var name = entry.Name;
            if (_merged.Contains(name))
            {
                continue;
            }

            overlay = OverlayOf(name) ?? overlay;
            if (this[name] is { } layer)
            {
                acting.Add((layer, entry.At(Module.Path)));
            }
        }

        var factors = acting.Select(static entry => entry.Layer.Fused(entry.Weight)).ToArray();

        // Lengths are of the outputs with everything inside of them, so that they act alone.
        var isFused = Array.TrueForAll(factors, factor => factor is not null && (factors.Length == 1 || factor.Magnitude is null));
        var plan = factors.Length == 0 ? SlotPlan.Empty
            : isFused ? new SlotPlan([.. factors.OfType<LowRank>()], NeedsForward: false)
            : new SlotPlan([], NeedsForward: true);
        return new Choice(selection, plan, overlay, acting, null);
    }

    private Choice ChooseBySpan(AdapterSelection selection, IReadOnlyList<AdapterSpan> spans)
    {
        SpanGroup[] groups = [.. spans.Where(span => this[span.Name] is not null).Select(span => new SpanGroup(AdapterSelection.Of(span.Name), this[span.Name]!, span))];
        LowRank[] factors = Module is Linear ? [.. groups.Select(static group => group.Layer.Fused(1) is { Magnitude: null } change ? change with { Span = group.Span } : null).OfType<LowRank>()] : [];
        var plan = groups.Length == 0 ? SlotPlan.Empty : factors.Length == groups.Length ? new SlotPlan(factors, NeedsForward: false) : new SlotPlan([], NeedsForward: true);
        return new Choice(selection, plan, null, [], null) { Spans = groups };
    }

    private Choice ChooseByRow(AdapterSelection selection, IReadOnlyList<string> names)
    {
        var groups = names.Select(static (name, row) => (Name: name, Row: (long)row))
            .GroupBy(static entry => entry.Name, static entry => entry.Row)
            .Where(group => this[group.Key] is not null || OverlayOf(group.Key) is not null)
            .Select(static group => new RowGroup(group.Key, AdapterSelection.Of(group.Key), [.. group]))
            .ToArray();
        return new Choice(selection, groups.Length == 0 ? SlotPlan.Empty : new SlotPlan([], NeedsForward: true), null, [], groups);
    }

    /// <summary>What a selection means here; kept for the next pass, for a selection is immutable and passes by the thousand.</summary>
    private sealed record Choice(
        AdapterSelection Selection, SlotPlan Plan, Parameter? Overlay, IReadOnlyList<(LayerAdapter Layer, float Weight)> Acting, IReadOnlyList<RowGroup>? Rows)
    {
        public IReadOnlyList<SpanGroup>? Spans { get; init; }

        /// <summary>The weight that the acting adapters make, once it was asked for.</summary>
        public MergedWeight? InWeight { get; set; }
    }

    /// <summary>The layer's weight with adapters merged into it, for a pass.</summary>
    private sealed class MergedWeight(AdapterSlot slot, LayerAdapter[] layers) : WeightChange
    {
        public override IReadOnlyList<Parameter> Trained => [.. layers.SelectMany(static layer => layer.Parameters).Select(static entry => entry.Parameter).Where(static parameter => parameter.IsTrained).Distinct()];

        public override Tensor Form(ForwardContext context)
        {
            var bare = new Affine(slot.Parameter.Effective(context).Data, null);
            var current = new Affine(bare.Weight.clone(), null);
            foreach (var layer in layers)
            {
                current = layer.Merge(current, bare);
            }

            return layers[0].Layer.ToMatrix(current.Weight);
        }
    }

    private sealed record SpanGroup(AdapterSelection Selection, LayerAdapter Layer, AdapterSpan Span);

    private sealed record RowGroup(string Name, AdapterSelection Selection, long[] Rows);
}
