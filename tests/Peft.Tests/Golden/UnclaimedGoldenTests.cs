using System.Reflection;
using Xunit.Sdk;

namespace Peft.Tests.Golden;

/// <summary>
/// Cases that no test runs. They are what is left to build: skipped as a rule, failed where reference cases are asked for strictly.
/// </summary>
public sealed class UnclaimedGoldenTests
{
    [GoldenTheory]
    [UnclaimedGoldenData]
    public void A_case_that_no_test_runs(string domain, string path) =>
        GoldenCases.Run(domain, path, _ => throw new NotSupportedByPeftException("CaseNotSupported", $"No test runs {domain}/{path}."));
}

/// <summary>The domain and path of every case that no <see cref="IGoldenClaim"/> of this assembly covers.</summary>
[AttributeUsage(AttributeTargets.Method)]
public sealed class UnclaimedGoldenDataAttribute : DataAttribute
{
    /// <inheritdoc/>
    public override IEnumerable<object[]> GetData(MethodInfo testMethod)
    {
        var claimed = typeof(UnclaimedGoldenDataAttribute).Assembly.GetTypes()
            .SelectMany(type => type.GetMethods().Append<MemberInfo>(type))
            .SelectMany(member => member.GetCustomAttributes(inherit: false).OfType<IGoldenClaim>())
            .SelectMany(data => data.Cases().Select(path => (data.Domain, path)))
            .ToHashSet();
        return GoldenCases.Domains.SelectMany(domain => GoldenCases.Enumerate(domain)
            .Where(path => !claimed.Contains((domain, path)))
            .Select(path => new object[] { domain, path }));
    }
}
