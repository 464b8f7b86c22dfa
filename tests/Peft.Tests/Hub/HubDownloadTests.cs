using System.Text;
using Peft.Hub;

namespace Peft.Tests.Hub;

/// <summary>Fetching from a hub that behaves, and from one that doesn't.</summary>
public sealed class HubDownloadTests : IDisposable
{
    private const string Token = "hf_secret";

    private static readonly HubRepository s_repository = new("owner/model");

    private readonly DirectoryInfo _cache = Directory.CreateTempSubdirectory("peft-hub");
    private readonly LoopbackHub _hub = new();
    private readonly byte[] _weights = new byte[3_000_000];
    private readonly List<string> _messages = [];

    public HubDownloadTests()
    {
        new Random(1).NextBytes(_weights);
        _hub.Files["config.json"] = Encoding.UTF8.GetBytes("""{ "model_type": "llama" }""");
        _hub.Files["model.safetensors"] = _weights;
        _hub.Files["tokenizer.json"] = "{}"u8.ToArray();
    }

    private string Folder => Path.Combine(_cache.FullName, "models--owner--model");

    private string Partial => Path.Combine(Folder, "blobs", LoopbackHub.Sha256(_weights) + ".incomplete");

    [Fact]
    public void Lays_the_cache_out_as_the_hubs_own_tools_do()
    {
        var snapshot = Fetch();
        Assert.Equal(LoopbackHub.Commit, File.ReadAllText(Path.Combine(Folder, "refs", "main")));
        Assert.Equal(Path.Combine(Folder, "snapshots", LoopbackHub.Commit), snapshot.Path);
        Assert.Equal(snapshot.Path, HubCache.Find(s_repository, _cache.FullName));
        Assert.True(HubCache.IsWhole(snapshot.Path));
        Assert.Equal(
            new[] { LoopbackHub.Sha256(_weights), LoopbackHub.GitHash(_hub.Files["config.json"]), LoopbackHub.GitHash(_hub.Files["tokenizer.json"]) }.Order(StringComparer.Ordinal),
            Directory.GetFiles(Path.Combine(Folder, "blobs")).Select(Path.GetFileName).Order(StringComparer.Ordinal));
        Assert.Equal(_weights, File.ReadAllBytes(Path.Combine(snapshot.Path, "model.safetensors")));
        if (!OperatingSystem.IsWindows())
        {
            Assert.Equal($"../../blobs/{LoopbackHub.Sha256(_weights)}", new FileInfo(Path.Combine(snapshot.Path, "model.safetensors")).LinkTarget);
        }
    }

    [Fact]
    public void Fetches_nothing_twice_and_only_what_a_new_commit_changes()
    {
        Fetch();
        Assert.Equal(3, _hub.FileRequests.Count);
        Fetch();
        Assert.Equal(3, _hub.FileRequests.Count);
        _hub.Files["tokenizer.json"] = """{ "new": 1 }"""u8.ToArray();
        Fetch();
        Assert.Equal(4, _hub.FileRequests.Count);
    }

    [Fact]
    public void Goes_on_where_a_connection_was_cut_off()
    {
        _hub.Misbehave = request => IsWeights(request) && request.From is null or < 2_000_000 ? _hub.Usual(request) with { CutAt = 800_000 } : null;
        Assert.Equal(_weights, Weights(Fetch()));
        var starts = _hub.FileRequests.Where(IsWeights).Select(static request => request.From ?? 0).ToArray();
        Assert.True(starts.Length > 2 && starts.Zip(starts.Skip(1)).All(static pair => pair.First < pair.Second), string.Join(", ", starts));
    }

    [Fact]
    public void Starts_anew_where_ranges_are_refused()
    {
        var tries = 0;
        _hub.Misbehave = request => !IsWeights(request) ? null
            : new HubReply(request.From is null ? 200 : tries++ == 0 ? 416 : 200) { Body = _weights, CutAt = request.From is null && tries == 0 ? 1_000_000 : int.MaxValue };
        Assert.Equal(_weights, Weights(Fetch()));
    }

    [Fact]
    public void Goes_on_with_what_an_earlier_session_left()
    {
        Directory.CreateDirectory(Path.GetDirectoryName(Partial)!);
        File.WriteAllBytes(Partial, _weights[..1_234_567]);
        Assert.Equal(_weights, Weights(Fetch()));
        Assert.Equal(1_234_567, _hub.FileRequests.Single(IsWeights).From);
        Assert.False(File.Exists(Partial));
    }

    [Fact]
    public void Throws_away_what_an_earlier_session_left_where_its_hash_is_wrong()
    {
        Directory.CreateDirectory(Path.GetDirectoryName(Partial)!);
        File.WriteAllBytes(Partial, new byte[1_000_000]);
        Assert.Equal(_weights, Weights(Fetch()));
    }

