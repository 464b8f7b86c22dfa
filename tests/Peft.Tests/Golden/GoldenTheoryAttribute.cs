using System.Reflection;
using Peft.Tensors;
using Xunit.Abstractions;
using Xunit.Sdk;

namespace Peft.Tests.Golden;

/// <summary>
/// A theory over golden cases, with the trait <c>Category=Golden</c>. Where <c>PEFT_GOLDEN</c> lacks the domain it has no test at all,
/// neither passed nor failed nor skipped.
/// </summary>
/// <example>
/// <code>
/// [GoldenTheory]
/// [GoldenData("tokenizers", "kinds/")]
/// public void Kind(string path) => GoldenCases.Run("tokenizers", path, folder => { ... });
/// </code>
/// </example>
[AttributeUsage(AttributeTargets.Method)]
[XunitTestCaseDiscoverer("Peft.Tests.Golden.GoldenTheoryDiscoverer", "Peft.Tests")]
[TraitDiscoverer("Peft.Tests.Golden.GoldenTraitDiscoverer", "Peft.Tests")]
public sealed class GoldenTheoryAttribute : TheoryAttribute, ITraitAttribute;

/// <summary>Says which cases a test runs.</summary>
public interface IGoldenClaim
{
    /// <summary>The domain's name.</summary>
    string Domain { get; }

    /// <summary>The cases, relative to the domain.</summary>
    IEnumerable<string> Cases();
}

/// <summary>The cases that a class of tests runs by data of its own.</summary>
[AttributeUsage(AttributeTargets.Class)]
public sealed class GoldenClaimAttribute(string domain, string under = "") : Attribute, IGoldenClaim
{
    /// <inheritdoc/>
    public string Domain { get; } = domain;

    /// <summary>What the relative paths have to start with.</summary>
    public string Under { get; } = under;

    /// <summary>Only the cases that hold this safetensors file with <see cref="HoldingTensor"/> in it.</summary>
    public string? Holding { get; init; }

    /// <summary>The tensor.</summary>
    public string? HoldingTensor { get; init; }

    /// <inheritdoc/>
    public IEnumerable<string> Cases() => new GoldenDataAttribute(Domain, Under) { Holding = Holding, HoldingTensor = HoldingTensor }.Cases();
}

/// <summary>The case folders of a domain, relative to it, one test each.</summary>
[AttributeUsage(AttributeTargets.Method, AllowMultiple = true)]
public sealed class GoldenDataAttribute(string domain, string under = "") : DataAttribute, IGoldenClaim
{
    /// <inheritdoc/>
    public string Domain { get; } = domain;

    /// <summary>What the relative paths have to start with.</summary>
    public string Under { get; } = under;

    /// <summary>Keeps only the cases that hold this file.</summary>
    public string? Holding { get; init; }

    /// <summary>Keeps only the cases whose <see cref="Holding"/>, a safetensors file then, has this tensor.</summary>
    public string? HoldingTensor { get; init; }

    /// <inheritdoc/>
    public IEnumerable<string> Cases() => GoldenCases.Enumerate(Domain, Under)
        .Where(path => Holding is null || Holds(Path.Combine(GoldenCases.PathOf(Domain, path), Holding)));

    /// <inheritdoc/>
    public override IEnumerable<object[]> GetData(MethodInfo testMethod) => Cases().Select(path => new object[] { path });

    private bool Holds(string file)
    {
        if (HoldingTensor is null || !File.Exists(file))
        {
            return File.Exists(file);
        }

        using var tensors = SafetensorsFile.Open(file);
        return tensors.Contains(HoldingTensor);
    }
}

/// <summary>The JSON files in a folder of a domain, by name without extension, one test each.</summary>
[AttributeUsage(AttributeTargets.Method)]
public sealed class GoldenFilesAttribute(string domain, string folder) : DataAttribute
{
    /// <summary>The domain's name.</summary>
    public string Domain { get; } = domain;

    /// <summary>The folder, relative to the domain's.</summary>
    public string Folder { get; } = folder;

    /// <inheritdoc/>
    public override IEnumerable<object[]> GetData(MethodInfo testMethod) => GoldenCases.Files(Domain, Folder).Select(name => new object[] { name });
}

/// <summary>Leaves a theory without any case out instead of failing it.</summary>
public sealed class GoldenTheoryDiscoverer(IMessageSink messages) : IXunitTestCaseDiscoverer
{
    private readonly Xunit.Sdk.SkippableTheoryDiscoverer _theories = new(messages);

    /// <inheritdoc/>
    public IEnumerable<IXunitTestCase> Discover(
        ITestFrameworkDiscoveryOptions discoveryOptions, ITestMethod testMethod, IAttributeInfo factAttribute)
    {
        ArgumentNullException.ThrowIfNull(testMethod);
        var method = ((IReflectionMethodInfo)testMethod.Method).MethodInfo;
        var any = method.GetCustomAttributes<DataAttribute>().Any(data => data.GetData(method).Any());
        return any ? _theories.Discover(discoveryOptions, testMethod, factAttribute) : [];
    }
}

/// <summary>Gives every golden theory its trait.</summary>
public sealed class GoldenTraitDiscoverer : ITraitDiscoverer
{
    /// <inheritdoc/>
    public IEnumerable<KeyValuePair<string, string>> GetTraits(IAttributeInfo traitAttribute) => [new("Category", "Golden")];
}
