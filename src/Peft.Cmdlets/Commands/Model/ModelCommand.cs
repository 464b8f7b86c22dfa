using System.Management.Automation;
using Peft.Adapters.Model;
using Peft.Cmdlets.Arguments;
using Peft.Cmdlets.Pipeline;

namespace Peft.Cmdlets.Commands.Model;

/// <summary>What the cmdlets share that act on one model: it comes down the pipeline, or an adapter that carries it.</summary>
public abstract class ModelCommand : PeftCmdlet
{
    /// <summary>The model, from Import-PeftModel; a loaded model's name does as well.</summary>
    [Parameter(Mandatory = true, ValueFromPipeline = true, ValueFromPipelineByPropertyName = true)]
    [ModelArgument]
    [ArgumentCompleter(typeof(Completion.ModelNameCompleter))]
    public PeftModel Model { get; set; } = null!;
}
