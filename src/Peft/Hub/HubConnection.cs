using System.Net;
using System.Net.Http.Headers;

namespace Peft.Hub;

/// <summary>
/// Requests to the hub: the token goes to the hub alone, wherever it sends us; a lost connection, a busy hub and one that says nothing are tried again.
/// Proxies are those of the system or of <c>HTTP_PROXY</c>, <c>HTTPS_PROXY</c> and <c>NO_PROXY</c>.
/// </summary>
internal sealed class HubConnection : IDisposable
{
    private const int MostRedirects = 10, MostTries = 5, TriesWithoutNetwork = 2;
    private const long LongestAnswer = 256L << 20;
    private static readonly TimeSpan s_longestWait = TimeSpan.FromMinutes(5);

    private readonly HubSettings _settings;
    private readonly HubRepository _repository;
    private readonly Action<string>? _onMessage;
    private readonly AuthenticationHeaderValue? _token;

    // Redirects are followed here, since the token must not follow them to another host.
    private readonly HttpClient _client = new(new SocketsHttpHandler { AllowAutoRedirect = false, UseCookies = false })
    {
        Timeout = Timeout.InfiniteTimeSpan,
        MaxResponseContentBufferSize = LongestAnswer,
    };

    /// <summary>Connects when the first request is made.</summary>
    /// <exception cref="PeftException"><c>HubTokenInvalid</c>.</exception>
    public HubConnection(HubSettings settings, HubRepository repository, Action<string>? onMessage)
    {
        _settings = settings;
        _repository = repository;
        _onMessage = onMessage;
        _client.DefaultRequestHeaders.UserAgent.Add(new ProductInfoHeaderValue("Peft", typeof(HubConnection).Assembly.GetName().Version?.ToString(3)));
        if (settings.Token is { } token)
        {
            _token = token.All(static letter => letter is > ' ' and < '\x7f') ? new AuthenticationHeaderValue("Bearer", token) : throw new PeftException(
                "HubTokenInvalid", "The token for the hub holds characters that no token has.")
            {
                RecommendedAction = "Look at HF_TOKEN, or at the file 'token' in the hub's folder: it holds the token and nothing else.",
            };
        }
    }

    /// <summary>Text from the hub.</summary>
    /// <param name="path">Where, below the hub's address.</param>
    /// <param name="cancellation">Ends the waiting.</param>
    public Task<byte[]> GetBytesAsync(string path, CancellationToken cancellation) => RetryAsync(
        async () =>
        {
            using var response = await GetAsync(path, 0, cancellation).ConfigureAwait(false);
            return await StepAsync(token => new ValueTask<byte[]>(response.Content.ReadAsByteArrayAsync(token)), cancellation).ConfigureAwait(false);
        },
        static () => 0,
        cancellation);

    /// <summary>An answer that succeeded, with its content still to come.</summary>
    /// <param name="path">Where, below the hub's address.</param>
    /// <param name="from">From which byte on; 0 for all.</param>
    /// <param name="cancellation">Ends the waiting.</param>
    /// <exception cref="HubInterruption">Worth another try.</exception>
    public async Task<HttpResponseMessage> GetAsync(string path, long from, CancellationToken cancellation)
    {
        var address = new Uri(_settings.Endpoint, path);
        for (var hop = 0; hop <= MostRedirects; hop++)
        {
            using var request = new HttpRequestMessage(HttpMethod.Get, address);
            request.Headers.Range = from > 0 ? new RangeHeaderValue(from, null) : null;
            request.Headers.Authorization = IsHub(address) ? _token : null;
            var response = await StepAsync(
                token => new ValueTask<HttpResponseMessage>(_client.SendAsync(request, HttpCompletionOption.ResponseHeadersRead, token)), cancellation).ConfigureAwait(false);
            if (response.IsSuccessStatusCode || response.StatusCode == HttpStatusCode.RequestedRangeNotSatisfiable)
            {
                return response;
            }

            using (response)
            {
                address = (int)response.StatusCode is >= 300 and < 400 && response.Headers.Location is { } location
                    ? Redirected(address, location)
                    : throw HubErrors.Of(response, _repository, _settings, path);
            }
        }

        throw HubFile.Invalid("it sends from one address to the next without end");
    }

