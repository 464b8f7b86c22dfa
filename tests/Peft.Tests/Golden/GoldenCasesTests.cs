namespace Peft.Tests.Golden;

public class GoldenCasesTests
{
    [Fact]
    public void EveryArchiveThatIsCommittedIsADomain()
    {
        var archives = Directory.EnumerateFiles(Path.Combine(GoldenCases.Repository, "tests", "golden"), "*.tar.gz")
            .Select(file => Path.GetFileName(file)[..^".tar.gz".Length]);

        Assert.Equal(GoldenCases.Domains.Order(StringComparer.Ordinal), archives.Order(StringComparer.Ordinal));
    }

    [Fact]
    public void EveryEnumeratedCaseHasItsFile()
    {
        foreach (var domain in GoldenCases.Domains)
        {
            Assert.All(GoldenCases.Enumerate(domain), path => Assert.True(File.Exists(Path.Combine(GoldenCases.PathOf(domain, path), "case.json"))));
        }
    }

    [Fact]
    public void AnUnknownDomainHasNoCases() => Assert.Empty(GoldenCases.Enumerate("no-such-domain"));
}
