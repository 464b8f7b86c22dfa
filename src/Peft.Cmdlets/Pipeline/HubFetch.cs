using System.Diagnostics;
using Peft.Hub;

namespace Peft.Cmdlets.Pipeline;

/// <summary>Fetches files from the hub for a cmdlet, and shows how far it is.</summary>
internal static class HubFetch
{
    /// <summary>Fetches what is not in the cache yet.</summary>
    /// <param name="output">The cmdlet's work.</param>
    /// <param name="repository">What to fetch.</param>
    /// <param name="choose">Which of its files; null for a model's.</param>
    public static HubSnapshot Run(WorkOutput output, HubRepository repository, Func<IReadOnlyList<HubFile>, IReadOnlyList<HubFile>>? choose = null)
    {
        var line = new ProgressLine(output, $"Fetching '{repository}'", plainLines: true);
        var clock = Stopwatch.StartNew();
        var snapshot = HubDownload.Run(repository, new HubDownloadOptions
        {
            Choose = choose ?? HubModelFiles.Choose,
            OnMessage = output.WriteWarning,
            OnProgress = progress =>
            {
                var rate = progress.Received / Math.Max(0.001, clock.Elapsed.TotalSeconds);
                TimeSpan? left = rate > 0 ? TimeSpan.FromSeconds(Math.Min(1e7, (progress.TotalBytes - progress.Bytes) / rate)) : null;
                line.Show(progress.Bytes, progress.TotalBytes, FormattableString.Invariant(
                    $"{progress.Bytes / 1e6:N1} of {progress.TotalBytes / 1e6:N1} MB, {progress.Files} of {progress.TotalFiles} files, {rate / 1e6:N1} MB/s"), left);
            },
            Cancellation = output.Cancellation,
        });
        line.Complete();
        output.WriteVerbose($"'{repository}' is at '{snapshot.Path}'.");
        return snapshot;
    }

    /// <summary>Brings a repository up to date where the hub can be asked, and else takes what the cache has.</summary>
    /// <inheritdoc cref="Run" path="/param"/>
    public static HubSnapshot CachedOrNew(WorkOutput output, HubRepository repository, Func<IReadOnlyList<HubFile>, IReadOnlyList<HubFile>> choose)
    {
        if (new HubSettings().IsOffline)
        {
            return HubSnapshot.Of(repository, HubCache.Find(repository), choose);
        }

        try
        {
            return Run(output, repository, choose);
        }
        catch (PeftException error) when (error.ErrorId is "HubUnreachable" or "HubRateLimited" && HubCache.TryFind(repository) is not null)
        {
            output.WriteWarning($"{error.Message} What is in the cache is used.");
            return HubSnapshot.Of(repository, HubCache.Find(repository), choose);
        }
    }
}
