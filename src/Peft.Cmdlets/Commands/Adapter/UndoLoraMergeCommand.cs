using System.Management.Automation;
using Peft.Adapters.Model;
using Peft.Cmdlets.Arguments;
using Peft.Cmdlets.Commands.Model;

namespace Peft.Cmdlets.Commands.Adapter;

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
