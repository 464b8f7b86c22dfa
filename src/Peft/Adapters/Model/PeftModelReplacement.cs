using Peft.Models;

namespace Peft.Adapters.Model;

/// <content>Replacing an adapter so that the old one can come back.</content>
public sealed partial class PeftModel
{
    /// <summary>Adds a new adapter, in the place of the one of its name where there is one, which comes back when the replacement is undone.</summary>
    /// <param name="config">The configuration.</param>
    /// <param name="name">The adapter's name.</param>
    /// <param name="seed">Makes the starting values repeatable; null draws another start each time.</param>
    /// <exception cref="PeftException">As <see cref="AddAdapter"/>, save <c>AdapterExists</c>; nothing has changed then.</exception>
    /// <exception cref="NotSupportedByPeftException">A variant without code, named by its key.</exception>
    public AdapterReplacement ReplaceAdapter(AdapterConfig config, string name = "default", ulong? seed = null)
    {
        using var held = Acquire("replacing an adapter");
        var adapter = Create(config, name, seed, out var report);
        var before = active;
        var position = adapters.FindIndex(existing => existing.Name == name);
        var replaced = position < 0 ? null : adapters[position];
        if (replaced is not null)
        {
            adapters.RemoveAt(position);
            replaced.Adapter.Detach();
        }

        var taken = Take(adapter, null, report, replaced is null ? adapters.Count : position);
        return new AdapterReplacement(taken, replaced, () => PutBack(taken, replaced, before));
    }

    private void PutBack(PeftAdapter taken, PeftAdapter? replaced, IReadOnlyList<ActiveAdapter> before)
    {
        using var held = Acquire("undoing the replacement of an adapter");
        Restore([]);
        var position = adapters.IndexOf(taken);
        Drop(taken);
        if (replaced is not null)
        {
            adapters.Insert(position, replaced);
            replaced.Adapter.Attach();
        }

        active = before;
        Changed();
    }
}
