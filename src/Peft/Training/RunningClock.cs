using System.Diagnostics;

namespace Peft.Training;

/// <summary>Lets a clock run until it is disposed, unless it runs already.</summary>
internal sealed class RunningClock : IDisposable
{
    private readonly Stopwatch? _clock;

    /// <summary>Starts a clock.</summary>
    public RunningClock(Stopwatch clock)
    {
        _clock = clock.IsRunning ? null : clock;
        _clock?.Start();
    }

    /// <inheritdoc/>
    public void Dispose() => _clock?.Stop();
}
