using System.Management.Automation;
using Peft.Adapters;

namespace Peft.Module.Commands;

/// <summary>Undo-LoraMerge: takes merged adapters out of the weights again, bit for bit.</summary>
[Cmdlet(VerbsCommon.Undo, "LoraMerge", SupportsShouldProcess = true)]
[Alias("Undo-PeftMerge")]
[OutputType(typeof(PeftModel))]
public sealed class UndoLoraMergeCommand : ModelCommand
{
    /// <inheritdoc/>
    protected override void Process()
    {
        if (ShouldProcess(Model.Name, "Restore the weights as they were before the merge"))
        {
            Run(output => Model.UndoMerge().ForEach(output.WriteWarning));
            WriteObject(Model);
        }
    }
}
