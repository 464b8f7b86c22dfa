using Peft.Adapters.Merging;

namespace Peft.Adapters.Model;

/// <summary>A new adapter in a model, and the way back to the model as it was. Dispose it to stay with the new one: what it replaced is freed then.</summary>
public sealed class AdapterReplacement : IDisposable
{
    private readonly Action _putBack;
    private PeftAdapter? _replaced;

    private AdapterReplacement(PeftAdapter adapter, PeftAdapter? replaced, Action putBack)
    {
        Adapter = adapter;
        _replaced = replaced;
        _putBack = putBack;
    }

    /// <summary>The new adapter.</summary>
    public PeftAdapter Adapter { get; }

    /// <summary>Frees the new adapter; the one it replaced is in its place again, and what was active is.</summary>
    public void Undo()
    {
        _putBack();
        _replaced = null;
    }

    /// <summary>Puts an adapter in the place of another. That leaves its slots first: a new one that starts from the base's weights finds them as they are without it.</summary>
    /// <param name="adapters">The model's adapters.</param>
    /// <param name="merge">What is merged into the model, which nothing may be.</param>
    /// <param name="hold">Holds the model while the replacement is undone.</param>
    /// <param name="name">Name of what is replaced, if it is there.</param>
    /// <param name="make">Makes the new one.</param>
    internal static AdapterReplacement Make(AdapterSet adapters, ModelMerge merge, Func<IDisposable> hold, string name, Func<PeftAdapter> make)
    {
        merge.Refuse();
        var active = adapters.Active;
        var replaced = adapters.Find(name);
        int? position = replaced is null ? null : adapters.Remove(replaced);
        try
        {
            var taken = make();
            try
            {
                adapters.RefuseConflicts(taken.Adapter);
            }
            catch
            {
                taken.Adapter.Dispose();
                throw;
            }

            adapters.Insert(taken, position);
            return new AdapterReplacement(taken, replaced, PutBack);

            void PutBack()
            {
                using var held = hold();
                merge.Restore([]);
                var place = adapters.Remove(taken);
                taken.Adapter.Dispose();
                Restore(place);
                adapters.Activate(active);
            }
        }
        catch
        {
            Restore(position);
            throw;
        }

        void Restore(int? place)
        {
            if (replaced is not null)
            {
                adapters.Insert(replaced, place);
            }
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _replaced?.Adapter.Dispose();
        _replaced = null;
    }
}
