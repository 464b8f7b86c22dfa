using System.Net;

namespace Peft.Hub;

/// <summary>What the hub's refusals mean and what to do about them.</summary>
internal static class HubErrors
{
    /// <summary>The error of an answer that is none.</summary>
    /// <param name="response">The answer.</param>
    /// <param name="repository">What was asked for.</param>
    /// <param name="settings">Who asked, and where.</param>
    /// <param name="path">Where it was asked for, below the hub's address.</param>
    /// <returns>A <see cref="HubInterruption"/> where waiting helps, else a <see cref="PeftException"/>.</returns>
    public static Exception Of(HttpResponseMessage response, HubRepository repository, HubSettings settings, string path)
    {
        var code = response.Headers.TryGetValues("X-Error-Code", out var values) ? values.FirstOrDefault() : null;
        var kind = repository.Kind == HubKind.Dataset ? "data set" : "model";
        var page = new Uri(settings.Endpoint, repository.PagePath);
        return (response.StatusCode, code) switch
        {
            (HttpStatusCode.TooManyRequests, _) => new HubInterruption("too much was asked of it") { IsRateLimit = true, Wait = WaitOf(response) },
            (>= HttpStatusCode.InternalServerError or HttpStatusCode.RequestTimeout, _) => new HubInterruption($"it answers {(int)response.StatusCode}") { Wait = WaitOf(response) },
            (_, "GatedRepo") => New("HubGated", $"The {kind} '{repository.Name}' is given only to those who have accepted its conditions.",
                $"Accept them at {page} and set HF_TOKEN to a token of that account (made at {new Uri(settings.Endpoint, "settings/tokens")})."),
            (_, "RevisionNotFound") => New("HubRevisionNotFound", $"The {kind} '{repository.Name}' has no revision '{repository.Revision}'.", $"Its branches and tags are listed at {page}."),
            (_, "EntryNotFound") => New("HubFileNotFound", $"The {kind} '{repository.Name}' has no file at '{path}'.", "Try again: the files were changed just now."),
            (HttpStatusCode.Forbidden, _) => New("HubAccessDenied", $"The hub refuses the {kind} '{repository.Name}' to this account.", $"See {page} with the account whose token is used (HF_TOKEN), or use another token."),
            (HttpStatusCode.Unauthorized, not "RepoNotFound") when settings.Token is not null => New("HubTokenInvalid", "The hub does not know the token it was given.",
                "Look at HF_TOKEN, or at the file 'token' in the hub's folder: it may have expired."),
            (HttpStatusCode.NotFound or HttpStatusCode.Unauthorized, _) => New("HubRepositoryNotFound", $"The hub at {settings.Endpoint.Host} has no {kind} '{repository.Name}', or it is private.",
                settings.Token is null ? "Check the name; for a private one set HF_TOKEN." : "Check the name, and that the token's account (HF_TOKEN) may see it."),
            _ => HubFile.Invalid($"it answers {(int)response.StatusCode} ({response.ReasonPhrase})"),
        };

        PeftException New(string id, string message, string action) => new(id, message) { Target = repository.Name, RecommendedAction = action };
    }

    /// <summary>The error after the last try.</summary>
    public static PeftException GivenUp(HubInterruption last, HubSettings settings, TimeSpan wait) => last.IsRateLimit
        ? new PeftException("HubRateLimited", FormattableString.Invariant($"The hub at {settings.Endpoint.Host} was asked too much and wants to be left alone for {wait.TotalSeconds:0} seconds."), last)
        {
            RecommendedAction = "Try again later; with a token (HF_TOKEN) the hub allows more. What is there already is kept.",
        }
        : new PeftException("HubUnreachable", $"The hub at {settings.Endpoint.Host} can't be reached: {last.Message}.", last)
        {
            RecommendedAction = "Check the network, HTTPS_PROXY and HF_ENDPOINT, and give the command again: it goes on where it stopped. HF_HUB_OFFLINE=1 uses what is in the cache.",
        };

    /// <summary>The error where nothing may be asked.</summary>
    public static PeftException Offline(HubRepository repository) => new("HubOffline", $"'{repository}' is not whole in the hub's cache, and HF_HUB_OFFLINE forbids to ask the hub.")
    {
        Target = repository.Name,
        RecommendedAction = "Clear HF_HUB_OFFLINE to fetch it, or set HF_HOME to the cache that holds it.",
    };

    private static TimeSpan? WaitOf(HttpResponseMessage response) => response.Headers.RetryAfter switch
    {
        { Delta: { } wait } => wait,
        { Date: { } date } => date - DateTimeOffset.UtcNow is var wait && wait > TimeSpan.Zero ? wait : TimeSpan.Zero,
        _ => null,
    };
}
