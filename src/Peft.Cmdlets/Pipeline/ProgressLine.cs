using System.Diagnostics;
using System.Management.Automation;

namespace Peft.Cmdlets.Pipeline;

/// <summary>
/// One line of progress, shown at most five times a second. Where the host's output goes to a file no progress can be drawn,
/// so a plain line is written now and then instead.
/// </summary>
internal sealed class ProgressLine(WorkOutput output, string activity, bool plainLines = false)
{
    private static readonly TimeSpan s_interval = TimeSpan.FromMilliseconds(200);
    private static readonly TimeSpan s_plainInterval = TimeSpan.FromSeconds(5);

    private readonly bool _writesPlainLines = plainLines && Console.IsOutputRedirected;
    private readonly Stopwatch _clock = Stopwatch.StartNew();
    private readonly int _id = Environment.CurrentManagedThreadId;
    private TimeSpan? _shown;
    private TimeSpan? _written;

    /// <summary>Shows how far the work is.</summary>
    /// <param name="done">What is done.</param>
    /// <param name="total">What there is to do; 0 when nobody knows.</param>
    /// <param name="status">What to say about it.</param>
    /// <param name="remaining">Time left; by default what is told by the time that the work took so far.</param>
    /// <param name="line">The plain line, which has to say by itself how much time is left; by default the status.</param>
    public void Show(long done, long total, string status, TimeSpan? remaining = null, string? line = null)
    {
        var now = _clock.Elapsed;
        var ends = total > 0 && done >= total;
        if (_writesPlainLines && (ends || _written is null || now - _written >= s_plainInterval))
        {
            _written = now;
            output.WriteLine(line ?? status);
        }

        if (_shown is { } last && now - last < s_interval && !ends)
        {
            return;
        }

        _shown = now;
        var left = remaining ?? (total > 0 && done > 0 ? now * (Math.Max(0, total - done) / (double)done) : null);
        output.WriteProgress(new ProgressRecord(_id, activity, status)
        {
            PercentComplete = total > 0 ? (int)(100 * Math.Min(done, total) / total) : -1,
            SecondsRemaining = left is { } time ? (int)Math.Min(time.TotalSeconds, int.MaxValue) : -1,
        });
    }

    /// <summary>Takes the line away.</summary>
    public void Complete()
    {
        if (_shown is not null)
        {
            output.WriteProgress(new ProgressRecord(_id, activity, "done") { RecordType = ProgressRecordType.Completed });
        }
    }
}
