using System.Globalization;
using Peft.Models;

namespace Peft.Adapters.Model;

/// <summary>A model's adapters: which there are, which are active, and whether they act.</summary>
/// <param name="model">The model's name, for messages.</param>
internal sealed class AdapterSet(string model)
{
    private readonly List<PeftAdapter> _adapters = [];

    /// <summary>The adapters, in the order they were added.</summary>
    public IReadOnlyList<PeftAdapter> All => _adapters;

    /// <summary>The active ones with their strengths, innermost first.</summary>
    public IReadOnlyList<ActiveAdapter> Active { get; private set; } = [];

    /// <summary>Whether the active adapters act.</summary>
    public bool IsEnabled { get; private set; } = true;

    /// <summary>What a forward pass carries; the same object until something changes.</summary>
    public AdapterSelection Selection { get; private set; } = AdapterSelection.Base;

    /// <summary>Rises with every change.</summary>
    public int Version { get; private set; }

    /// <summary>The adapter of a name.</summary>
    /// <exception cref="PeftException"><c>AdapterNotFound</c>.</exception>
    public PeftAdapter this[string name] => Find(name) ?? throw new PeftException(
        "AdapterNotFound", $"The model '{model}' has no adapter '{name}'; it has {(_adapters.Count == 0 ? "none" : string.Join(", ", _adapters.Select(static adapter => adapter.Name)))}.{Spelling.DidYouMean(name, _adapters.Select(static adapter => adapter.Name))}")
    {
        Target = name,
        RecommendedAction = name == AdapterFactory.BaseName ? "Disable-PeftAdapter turns all adapters off, so that the base acts alone." : _adapters.Count == 0 ? "Add, load or train one first." : "Give the name of one that it has.",
    };

    /// <summary>The adapter of a name, or null.</summary>
    public PeftAdapter? Find(string name) => _adapters.Find(adapter => adapter.Name == name);

    /// <summary>Takes an adapter in and puts it into its slots; the first one becomes active.</summary>
    /// <param name="adapter">The adapter.</param>
    /// <param name="position">Its place among the others; null for the last.</param>
    public void Insert(PeftAdapter adapter, int? position = null)
    {
        adapter.Adapter.Attach();
        _adapters.Insert(position ?? _adapters.Count, adapter);
        if (Active.Count == 0 && _adapters.Count == 1)
        {
            Active = [new ActiveAdapter(adapter.Name)];
        }

        Changed();
    }

    /// <summary>Takes an adapter out of its slots and forgets it; it can come back.</summary>
    /// <returns>Where it stood.</returns>
    public int Remove(PeftAdapter adapter)
    {
        var position = _adapters.IndexOf(adapter);
        _adapters.RemoveAt(position);
        adapter.Adapter.Detach();
        Changed();
        return position;
    }

    /// <summary>Removes an adapter for good; where it was the only active one, the first of the others becomes active.</summary>
    /// <param name="adapter">The adapter.</param>
    /// <param name="messages">Takes what the user should know.</param>
    public void Drop(PeftAdapter adapter, List<string> messages)
    {
        Remove(adapter);
        adapter.Adapter.Dispose();
        if (Active.Any(entry => entry.Name == adapter.Name))
        {
            Active = [.. Active.Where(entry => entry.Name != adapter.Name)];
            if (Active.Count == 0 && _adapters.Count > 0)
            {
                Active = [new ActiveAdapter(_adapters[0].Name)];
                messages.Add($"'{adapter.Name}' was the active adapter; '{_adapters[0].Name}' is active now.");
            }
        }

        Changed();
    }

    /// <summary>Makes these the active adapters.</summary>
    public void Activate(IReadOnlyList<ActiveAdapter> set)
    {
        Active = set;
        Changed();
    }

    /// <summary>Lets the active adapters act, or the base alone.</summary>
    public void Enable(bool enabled)
    {
        IsEnabled = enabled;
        Changed();
    }

    /// <summary>Frees everything.</summary>
    public void Clear()
    {
        _adapters.ForEach(static adapter => adapter.Adapter.Dispose());
        _adapters.Clear();
    }

    /// <summary>Refuses strengths that are no numbers.</summary>
    /// <exception cref="PeftException"><c>AdapterWeightInvalid</c>.</exception>
    public static void RefuseWeights(IEnumerable<ActiveAdapter> set)
    {
        foreach (var unfit in set.Where(static entry => !float.IsFinite(entry.Weight)))
        {
            throw new PeftException("AdapterWeightInvalid", string.Create(CultureInfo.InvariantCulture, $"The strength of the adapter '{unfit.Name}' is {unfit.Weight}, which is no number to multiply with."))
            {
                Target = unfit.Name,
                RecommendedAction = "Give a finite number; 1 is full strength.",
            };
        }
    }

    /// <summary>Refuses adapters that can't act together.</summary>
    /// <exception cref="PeftException"><c>AdapterNotFound</c>, <c>AdapterNamedTwice</c> or <c>OverlaysConflict</c>.</exception>
    public void RefuseConflicts(IReadOnlyList<string> names)
    {
        if (names.GroupBy(static name => name).FirstOrDefault(static group => group.Count() > 1) is { } twice)
        {
            throw new PeftException("AdapterNamedTwice", $"The adapter '{twice.Key}' is named twice.") { Target = twice.Key };
        }

        RefuseConflicts(names.Select(name => this[name].Adapter));
    }

    /// <summary>The same for an adapter that takes the place of an active one, for it acts at once.</summary>
    public void RefuseConflicts(Adapter replacement)
    {
        if (Active.Any(entry => entry.Name == replacement.Name))
        {
            RefuseConflicts(Active.Select(entry => entry.Name == replacement.Name ? replacement : this[entry.Name].Adapter));
        }
    }

    /// <summary>Refuses a mixed batch in which an adapter would change more than its rows.</summary>
    /// <exception cref="PeftException"><c>AdapterNotFound</c> or <c>MixedBatchNotPossible</c>.</exception>
    public void RefuseRows(IEnumerable<string> rowNames)
    {
        foreach (var name in rowNames.Distinct().Where(static name => name != AdapterSelection.BaseRow))
        {
            var adapter = this[name].Adapter;
            var whole = adapter.Layers.Where(static layer => !layer.Adapter.RowSelectable).Select(static layer => layer.Layer.Path)
                .Concat(adapter.Overlays.SelectMany(static overlay => overlay.Targets)
                    .Where(static target => target.Parameter.Name != "weight")
                    .Select(static target => $"{target.Path}.{target.Key}"))
                .FirstOrDefault() ?? (adapter.Layers.Count + adapter.Overlays.Count == 0 ? "the whole pass" : null);
            if (whole is not null)
            {
                throw new PeftException("MixedBatchNotPossible", $"The adapter '{name}' can't act on some rows of a batch alone: '{whole}' would change for all.") { Target = name };
            }
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

    private void Changed()
    {
        Selection = IsEnabled && Active.Count > 0 ? new AdapterSelection(Active) : AdapterSelection.Base;
        Version++;
    }
}
