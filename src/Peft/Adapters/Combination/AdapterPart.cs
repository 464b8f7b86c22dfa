using Peft.Adapters.Slots;

namespace Peft.Adapters.Combination;

/// <summary>An adapter that goes into a combination.</summary>
/// <param name="Adapter">The adapter, of the same method as the others.</param>
/// <param name="Weight">Its weight, of any sign.</param>
public readonly record struct AdapterPart(Adapter Adapter, double Weight)
{
    /// <summary>What the adapter put on a layer, or null where it left it alone.</summary>
    /// <param name="path">The module's path.</param>
    internal LayerAdapter? On(string path) => Adapter.Layers.FirstOrDefault(layer => layer.Layer.Path == path).Adapter;
}
