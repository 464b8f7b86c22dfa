using Peft.Adapters.Model;
using Peft.Adapters.Slots;
using Peft.Models;

namespace Peft.Adapters.Merging;

/// <summary>What is in a model's weights, and the way back. What is merged is the active set.</summary>
/// <param name="model">The base.</param>
/// <param name="name">The model's name, for messages.</param>
/// <param name="adapters">Its adapters.</param>
internal sealed class ModelMerge(PretrainedModel model, string name, AdapterSet adapters)
{
    private WeightMerge? _merge;
    private IReadOnlyList<ActiveAdapter> _activeBefore = [];

    /// <summary>Names of the adapters that are in the weights, in the order they were merged.</summary>
    public IReadOnlyList<string> Names { get; private set; } = [];

    /// <summary>Whether adapters are in the weights and can be taken out again.</summary>
    public bool IsMerged => _merge is not null;

    /// <summary>Puts adapters into the weights, beside those that are there, at their strengths in the active set.</summary>
    /// <param name="names">The adapters in order; null for the active ones.</param>
    /// <param name="options">How.</param>
    public MergeReport Apply(IEnumerable<string>? names, MergeOptions options)
    {
        options = options with
        {
            DataType = options.DataType ?? _merge?.Options.DataType,
            Ground = options.Ground == MergeGround.Quantized && _merge is { } before ? before.Options.Ground : options.Ground,
        };
        string[] active = [.. adapters.Active.Select(static entry => entry.Name)];
        string[] asked = [.. names ?? active];
        string[] wanted = [.. Names.Union(asked, StringComparer.Ordinal)];
        adapters.RefuseConflicts(wanted);
        if (wanted.Length == 0)
        {
            throw new PeftException("NothingToMerge", $"The model '{name}' has no active adapter to merge.") { RecommendedAction = "Name the adapters to merge." };
        }

        foreach (var adapter in wanted.Select(adapter => adapters[adapter]))
        {
            if (adapter.Adapter.MergeObstacle is { } obstacle)
            {
                throw new PeftException("MergeNotPossible", $"The adapter '{adapter.Name}' can't be merged: {obstacle}.") { Target = adapter.Name };
            }
        }

        List<string> messages = [];
        if (wanted.Length == Names.Count && options.DataType == _merge?.Options.DataType && options.Ground == _merge?.Options.Ground && !options.Unload)
        {
            messages.Add($"{string.Join(", ", asked)}: merged already, nothing was done.");
            return new MergeReport(Names, [], messages);
        }

        var packed = options.DataType is null && options.Ground == MergeGround.Quantized ? PackedTargets(wanted) : [];
        if (packed.Count > 0)
        {
            messages.Add(QuantisedAgain(packed.Count, packed[0].Packed!.Kind));
        }

        string[] deactivated = [.. active.Except(wanted, StringComparer.Ordinal)];
        Exchange([.. wanted.Select(StrengthOf)], options);
        if (deactivated.Length > 0)
        {
            messages.Add($"No longer active: {string.Join(", ", deactivated)}. What is merged acts alone; the adapters stay in the model.");
        }

        if (options.Unload)
        {
            Finish(wanted, messages);
        }

        return new MergeReport(wanted, deactivated, messages) { QuantizedAgain = packed.Count };
    }

    /// <summary>Takes what is merged out of the weights, bit for bit; what was active before is active again.</summary>
    /// <param name="messages">Takes what the user should know.</param>
    public void Restore(List<string> messages)
    {
        if (_merge is null)
        {
            return;
        }

        _merge.Undo();
        _merge = null;
        messages.Add($"{string.Join(", ", Names)}: merged before; the weights are the base's own again.");
        Names = [];
        adapters.Activate(_activeBefore);
    }

    /// <summary>Refuses what can't be done while adapters are in the weights.</summary>
    /// <param name="what">The rest of the sentence, or null.</param>
    /// <exception cref="PeftException"><c>ModelIsMerged</c>.</exception>
    public void Refuse(string? what = null)
    {
        if (IsMerged)
        {
            throw new PeftException("ModelIsMerged", $"'{name}' has adapters merged into its weights ({string.Join(", ", Names)}){(what is null ? "" : ": " + what)}.")
            {
                RecommendedAction = "Undo the merge first.",
            };
        }
    }

    /// <summary>An adapter at its strength in the active set, or at full strength where it isn't in there.</summary>
    private ActiveAdapter StrengthOf(string adapter) => (IsMerged ? adapters.Active.Concat(_activeBefore) : adapters.Active).Where(entry => entry.Name == adapter).DefaultIfEmpty(new ActiveAdapter(adapter)).First();

    private List<Parameter> PackedTargets(string[] names) => [.. model.NamedParameters().Select(static named => named.Parameter)
        .Where(parameter => parameter is { Packed: not null, Slot: AdapterSlot slot } && names.Any(adapter => slot[adapter] is not null))];

    /// <summary>Replaces what is merged; brings the old state back when the new one can't be made.</summary>
    private void Exchange(ActiveAdapter[] wanted, MergeOptions options)
    {
        var before = adapters.Active;
        var optionsBefore = _merge?.Options;
        _activeBefore = IsMerged ? _activeBefore : adapters.Active;
        _merge?.Undo();
        _merge = null;
        try
        {
            _merge = WeightMerge.Apply(model, wanted, options);
        }
        catch
        {
            _merge = optionsBefore is null ? null : WeightMerge.Apply(model, before, optionsBefore with { Safe = false, Cancellation = default });
            throw;
        }

        Names = [.. wanted.Select(static entry => entry.Name)];
        adapters.Activate(wanted);
        adapters.Enable(true);
    }

    /// <summary>Makes the merge final: the model is a base of its own, and all adapters go.</summary>
    private void Finish(string[] wanted, List<string> messages)
    {
        _merge!.Keep();
        _merge = null;
        model.Replication?.Keep();
        string[] lost = [.. adapters.All.Select(static adapter => adapter.Name).Except(wanted, StringComparer.Ordinal)];
        adapters.Activate([]);
        foreach (var adapter in adapters.All.ToArray())
        {
            adapters.Drop(adapter, messages);
        }

        Names = [];
        if (lost.Length > 0)
        {
            messages.Add($"Removed with the merge, which changed the weights they were made for: {string.Join(", ", lost)}.");
        }
    }

    /// <summary>What a user should know of weights that were quantised again.</summary>
    internal static string QuantisedAgain(int count, string kind) =>
        $"{count} weights are quantised ({kind}): they were unpacked, changed and quantised again, which rounds the adapters' changes. A merge onto the unpacked or the original weights (-Onto), or into a type (-DataType), doesn't round them so.";
}
