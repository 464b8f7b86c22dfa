using System.Globalization;
using Peft.Adapters.Merging;
using Peft.Models;

namespace Peft.Adapters.Model;

/// <content>Which adapters act, and what is in the weights.</content>
public sealed partial class PeftModel
{
    /// <summary>Activates adapters in this order, innermost first, each at full strength, and no others.</summary>
    public IReadOnlyList<string> SetActive(params IEnumerable<string> names) => SetActive(names.Select(static name => new ActiveAdapter(name)));

    /// <summary>Activates adapters in this order, innermost first, and no others. What is merged is restored first.</summary>
    /// <param name="set">Names and strengths; empty for the base alone.</param>
    /// <returns>What the user should know.</returns>
    /// <exception cref="PeftException"><c>AdapterNotFound</c>, <c>AdapterNamedTwice</c>, <c>AdapterWeightInvalid</c> or <c>OverlaysConflict</c>.</exception>
    public IReadOnlyList<string> SetActive(IEnumerable<ActiveAdapter> set)
    {
        using var held = Acquire("choosing adapters");
        ActiveAdapter[] chosen = [.. set];
        foreach (var unfit in chosen.Where(static entry => !float.IsFinite(entry.Weight)))
        {
            throw new PeftException("AdapterWeightInvalid", string.Create(CultureInfo.InvariantCulture, $"The strength of the adapter '{unfit.Name}' is {unfit.Weight}, which is no number to multiply with."))
            {
                Target = unfit.Name,
                RecommendedAction = "Give a finite number; 1 is full strength.",
            };
        }

        RefuseConflicts([.. chosen.Select(static entry => entry.Name)]);
        List<string> messages = [];
        Restore(messages);
        active = chosen;
        Changed();
        return messages;
    }

    /// <summary>A selection of adapters for a single pass, without changing what is active.</summary>
    /// <param name="names">Names in order, innermost first; none for the base.</param>
    /// <exception cref="PeftException">As <see cref="SetActive(IEnumerable{ActiveAdapter})"/>, and <c>ModelIsMerged</c>: what is merged can't be left out of a pass.</exception>
    public AdapterSelection Select(params IEnumerable<string> names)
    {
        string[] chosen = [.. names];
        RefuseConflicts(chosen);
        if (IsMerged && !chosen.SequenceEqual(MergedAdapters))
        {
            throw MergedError($"another selection than {string.Join(", ", MergedAdapters)} can't be computed");
        }

        return chosen.Length == 0 ? AdapterSelection.Base : AdapterSelection.Of(chosen);
    }

    /// <summary>A selection for a mixed batch: another adapter, or none, for each row.</summary>
    /// <param name="rowNames">One name a row; <see cref="AdapterSelection.BaseRow"/> for the base alone.</param>
    /// <exception cref="PeftException"><c>AdapterNotFound</c>, <c>ModelIsMerged</c> or <c>MixedBatchNotPossible</c>.</exception>
    public AdapterSelection SelectRows(IReadOnlyList<string> rowNames)
    {
        if (IsMerged)
        {
            throw MergedError("a mixed batch can't be computed");
        }

        foreach (var name in rowNames.Distinct().Where(static name => name != AdapterSelection.BaseRow))
        {
            var adapter = this[name].Adapter;
            var whole = adapter.Layers.Where(static layer => !layer.Adapter.RowSelectable).Select(static layer => layer.Layer.Path)
                .Concat(adapter.Overlays.SelectMany(static overlay => overlay.Targets)
                    .Where(static target => target.Parameter.Name != "weight")
                    .Select(static target => $"{target.Path}.{target.Key}"))
                .FirstOrDefault();
            if (whole is not null)
            {
                throw new PeftException("MixedBatchNotPossible", $"The adapter '{name}' can't act on some rows of a batch alone: '{whole}' would change for all.") { Target = name };
            }
        }

        return new AdapterSelection([], [.. rowNames]);
    }

    /// <summary>Lets the active adapters act again.</summary>
    public IReadOnlyList<string> Enable()
    {
        using var held = Acquire("enabling adapters");
        AdaptersEnabled = true;
        Changed();
        return [];
    }

    /// <summary>Lets the base speak alone; the active set is kept. What is merged is restored first.</summary>
    /// <returns>What the user should know.</returns>
    public IReadOnlyList<string> Disable()
    {
        using var held = Acquire("disabling adapters");
        List<string> messages = [];
        Restore(messages);
        AdaptersEnabled = false;
        Changed();
        return messages;
    }

    /// <summary>Removes an adapter and frees it. Where it was the only active one, the first of the others becomes active.</summary>
    /// <returns>What the user should know.</returns>
    /// <exception cref="PeftException"><c>AdapterNotFound</c>.</exception>
    public IReadOnlyList<string> RemoveAdapter(string name)
    {
        using var held = Acquire("removing an adapter");
        var adapter = this[name];
        List<string> messages = [];
        Restore(messages);
        Drop(adapter);
        if (active.Any(entry => entry.Name == name))
        {
            active = [.. active.Where(entry => entry.Name != name)];
            if (active.Count == 0 && adapters.Count > 0)
            {
                active = [new ActiveAdapter(adapters[0].Name)];
                messages.Add($"'{name}' was the active adapter; '{adapters[0].Name}' is active now.");
            }
        }

        Changed();
        return messages;
    }

