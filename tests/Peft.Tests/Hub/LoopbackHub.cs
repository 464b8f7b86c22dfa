using System.Collections.Concurrent;
using System.Globalization;
using System.Net;
using System.Net.Sockets;
using System.Security.Cryptography;
using System.Text;
using System.Text.Json;
using Peft.Hub;

namespace Peft.Tests.Hub;

/// <summary>A hub on this machine that answers as the real one does, and misbehaves where a test says so.</summary>
public sealed class LoopbackHub : IDisposable
{
    public const string Commit = "0123456789abcdef0123456789abcdef01234567";

    private readonly TcpListener _listener = new(IPAddress.Loopback, 0);
    private readonly CancellationTokenSource _end = new();
    private readonly ConcurrentQueue<HubRequest> _requests = new();

    private bool _isGone;

    public LoopbackHub()
    {
        _listener.Start();
        Address = new($"http://127.0.0.1:{((IPEndPoint)_listener.LocalEndpoint).Port}/");
        _ = AcceptAsync();
    }

    public Uri Address { get; }

    /// <summary>Contents by path. Those of safetensors and parquet files are kept by LFS.</summary>
    public Dictionary<string, byte[]> Files { get; } = [];

    /// <summary>Contents of several repositories by name; while there are none, every name has <see cref="Files"/>.</summary>
    public Dictionary<string, Dictionary<string, byte[]>> Repositories { get; } = [];

    /// <summary>What is answered in place of the usual; null for the usual.</summary>
    public Func<HubRequest, HubReply?> Misbehave { get; set; } = static _ => null;

    public IReadOnlyList<HubRequest> Requests => [.. _requests];

    public IReadOnlyList<HubRequest> FileRequests => [.. _requests.Where(static request => request.Path.Contains("/resolve/", StringComparison.Ordinal))];

    public HubSettings Settings(string cache) => new()
    {
        Endpoint = Address,
        Token = null,
        IsOffline = false,
        CacheFolder = cache,
        Timeout = TimeSpan.FromSeconds(20),
        FirstWait = TimeSpan.FromMilliseconds(1),
    };

    public static string Sha256(byte[] content) => Convert.ToHexStringLower(SHA256.HashData(content));

#pragma warning disable CA5350 // Git's name for a content.
    public static string GitHash(byte[] content) => Convert.ToHexStringLower(SHA1.HashData([.. Encoding.ASCII.GetBytes($"blob {content.Length}\0"), .. content]));
#pragma warning restore CA5350

    /// <summary>The usual answer.</summary>
    public HubReply Usual(HubRequest request)
    {
        var files = Repositories.Count == 0 ? Files : Repositories.FirstOrDefault(entry => request.Path.Contains($"/{entry.Key}/", StringComparison.Ordinal)).Value;
        if (files is null)
        {
            return new HubReply(404) { Headers = { ["X-Error-Code"] = "RepoNotFound" } };
        }

        if (request.Path.StartsWith("/api/", StringComparison.Ordinal))
        {
            return HubReply.Json(new { sha = Commit, siblings = files.Select(static file => Entry(file.Key, file.Value)) });
        }

        var path = Uri.UnescapeDataString(request.Path[(request.Path.IndexOf(Commit, StringComparison.Ordinal) + Commit.Length + 1)..]);
        if (!files.TryGetValue(path, out var content))
        {
            return new HubReply(404) { Headers = { ["X-Error-Code"] = "EntryNotFound" } };
        }

        return request.From is { } from && from < content.Length
            ? new HubReply(206) { Body = content[from..], Headers = { ["Content-Range"] = $"bytes {from}-{content.Length - 1}/{content.Length}" } }
            : new HubReply(200) { Body = content };
    }

    public void Dispose()
    {
        // Twice, where a test takes it away before its end.
        if (!_isGone)
        {
            _isGone = true;
            _end.Cancel();
            _listener.Dispose();
            _end.Dispose();
        }
    }

    private static object Entry(string path, byte[] content) => Path.GetExtension(path) is ".safetensors" or ".parquet"
        ? new { rfilename = path, size = content.Length, blobId = new string('a', 40), lfs = (object)new { sha256 = Sha256(content), size = content.Length, pointerSize = 134 } }
        : new { rfilename = path, size = content.Length, blobId = GitHash(content) };

    private async Task AcceptAsync()
    {
        try
        {
            while (true)
            {
                var client = await _listener.AcceptTcpClientAsync(_end.Token);
                _ = Task.Run(() => AnswerAsync(client));
            }
        }
        catch (Exception error) when (error is OperationCanceledException or SocketException or ObjectDisposedException)
        {
            // The test is over.
        }
    }

    private async Task AnswerAsync(TcpClient client)
    {
        using (client)
        {
            try
            {
                var stream = client.GetStream();
                var request = await ReadAsync(stream);
                _requests.Enqueue(request);
                await WriteAsync(stream, Misbehave(request) ?? Usual(request));
            }
            catch (Exception error) when (error is IOException or OperationCanceledException)
            {
                // The other side has gone.
            }
        }
    }

    private async Task<HubRequest> ReadAsync(NetworkStream stream)
    {
        using var reader = new StreamReader(stream, Encoding.ASCII, leaveOpen: true);
        var target = (await reader.ReadLineAsync(_end.Token) ?? throw new IOException("no request")).Split(' ')[1];
        var headers = new Dictionary<string, string>(StringComparer.OrdinalIgnoreCase);
        while (await reader.ReadLineAsync(_end.Token) is { Length: > 0 } line)
        {
            var colon = line.IndexOf(':', StringComparison.Ordinal);
            headers[line[..colon]] = line[(colon + 1)..].Trim();
        }

        return new HubRequest(target, headers);
    }

    private async Task WriteAsync(NetworkStream stream, HubReply reply)
    {
        var head = new StringBuilder().Append(CultureInfo.InvariantCulture, $"HTTP/1.1 {reply.Status} Answer\r\nConnection: close\r\nContent-Length: {reply.Body.Length}\r\n");
        foreach (var (name, value) in reply.Headers)
        {
            head.Append(CultureInfo.InvariantCulture, $"{name}: {value}\r\n");
        }

        await stream.WriteAsync(Encoding.ASCII.GetBytes(head.Append("\r\n").ToString()), _end.Token);
        await stream.WriteAsync(reply.Body.AsMemory(0, Math.Min(reply.CutAt, reply.Body.Length)), _end.Token);
        await stream.FlushAsync(_end.Token);
        if (reply.Hangs)
        {
            await Task.Delay(Timeout.Infinite, _end.Token);
        }
    }
}

/// <summary>What was asked of the hub.</summary>
public sealed record HubRequest(string Path, IReadOnlyDictionary<string, string> Headers)
{
    /// <summary>From which byte on.</summary>
    public int? From => Headers.TryGetValue("Range", out var range) ? int.Parse(range["bytes=".Length..].TrimEnd('-'), CultureInfo.InvariantCulture) : null;

    public string? Authorization => Headers.GetValueOrDefault("Authorization");
}

/// <summary>What the hub answers.</summary>
public sealed record HubReply(int Status)
{
    public byte[] Body { get; init; } = [];

    public Dictionary<string, string> Headers { get; } = [];

    /// <summary>After how many bytes of the body the connection is cut off.</summary>
    public int CutAt { get; init; } = int.MaxValue;

    /// <summary>Whether the connection stays open then, and nothing comes.</summary>
    public bool Hangs { get; init; }

    public static HubReply Json(object value) => new(200) { Body = JsonSerializer.SerializeToUtf8Bytes(value) };
}