    /// <summary>Runs a step of the network for as long as something comes.</summary>
    /// <exception cref="HubInterruption">The connection was lost, or nothing came.</exception>
    public async Task<T> StepAsync<T>(Func<CancellationToken, ValueTask<T>> step, CancellationToken cancellation)
    {
        using var limited = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        limited.CancelAfter(_settings.Timeout);
        try
        {
            return await step(limited.Token).ConfigureAwait(false);
        }
        catch (OperationCanceledException error) when (!cancellation.IsCancellationRequested)
        {
            throw new HubInterruption(FormattableString.Invariant($"nothing came for {_settings.Timeout.TotalSeconds:0.#} seconds"), error);
        }
        catch (Exception error) when (error is HttpRequestException or IOException)
        {
            throw new HubInterruption(error.InnerException?.Message ?? error.Message, error);
        }
    }

    /// <summary>Tries something until it succeeds, waits between tries, and gives up after a few that brought nothing.</summary>
    /// <param name="attempt">What to try.</param>
    /// <param name="position">How far it is: a try that brought it further is followed by as many as the first.</param>
    /// <param name="cancellation">Ends the waiting.</param>
    /// <exception cref="PeftException"><c>HubUnreachable</c>, <c>HubRateLimited</c>, or what the tries threw.</exception>
    public async Task<T> RetryAsync<T>(Func<Task<T>> attempt, Func<long> position, CancellationToken cancellation)
    {
        var reached = position();
        for (var failures = 1; ; failures++)
        {
            HubInterruption interruption;
            try
            {
                return await attempt().ConfigureAwait(false);
            }
            catch (HubInterruption error)
            {
                interruption = error;
            }

            failures = position() > reached ? 1 : failures;
            reached = position();
            var wait = interruption.Wait ?? _settings.FirstWait * Math.Pow(2, failures - 1);
            if (failures >= (interruption.IsUnconnected ? TriesWithoutNetwork : MostTries) || wait > s_longestWait)
            {
                throw HubErrors.GivenUp(interruption, _settings, wait);
            }

            _onMessage?.Invoke(FormattableString.Invariant($"{_settings.Endpoint.Host}: {interruption.Message}; the next try is in {wait.TotalSeconds:0.#} seconds."));
            await Task.Delay(wait, cancellation).ConfigureAwait(false);
        }
    }

    /// <inheritdoc/>
    public void Dispose() => _client.Dispose();

    private static Uri Redirected(Uri from, Uri location)
    {
        var to = new Uri(from, location);
        return to.Scheme == "https" || (to.Scheme == "http" && from.Scheme == "http") ? to : throw HubFile.Invalid($"it sends from {from.Scheme} to {to.Scheme}");
    }

    private bool IsHub(Uri address) => Uri.Compare(address, _settings.Endpoint, UriComponents.SchemeAndServer, UriFormat.SafeUnescaped, StringComparison.OrdinalIgnoreCase) == 0;
}

/// <summary>What may go better the next time: a lost connection, a hub that is busy.</summary>
internal sealed class HubInterruption(string message, Exception? innerException = null) : Exception(message, innerException)
{
    /// <summary>How long the hub asks to wait; null where it doesn't say.</summary>
    public TimeSpan? Wait { get; init; }

    /// <summary>Whether the hub refuses for now since too much was asked.</summary>
    public bool IsRateLimit { get; init; }

    /// <summary>Whether there was no connection at all, which seldom comes by waiting.</summary>
    public bool IsUnconnected => InnerException is HttpRequestException
    {
        HttpRequestError: HttpRequestError.NameResolutionError or HttpRequestError.ConnectionError or HttpRequestError.SecureConnectionError or HttpRequestError.ProxyTunnelError
    };
}
