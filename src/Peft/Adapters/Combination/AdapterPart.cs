namespace Peft.Adapters.Combination;

/// <summary>An adapter that goes into a combination.</summary>
/// <param name="Adapter">The adapter.</param>
/// <param name="Weight">Its weight, of any sign.</param>
public readonly record struct AdapterPart(Adapter Adapter, double Weight);
