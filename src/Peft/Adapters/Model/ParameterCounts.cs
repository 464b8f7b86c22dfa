using System.Globalization;

namespace Peft.Adapters.Model;

/// <summary>How many parameters are trained and how many there are, as PEFT counts them.</summary>
/// <param name="Trainable">Parameters of the active adapters, saved modules and trained biases among them.</param>
/// <param name="All">Parameters of the base and of all its adapters.</param>
public readonly record struct ParameterCounts(long Trainable, long All)
{
    /// <summary>The share that is trained, in percent.</summary>
    public double TrainablePercent => All == 0 ? 0 : 100.0 * Trainable / All;

    /// <summary>The sentence that PEFT prints.</summary>
    public override string ToString() =>
        string.Create(CultureInfo.InvariantCulture, $"trainable params: {Trainable:N0} || all params: {All:N0} || trainable%: {TrainablePercent:F4}");
}