    /// <summary>
    /// Puts adapters into the weights. They become the active set, and the model stays able to take them out again, bit for bit,
    /// unless <see cref="MergeOptions.Unload"/> makes it final. What was merged before stays merged, in front.
    /// </summary>
    /// <param name="names">The adapters in order, innermost first; null for the active ones.</param>
    /// <param name="options">How.</param>
    /// <exception cref="PeftException"><c>AdapterNotFound</c>, <c>NothingToMerge</c>, <c>OverlaysConflict</c>, <c>MergeNotPossible</c> or <c>MergeNotFinite</c>; nothing has changed then.</exception>
    public MergeReport Merge(IEnumerable<string>? names = null, MergeOptions? options = null)
    {
        using var held = Acquire("merging");
        options ??= new MergeOptions();
        options = options with { DataType = options.DataType ?? merge?.Options.DataType };
        string[] asked = [.. names ?? ActiveAdapters];
        string[] wanted = [.. MergedAdapters.Union(asked, StringComparer.Ordinal)];
        RefuseConflicts(wanted);
        if (wanted.Length == 0)
        {
            throw new PeftException("NothingToMerge", $"The model '{Name}' has no active adapter to merge.") { RecommendedAction = "Name the adapters to merge." };
        }

        List<string> messages = [];
        if (wanted.Length == MergedAdapters.Count && options.DataType == merge?.Options.DataType && !options.Unload)
        {
            messages.Add($"{string.Join(", ", asked)}: merged already, nothing was done.");
            return new MergeReport(MergedAdapters, [], messages);
        }

        if (active.Any(entry => wanted.Contains(entry.Name) && entry.Weight != 1f))
        {
            messages.Add("Adapters are merged at full strength, whatever their strength in the active set was.");
        }

        string[] deactivated = [.. ActiveAdapters.Except(wanted, StringComparer.Ordinal)];
        Exchange(wanted, options);
        if (deactivated.Length > 0)
        {
            messages.Add($"{string.Join(", ", deactivated)}: active before, not any more, for what is merged is the active set.");
        }

        if (options.Unload)
        {
            Finish(wanted, messages);
        }

        Changed();
        return new MergeReport(wanted, deactivated, messages);
    }

    /// <summary>Takes merged adapters out of the weights, bit for bit; what was active before the merge is active again.</summary>
    /// <returns>What the user should know.</returns>
    public IReadOnlyList<string> UndoMerge()
    {
        using var held = Acquire("undoing a merge");
        if (!IsMerged)
        {
            return [$"Nothing is merged into '{Name}'."];
        }

        List<string> messages = [];
        Restore(messages);
        Changed();
        return [];
    }

    /// <summary>Replaces what is merged; brings the old state back when the new one can't be made.</summary>
    private void Exchange(string[] wanted, MergeOptions options)
    {
        var before = MergedAdapters;
        var optionsBefore = merge?.Options;
        activeBeforeMerge = IsMerged ? activeBeforeMerge : active;
        merge?.Undo();
        merge = null;
        try
        {
            merge = WeightMerge.Apply(Base, wanted, options);
        }
        catch
        {
            merge = optionsBefore is null ? null : WeightMerge.Apply(Base, before, optionsBefore with { Safe = false, Cancellation = default });
            throw;
        }

        MergedAdapters = wanted;
        active = [.. wanted.Select(static name => new ActiveAdapter(name))];
        AdaptersEnabled = true;
    }

    private void Finish(string[] wanted, List<string> messages)
    {
        merge!.Dispose();
        merge = null;
        string[] lost = [.. adapters.Select(static adapter => adapter.Name).Except(wanted, StringComparer.Ordinal)];
        foreach (var adapter in adapters.ToArray())
        {
            Drop(adapter);
        }

        MergedAdapters = [];
        active = [];
        if (lost.Length > 0)
        {
            messages.Add($"Removed with the merge, which changed the weights they were made for: {string.Join(", ", lost)}.");
        }
    }

    private void Restore(List<string> messages)
    {
        if (merge is null)
        {
            return;
        }

        merge.Undo();
        merge = null;
        messages.Add($"{string.Join(", ", MergedAdapters)}: merged before; the weights are the base's own again.");
        MergedAdapters = [];
        active = activeBeforeMerge;
    }

    private void RefuseConflicts(string[] names)
    {
        if (names.GroupBy(static name => name).FirstOrDefault(static group => group.Count() > 1) is { } twice)
        {
            throw new PeftException("AdapterNamedTwice", $"The adapter '{twice.Key}' is named twice.") { Target = twice.Key };
        }

        RefuseConflicts(names.Select(name => this[name].Adapter));
    }

    /// <summary>An adapter that takes the place of an active one acts at once.</summary>
    private void RefuseConflicts(Adapter replacement)
    {
        if (active.Any(entry => entry.Name == replacement.Name))
        {
            RefuseConflicts(active.Select(entry => entry.Name == replacement.Name ? replacement : this[entry.Name].Adapter));
        }
    }

    private static void RefuseConflicts(IEnumerable<Adapter> together)
    {
        Dictionary<Parameter, string> replaced = [];
        foreach (var adapter in together)
        {
            foreach (var target in adapter.Overlays.SelectMany(static overlay => overlay.Targets))
            {
                if (!replaced.TryAdd(target.Parameter, adapter.Name))
                {
                    throw new PeftException(
                        "OverlaysConflict",
                        $"'{replaced[target.Parameter]}' and '{adapter.Name}' each have their own {target.Path}.{target.Parameter.Name} (modules_to_save, or a trained bias): only one can act at a time.")
                    {
                        Target = target.Path,
                    };
                }
            }
        }
    }

    private PeftException MergedError(string what) => new(
        "ModelIsMerged", $"'{Name}' has adapters merged into its weights ({string.Join(", ", MergedAdapters)}): {what}.")
    {
        RecommendedAction = "Undo the merge first.",
    };
}
