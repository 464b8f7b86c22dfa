using System.Globalization;

namespace Peft.Hub;

/// <summary>How to reach the hub. The defaults are read from where the hub's own tools keep them.</summary>
public sealed record HubSettings
{
    private const string Usual = "https://huggingface.co";
    private const double UsualSeconds = 30;

    /// <summary>The hub's address: <c>HF_ENDPOINT</c>, else <c>https://huggingface.co</c>.</summary>
    /// <exception cref="PeftException"><c>HubEndpointInvalid</c>.</exception>
    public Uri Endpoint { get; init; } = EndpointOf(Variable("HF_ENDPOINT") ?? Usual);

    /// <summary>The token that says who asks: <c>HF_TOKEN</c>, else the file that <c>HF_TOKEN_PATH</c> names, else <c>token</c> in the hub's folder; null for nobody.</summary>
    public string? Token { get; init; } = FindToken();

    /// <summary>Whether nothing may be asked: <c>HF_HUB_OFFLINE</c> or <c>TRANSFORMERS_OFFLINE</c>.</summary>
    public bool IsOffline { get; init; } = IsOn("HF_HUB_OFFLINE") || IsOn("TRANSFORMERS_OFFLINE");

    /// <summary>The cache.</summary>
    public string CacheFolder { get; init; } = HubCache.Folder;

    /// <summary>How long the hub may say nothing before the connection counts as lost: <c>HF_HUB_DOWNLOAD_TIMEOUT</c> in seconds, else 30.</summary>
    public TimeSpan Timeout { get; init; } = TimeSpan.FromSeconds(
        double.TryParse(Variable("HF_HUB_DOWNLOAD_TIMEOUT"), NumberStyles.Float, CultureInfo.InvariantCulture, out var seconds) && seconds is > 0 and < 1e6 ? seconds : UsualSeconds);

    /// <summary>The first wait before a lost connection is tried again; each next one is twice as long. For tests.</summary>
    internal TimeSpan FirstWait { get; init; } = TimeSpan.FromSeconds(1);

    /// <inheritdoc/>
    /// <remarks>The token is not shown.</remarks>
    public override string ToString() => Endpoint.ToString();

    /// <summary>A variable of the environment; null where it is empty.</summary>
    internal static string? Variable(string name) => Environment.GetEnvironmentVariable(name) is { Length: > 0 } value ? value : null;

    private static bool IsOn(string name) => Variable(name)?.ToUpperInvariant() is "1" or "ON" or "YES" or "TRUE";

    private static Uri EndpointOf(string text) => Uri.TryCreate(text.TrimEnd('/') + "/", UriKind.Absolute, out var address) && address.Scheme is "http" or "https"
        ? address
        : throw new PeftException("HubEndpointInvalid", $"HF_ENDPOINT is '{text}', which is not the address of a hub.")
        {
            Target = text,
            RecommendedAction = "Set it to an address such as https://huggingface.co, or clear it.",
        };

    private static string? FindToken()
    {
        if (Variable("HF_TOKEN")?.Trim() is { Length: > 0 } token)
        {
            return token;
        }

        var path = Variable("HF_TOKEN_PATH") ?? Path.Combine(HubCache.HomeFolder, "token");
        try
        {
            return File.Exists(path) && File.ReadAllText(path).Trim() is { Length: > 0 } kept ? kept : null;
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            throw Files.FileErrors.Unreadable(path, error);
        }
    }
}