    [Fact]
    public void A_file_that_is_not_what_the_hub_lists_is_never_taken()
    {
        var wrong = (byte[])_weights.Clone();
        wrong[77]++;
        _hub.Misbehave = request => IsWeights(request) ? new HubReply(200) { Body = wrong } : null;
        Assert.Equal("HubFileDamaged", Failure().ErrorId);
        Assert.False(File.Exists(Path.Combine(Folder, "blobs", LoopbackHub.Sha256(_weights))));
        Assert.Null(HubCache.TryFind(s_repository, _cache.FullName));
    }

    [Fact]
    public void A_content_that_was_cut_short_by_another_program_is_fetched_again()
    {
        Fetch();
        File.WriteAllBytes(Path.Combine(Folder, "blobs", LoopbackHub.Sha256(_weights)), _weights[..100]);
        Assert.Equal(_weights, Weights(Fetch()));
    }

    [Fact]
    public void Waits_as_long_as_a_busy_hub_asks()
    {
        var tries = 0;
        _hub.Misbehave = request => IsWeights(request) && tries++ < 2 ? new HubReply(429) { Headers = { ["Retry-After"] = "0" } } : null;
        Assert.Equal(_weights, Weights(Fetch()));
        Assert.Equal(2, _messages.Count);
    }

    [Fact]
    public void Does_not_wait_for_hours()
    {
        _hub.Misbehave = static _ => new HubReply(429) { Headers = { ["Retry-After"] = "3600" } };
        var error = Failure();
        Assert.Equal("HubRateLimited", error.ErrorId);
        Assert.Contains("3600", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Tries_again_where_the_hub_fails_for_a_while()
    {
        var tries = 0;
        _hub.Misbehave = _ => tries++ < 2 ? new HubReply(503) : null;
        Assert.Equal(_weights, Weights(Fetch()));
    }

    [Fact]
    public void The_token_goes_to_the_hub_and_to_nobody_it_sends_us_to()
    {
        using var other = new LoopbackHub();
        other.Files["model.safetensors"] = _weights;
        _hub.Misbehave = request => IsWeights(request) ? new HubReply(302) { Headers = { ["Location"] = new Uri(other.Address, request.Path).ToString() } }
            : request.Path.StartsWith("/api/models/owner/model/", StringComparison.Ordinal) ? new HubReply(307) { Headers = { ["Location"] = "/api/models/owner/renamed/revision/main?blobs=true" } }
            : null;
        Assert.Equal(_weights, Weights(Fetch(_hub.Settings(_cache.FullName) with { Token = Token })));
        Assert.All(_hub.Requests, static request => Assert.Equal($"Bearer {Token}", request.Authorization));
        Assert.Null(Assert.Single(other.Requests).Authorization);
    }

    [Fact]
    public void Redirects_end()
    {
        _hub.Misbehave = static request => new HubReply(302) { Headers = { ["Location"] = request.Path } };
        Assert.Equal("HubAnswerInvalid", Failure().ErrorId);
    }

    [Theory]
    [InlineData(401, "GatedRepo", "HubGated")]
    [InlineData(403, "GatedRepo", "HubGated")]
    [InlineData(403, null, "HubAccessDenied")]
    [InlineData(401, null, "HubTokenInvalid")]
    [InlineData(401, "RepoNotFound", "HubRepositoryNotFound")]
    [InlineData(404, null, "HubRepositoryNotFound")]
    [InlineData(404, "RevisionNotFound", "HubRevisionNotFound")]
    [InlineData(418, null, "HubAnswerInvalid")]
    public void Says_why_the_hub_refuses(int status, string? code, string id)
    {
        _hub.Misbehave = _ =>
        {
            var reply = new HubReply(status);
            if (code is not null)
            {
                reply.Headers["X-Error-Code"] = code;
            }

            return reply;
        };
        var error = Failure(_hub.Settings(_cache.FullName) with { Token = Token });
        Assert.Equal(id, error.ErrorId);
        Assert.NotNull(error.RecommendedAction);
        Assert.DoesNotContain(Token, error.Message + error.RecommendedAction, StringComparison.Ordinal);
    }

    [Fact]
    public void A_token_from_which_a_header_could_be_made_is_refused() =>
        Assert.Equal("HubTokenInvalid", Failure(_hub.Settings(_cache.FullName) with { Token = "a\r\nX: b" }).ErrorId);

    [Fact]
    public void A_hub_that_says_nothing_any_more_is_asked_again()
    {
        var tries = 0;
        _hub.Misbehave = request => IsWeights(request) && tries++ == 0 ? _hub.Usual(request) with { CutAt = 500_000, Hangs = true } : null;
        Assert.Equal(_weights, Weights(Fetch(_hub.Settings(_cache.FullName) with { Timeout = TimeSpan.FromSeconds(1) })));
        Assert.Contains(_messages, static text => text.Contains("nothing came", StringComparison.Ordinal));
    }

    [Fact]
    public void A_hub_that_is_not_there_is_named()
    {
        var gone = new LoopbackHub();
        gone.Dispose();
        var error = Failure(_hub.Settings(_cache.FullName) with { Endpoint = gone.Address });
        Assert.Equal("HubUnreachable", error.ErrorId);
        Assert.Contains("127.0.0.1", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Offline_nothing_is_asked()
    {
        Assert.Equal("HubOffline", Failure(_hub.Settings(_cache.FullName) with { IsOffline = true }).ErrorId);
        Assert.Empty(_hub.Requests);
    }

    [Theory]
    [InlineData("../outside.json")]
    [InlineData("a/../../outside.json")]
    [InlineData("/etc/outside.json")]
    [InlineData("a\\b.json")]
    [InlineData("C:outside.json")]
    [InlineData("./x.json")]
    [InlineData("a//b.json")]
    [InlineData("a\u0001.json")]
    [InlineData("")]
    public void A_name_from_the_hub_never_leads_out_of_the_cache(string name)
    {
        _hub.Files[name] = "{}"u8.ToArray();
        Assert.Equal("HubAnswerInvalid", Failure().ErrorId);
        Assert.Empty(Directory.GetFileSystemEntries(_cache.FullName));
    }

    [Theory]
    [InlineData("""{ "sha": "../../x", "siblings": [] }""")]
    [InlineData("""{ "sha": 3 }""")]
    [InlineData("""[1]""")]
    [InlineData("""<html>""")]
    [InlineData("""{ "sha": "0123456789abcdef0123456789abcdef01234567", "siblings": [{ "rfilename": "a.json", "size": 2, "blobId": "../../../../../../../../../../../../../../x" }] }""")]
    [InlineData("""{ "sha": "0123456789abcdef0123456789abcdef01234567", "siblings": [{ "rfilename": "a.json" }] }""")]
    public void An_answer_that_is_none_is_refused(string answer)
    {
        _hub.Misbehave = _ => new HubReply(200) { Body = Encoding.UTF8.GetBytes(answer) };
        Assert.Equal("HubAnswerInvalid", Failure().ErrorId);
    }

    [Fact]
    public void What_came_before_it_was_stopped_is_kept()
    {
        using var stop = new CancellationTokenSource();
        _hub.Misbehave = request => IsWeights(request) ? _hub.Usual(request) with { CutAt = 1_000_000, Hangs = true } : null;
        Assert.ThrowsAny<OperationCanceledException>(() => Fetch(onProgress: progress =>
        {
            if (progress.Received >= 1_000_000)
            {
                stop.Cancel();
            }
        }, cancellation: stop.Token));
        Assert.Null(HubCache.TryFind(s_repository, _cache.FullName));
        Assert.Equal(1_000_000, new FileInfo(Partial).Length);
        _hub.Misbehave = static _ => null;
        Assert.Equal(_weights, Weights(Fetch()));
        Assert.Equal(1_000_000, _hub.FileRequests.Last(IsWeights).From);
    }

    [Fact]
    public void Progress_ends_at_all_bytes_of_all_files()
    {
        HubProgress last = default;
        Fetch(onProgress: progress => last = progress);
        Assert.Equal(new HubProgress(last.TotalBytes, _hub.Files.Values.Sum(static content => (long)content.Length), last.TotalBytes, 3, 3), last);
    }

    [Fact]
    public async Task Two_at_the_same_time_fetch_each_file_once()
    {
        var both = await Task.WhenAll(Task.Run(() => Fetch()), Task.Run(() => Fetch()));
        Assert.Equal(_weights, Weights(both[1]));
        Assert.Equal(3, _hub.FileRequests.Count);
    }

    public void Dispose()
    {
        _hub.Dispose();
        _cache.Delete(recursive: true);
    }

    private static bool IsWeights(HubRequest request) => request.Path.EndsWith("model.safetensors", StringComparison.Ordinal);

    private static byte[] Weights(HubSnapshot snapshot) => File.ReadAllBytes(Path.Combine(snapshot.Path, "model.safetensors"));

    private HubSnapshot Fetch(HubSettings? settings = null, Action<HubProgress>? onProgress = null, CancellationToken cancellation = default) =>
        HubDownload.Run(s_repository, new HubDownloadOptions
        {
            Settings = settings ?? _hub.Settings(_cache.FullName),
            OnProgress = onProgress,
            OnMessage = text =>
            {
                lock (_messages)
                {
                    _messages.Add(text);
                }
            },
            Cancellation = cancellation,
        });

    private PeftException Failure(HubSettings? settings = null) => Assert.Throws<PeftException>(() => Fetch(settings));
}
