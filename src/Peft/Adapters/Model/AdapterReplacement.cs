namespace Peft.Adapters.Model;

/// <summary>A new adapter in a model, and the way back to the model as it was. Dispose it to stay with the new one: what it replaced is freed then.</summary>
public sealed class AdapterReplacement : IDisposable
{
    private readonly Action _putBack;
    private PeftAdapter? _replaced;

    internal AdapterReplacement(PeftAdapter adapter, PeftAdapter? replaced, Action putBack)
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

    /// <inheritdoc/>
    public void Dispose()
    {
        _replaced?.Adapter.Dispose();
        _replaced = null;
    }
}
