using System.ComponentModel;

using System.Management.Automation;
using Peft.Cmdlets.Arguments;

namespace Peft.Cmdlets.Commands.Training;

/// <summary>Show-TrainingReport: opens the page about a training, or about several, in the browser.</summary>
[Cmdlet(VerbsCommon.Show, "TrainingReport")]
[OutputType(typeof(FileInfo))]
public sealed class ShowTrainingReportCommand : ReportCommand
{
    /// <summary>The file to write, in place of one among the temporary files.</summary>
    [Parameter(Position = 0)]
    [ValidateNotNullOrEmpty]
    public string? Path { get; set; }

    /// <summary>Puts the file out.</summary>
    [Parameter]
    public SwitchParameter PassThru { get; set; }

    /// <inheritdoc/>
    protected override void End()
    {
        var file = Write(Path is null ? System.IO.Path.Combine(System.IO.Path.GetTempPath(), $"training-report-{System.IO.Path.GetRandomFileName()}.html") : PathResolution.Target(this, Path));
        try
        {
            using var browser = System.Diagnostics.Process.Start(new System.Diagnostics.ProcessStartInfo(file.FullName) { UseShellExecute = true });
        }
        catch (Exception error) when (error is Win32Exception or PlatformNotSupportedException)
        {
            WriteWarning($"No browser could be opened here. The report is in '{file.FullName}'.");
        }

        if (PassThru)
        {
            WriteObject(file);
        }
    }
}
