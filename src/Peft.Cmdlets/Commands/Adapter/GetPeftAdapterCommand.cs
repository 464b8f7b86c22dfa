using System.Management.Automation;
using Peft.Adapters.Model;
using Peft.Cmdlets.Arguments;
using Peft.Cmdlets.Completion;
using Peft.Cmdlets.Pipeline;
using Peft.Cmdlets.Session;

namespace Peft.Cmdlets.Commands.Adapter;

/// <summary>Get-PeftAdapter: the adapters of a model.</summary>
[Cmdlet(VerbsCommon.Get, "PeftAdapter")]
[OutputType(typeof(PeftAdapter))]
public sealed class GetPeftAdapterCommand : PeftCmdlet
{
    /// <summary>Names to list; wildcards are allowed. Without it all adapters are listed.</summary>
    [Parameter(Position = 0)]
    [SupportsWildcards]
    [ArgumentCompleter(typeof(AdapterNameCompleter))]
    [ValidateNotNullOrEmpty]
    [Alias("adapter_name")]
    public string[] AdapterName { get; set; } = ["*"];

    /// <summary>The model whose adapters are listed; without it those of every loaded model.</summary>
    [Parameter(ValueFromPipeline = true)]
    [ModelArgument]
    [ArgumentCompleter(typeof(ModelNameCompleter))]
    public PeftModel? Model { get; set; }

    /// <inheritdoc/>
    protected override void Process()
    {
        var models = Model is null ? LoadedModels.All : [Model];
        foreach (var name in AdapterName)
        {
            var named = models.SelectMany(model => AdapterNames.Find(model, name)).ToList();
            if (named.Count == 0 && !WildcardPattern.ContainsWildcardCharacters(name))
            {
                WriteError(new PeftException("AdapterNotFound", $"There is no adapter '{name}' on {(Model is null ? "any loaded model" : $"'{Model.Name}'")}.{Spelling.DidYouMean(name, models.SelectMany(static model => model.Adapters).Select(static adapter => adapter.Name))}")
                {
                    Target = name,
                    RecommendedAction = "Get-PeftAdapter without a name lists those there are.",
                });
            }

            WriteObject(named, enumerateCollection: true);
        }
    }
}
