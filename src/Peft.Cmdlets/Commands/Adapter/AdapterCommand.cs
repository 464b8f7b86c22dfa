using System.Management.Automation;
using Peft.Adapters;
using Peft.Adapters.Model;
using Peft.Cmdlets.Arguments;
using Peft.Cmdlets.Completion;
using Peft.Cmdlets.Pipeline;

namespace Peft.Cmdlets.Commands.Adapter;

/// <summary>
/// What the cmdlets share that act on adapters: adapters come down the pipeline, or are named with <c>-AdapterName</c> on a model that does.
/// </summary>
public abstract class AdapterCommand : PeftCmdlet
{
    /// <summary>Name of the parameter set that takes adapters.</summary>
    protected const string AdapterSet = "Adapter";

    /// <summary>Name of the parameter set that takes a model and names.</summary>
    protected const string ModelSet = "Model";

    /// <summary>Adapters, from Invoke-LoraTraining, Import-PeftAdapter, Add-PeftAdapter or Get-PeftAdapter.</summary>
    [Parameter(Mandatory = true, ParameterSetName = AdapterSet, ValueFromPipeline = true)]
    [AdapterArgument]
    [ValidateNotNullOrEmpty]
    [ArgumentCompleter(typeof(AdapterCompleter))]
    public PeftAdapter[] Adapter { get; set; } = [];

    /// <summary>The model whose adapters are meant; a loaded model's name does as well.</summary>
    [Parameter(Mandatory = true, ParameterSetName = ModelSet, ValueFromPipeline = true)]
    [ModelArgument]
    [ArgumentCompleter(typeof(ModelNameCompleter))]
    public PeftModel Model { get; set; } = null!;

    /// <summary>The adapters of the current input, by object or by name.</summary>
    /// <param name="names">Names on <see cref="Model"/>; wildcards are allowed.</param>
    /// <exception cref="PeftException"><c>AdapterNotFound</c>.</exception>
    private protected IReadOnlyList<PeftAdapter> Chosen(IEnumerable<string> names) =>
        ParameterSetName == AdapterSet ? Adapter : AdapterNames.Resolve(Model, names);
}
