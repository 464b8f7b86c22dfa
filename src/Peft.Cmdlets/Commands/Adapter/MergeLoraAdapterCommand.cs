using System.Management.Automation;
using Peft.Adapters.Merging;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Cmdlets.Arguments;
using Peft.Cmdlets.Completion;
using Peft.Cmdlets.Session;

namespace Peft.Cmdlets.Commands.Adapter;

/// <summary>Merge-LoraAdapter: adds adapters into the weights of their model.</summary>
[Cmdlet(VerbsData.Merge, "LoraAdapter", SupportsShouldProcess = true, DefaultParameterSetName = AdapterSet)]
[Alias("Merge-PeftAdapter")]
[OutputType(typeof(PeftModel))]
public sealed class MergeLoraAdapterCommand : AdapterCommand
{
    private readonly List<PeftAdapter> _adapters = [];
    private readonly List<PeftModel> _models = [];

    /// <summary>Names of the model's adapters to merge, in order. Without it the active ones are merged.</summary>
    [Parameter(Position = 0, ParameterSetName = ModelSet)]
    [SupportsWildcards]
    [ArgumentCompleter(typeof(AdapterNameCompleter))]
    [ValidateNotNullOrEmpty]
    public string[]? AdapterName { get; set; }

    /// <summary>Makes the merge final: the model is a plain model from then on and all its adapters are dropped.</summary>
    [Parameter]
    public SwitchParameter Unload { get; set; }

    /// <summary>Checks every merged weight first and changes nothing when one is not a finite number.</summary>
    [Parameter]
    [Alias("safe_merge")]
    public SwitchParameter Safe { get; set; }

    /// <summary>Type that the weights take before the changes are added; <c>auto</c> keeps theirs. The sum is formed in float32 at least.</summary>
    [Parameter]
    [ValidateSet("auto", "float32", "bfloat16", "float16")]
    [PSDefaultValue(Value = "auto", Help = "auto")]
    public string DataType { get; set; } = "auto";

    /// <inheritdoc/>
    protected override void Process()
    {
        var chosen = ParameterSetName == ModelSet && AdapterName is null
            ? [.. Model.ActiveAdapters.Select(name => Model[name])]
            : Chosen(AdapterName ?? []);
        if (chosen.Count == 0)
        {
            throw new PeftException("NothingToMerge", $"The model '{Model.Name}' has no active adapter to merge.")
            {
                Target = Model,
                RecommendedAction = "Name the adapters to merge with -AdapterName, or activate them with Set-ActiveAdapter.",
            };
        }

        _adapters.AddRange(chosen);
        _models.AddRange((ParameterSetName == ModelSet ? [Model] : chosen.Select(static adapter => adapter.Model)).Except(_models));
    }

    /// <inheritdoc/>
    protected override void End()
    {
        var options = new MergeOptions { Unload = Unload, Safe = Safe, DataType = EngineNames.DataType(DataType), Cancellation = Cancellation };
        Each(_models, model =>
        {
            string[] names = [.. _adapters.Where(adapter => ReferenceEquals(adapter.Model, model)).Select(static adapter => adapter.Name).Distinct(StringComparer.Ordinal)];
            if (ShouldProcess(model.Name, $"Merge {string.Join(", ", names)} into the weights{(Unload ? " for good" : "")}"))
            {
                Run(output => model.Merge(names, options).Messages.ForEach(output.WriteWarning));
                WriteObject(model);
            }
        });
    }
}
