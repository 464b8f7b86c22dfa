using System.Management.Automation;

namespace Peft.Cmdlets.Pipeline;

/// <summary>A cmdlet that can do its work in the background; <see cref="PeftCmdlet"/> sees to that.</summary>
internal interface IRunsAsJob
{
    /// <summary>Whether it is to.</summary>
    SwitchParameter AsJob { get; }
}
