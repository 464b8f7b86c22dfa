using System.Management.Automation;
using Peft.Adapters;
using Peft.Adapters.Asking;
using Peft.Adapters.Model;
using Peft.Cmdlets.Arguments;
using Peft.Cmdlets.Completion;
using Peft.Cmdlets.Pipeline;
using Peft.Models;

namespace Peft.Cmdlets.Commands.Text;

/// <summary>What the cmdlets share that run a model on text: the model, or one of its adapters, comes down the pipeline.</summary>
public abstract class TextModelCommand : PeftCmdlet
{
    /// <summary>Name of the parameter set that takes a model.</summary>
    protected const string ModelSet = "Model";

    /// <summary>Name of the parameter set that takes an adapter.</summary>
    protected const string AdapterSet = "Adapter";

    /// <summary>The model, with the adapters that are active on it; a loaded model's name does as well.</summary>
    [Parameter(Mandatory = true, ParameterSetName = ModelSet, ValueFromPipeline = true)]
    [ModelArgument]
    [ArgumentCompleter(typeof(ModelNameCompleter))]
    public virtual PeftModel Model { get; set; } = null!;

    /// <summary>An adapter: it acts alone on its model for this command, or is compared with the base. What is active on the model stays as it is.</summary>
    [Parameter(Mandatory = true, ParameterSetName = AdapterSet, ValueFromPipeline = true)]
    [AdapterArgument]
    [ArgumentCompleter(typeof(AdapterCompleter))]
    public virtual PeftAdapter Adapter { get; set; } = null!;

    /// <summary>The model that is meant.</summary>
    private protected PeftModel TheModel => ParameterSetName == AdapterSet ? Adapter.Model : Model;

    /// <summary>The adapters that act for the command.</summary>
    private protected IReadOnlyList<PeftAdapter> Acting(IReadOnlyList<string>? names) => names switch
    {
        null when ParameterSetName == AdapterSet => [Adapter],
        null => Model.AdaptersEnabled ? [.. Model.ActiveAdapters.Select(name => Model[name])] : [],
        [var only] when AdapterNames.IsBase(Model, only) => [],
        _ => AdapterNames.Resolve(Model, names),
    };

    /// <summary>The form of prompts that the acting adapters were trained with; null where none knows it, or they differ.</summary>
    private protected PromptForm? FormOf(IReadOnlyList<string>? names) =>
        Acting(names).Select(static adapter => adapter.PromptForm).OfType<PromptForm>().DistinctBy(static form => (form.ToString(), form.SystemMessage)).ToList() is [var only] ? only : null;

    /// <summary>Which adapters act, where it isn't those that are active; <c>base</c> alone stands for none.</summary>
    /// <exception cref="PeftException"><c>AdapterNotFound</c> or <c>ModelIsMerged</c>.</exception>
    private protected AdapterSelection? SelectionOf(IReadOnlyList<string>? names) => names switch
    {
        null => ParameterSetName == AdapterSet ? Adapter.Model.Select(Adapter.Name) : null,
        [var only] when AdapterNames.IsBase(Model, only) => Model.Select(),
        _ => Model.Select(AdapterNames.Resolve(Model, names).Select(static adapter => adapter.Name)),
    };
}
