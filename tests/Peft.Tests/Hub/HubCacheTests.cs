using Peft.Hub;

namespace Peft.Tests.Hub;

public sealed class HubCacheTests : IDisposable
{
    private readonly DirectoryInfo _cache = Directory.CreateTempSubdirectory("peft-hub");

    [Fact]
    public void Finds_the_snapshot_that_a_revision_points_to()
    {
        var snapshot = Add("owner/model", "0123abc");
        Assert.Equal(snapshot, HubCache.Find("owner/model", cacheFolder: _cache.FullName));
        Assert.Equal(snapshot, HubCache.Find("owner/model", "0123abc", _cache.FullName));
        Assert.Equal(["owner/model"], HubCache.Names(_cache.FullName));
    }

    [Theory]
    [InlineData("owner/other", "main")]
    [InlineData("owner/model", "v2")]
    public void Says_what_is_not_cached(string name, string revision)
    {
        Add("owner/model", "0123abc");
        var error = Assert.Throws<PeftException>(() => HubCache.Find(name, revision, _cache.FullName));
        Assert.Equal("HubModelNotCached", error.ErrorId);
        Assert.Contains(name, error.Message, StringComparison.Ordinal);
        Assert.NotNull(error.RecommendedAction);
    }

    [Theory]
    [InlineData("../../etc")]
    [InlineData("a/b/c")]
    [InlineData("")]
    [InlineData("owner/mo del")]
    public void Refuses_what_is_no_name(string name) =>
        Assert.Equal("HubNameInvalid", Assert.Throws<PeftException>(() => HubCache.Find(name, cacheFolder: _cache.FullName)).ErrorId);

    [Theory]
    [InlineData("")]
    [InlineData("/etc/hostname")]
    [InlineData("refs/../../other")]
    [InlineData("C:main")]
    public void Refuses_a_revision_that_leads_elsewhere(string revision)
    {
        Add("owner/model", "0123abc");
        Assert.Equal("HubNameInvalid", Assert.Throws<PeftException>(() => HubCache.Find("owner/model", revision, _cache.FullName)).ErrorId);
    }

    [Theory]
    [InlineData("../..")]
    [InlineData("..")]
    [InlineData(".")]
    [InlineData("/etc")]
    [InlineData("C:\\Windows")]
    [InlineData("abc/../../..")]
    [InlineData("")]
    [InlineData("a\u001b[2Jb")]
    public void Refuses_a_reference_that_leads_elsewhere(string commit)
    {
        var repository = Path.GetDirectoryName(Path.GetDirectoryName(Add("owner/model", "0123abc")))!;
        File.WriteAllText(Path.Combine(repository, "refs", "main"), commit);
        Assert.Equal("HubCacheInvalid", Assert.Throws<PeftException>(() => HubCache.Find("owner/model", cacheFolder: _cache.FullName)).ErrorId);
    }

    [Fact]
    public void Reads_no_more_of_a_reference_than_a_commit_takes()
    {
        var repository = Path.GetDirectoryName(Path.GetDirectoryName(Add("owner/model", "0123abc")))!;
        using (var file = File.OpenWrite(Path.Combine(repository, "refs", "main")))
        {
            file.SetLength(1L << 33);
        }

        Assert.Equal("HubCacheInvalid", Assert.Throws<PeftException>(() => HubCache.Find("owner/model", cacheFolder: _cache.FullName)).ErrorId);
    }

    public void Dispose() => _cache.Delete(recursive: true);

    private string Add(string name, string commit)
    {
        var repository = Path.Combine(_cache.FullName, "models--" + name.Replace("/", "--", StringComparison.Ordinal));
        Directory.CreateDirectory(Path.Combine(repository, "refs"));
        File.WriteAllText(Path.Combine(repository, "refs", "main"), commit + "\n");
        return Directory.CreateDirectory(Path.Combine(repository, "snapshots", commit)).FullName;
    }
}
