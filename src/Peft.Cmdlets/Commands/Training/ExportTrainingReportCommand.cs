using System.Management.Automation;
using Peft.Cmdlets.Arguments;

namespace Peft.Cmdlets.Commands.Training;

/// <summary>Export-TrainingReport: writes one page of HTML about a training, or about several.</summary>
[Cmdlet(VerbsData.Export, "TrainingReport", SupportsShouldProcess = true)]
[OutputType(typeof(FileInfo))]
public sealed class ExportTrainingReportCommand : ReportCommand
{
    /// <summary>The file to write.</summary>
    [Parameter(Mandatory = true, Position = 0)]
    [ValidateNotNullOrEmpty]
    public string Path { get; set; } = "";

    /// <summary>Writes over a file that is there.</summary>
    [Parameter]
    public SwitchParameter Force { get; set; }

    /// <inheritdoc/>
    protected override void End()
    {
        var path = PathResolution.Target(this, Path);
        if (File.Exists(path) && !Force)
        {
            throw new PeftException("OutputExists", $"'{path}' is there already.") { Target = path, RecommendedAction = "Choose another path, or write over it with -Force." };
        }

        if (ShouldProcess(path, "Write a report"))
        {
            WriteObject(Write(path));
        }
    }
}
