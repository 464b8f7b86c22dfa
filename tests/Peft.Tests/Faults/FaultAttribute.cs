using Xunit.Abstractions;
using Xunit.Sdk;

namespace Peft.Tests.Faults;

/// <summary>
/// Stands beside <c>[Fact]</c> or <c>[Theory]</c>, or on a class, and gives the trait <c>Category=Faults</c>: random or exhaustive trials of
/// what must not lose data or hang. <c>build.sh faults</c> runs them at length, <c>build.sh test</c> a sample (<see cref="FaultBudget"/>).
/// </summary>
/// <example>
/// <code>
/// [Fact, Fault]
/// public void ADamagedFileEndsInAnErrorOfOurs() => FaultBudget.Run(random => { ... });
/// </code>
/// </example>
[AttributeUsage(AttributeTargets.Method | AttributeTargets.Class)]
[TraitDiscoverer("Peft.Tests.Faults.FaultTraitDiscoverer", "Peft.Tests")]
public sealed class FaultAttribute : Attribute, ITraitAttribute;

/// <summary>Gives what carries <see cref="FaultAttribute"/> its trait.</summary>
public sealed class FaultTraitDiscoverer : ITraitDiscoverer
{
    /// <inheritdoc/>
    public IEnumerable<KeyValuePair<string, string>> GetTraits(IAttributeInfo traitAttribute) => [new("Category", "Faults")];
}
