using System.Management.Automation;
using Peft.Adapters.Model;
using Peft.Cmdlets.Arguments;
using Peft.Cmdlets.Completion;
using Peft.Cmdlets.Pipeline;
using Peft.Cmdlets.Session;

namespace Peft.Cmdlets.Commands.Model;

/// <summary>Remove-PeftModel: frees a model's weights and its adapters.</summary>
[Cmdlet(VerbsCommon.Remove, "PeftModel", SupportsShouldProcess = true, DefaultParameterSetName = ModelSet)]
public sealed class RemovePeftModelCommand : PeftCmdlet
{
    private const string ModelSet = "Model";
    private const string NameSet = "Name";

    /// <summary>The model to free.</summary>
    [Parameter(Mandatory = true, ParameterSetName = ModelSet, ValueFromPipeline = true)]
    [ModelArgument]
    public PeftModel Model { get; set; } = null!;

    /// <summary>Names of loaded models to free; wildcards are allowed.</summary>
    [Parameter(Mandatory = true, Position = 0, ParameterSetName = NameSet)]
    [SupportsWildcards]
    [ArgumentCompleter(typeof(ModelNameCompleter))]
    [ValidateNotNullOrEmpty]
    public string[] Name { get; set; } = [];

    /// <inheritdoc/>
    protected override void Process()
    {
        if (ParameterSetName == ModelSet)
        {
            Remove(Model);
            return;
        }

        Each(Name, name =>
        {
            PeftModel[] named = [.. LoadedModels.Named(name)];
            if (named.Length == 0 && !WildcardPattern.ContainsWildcardCharacters(name))
            {
                throw LoadedModels.NotFound(name);
            }

            if (named.Length > 1 && !WildcardPattern.ContainsWildcardCharacters(name))
            {
                throw new PeftException("ModelNameAmbiguous", $"{named.Length} loaded models are named '{name}'.")
                {
                    Target = name,
                    RecommendedAction = $"Pipe in the one that is meant, or free all of them: Get-PeftModel '{name}' | Remove-PeftModel.",
                };
            }

            Each(named, Remove);
        });
    }

    private void Remove(PeftModel model)
    {
        if (ShouldProcess(model.Name, "Free the weights"))
        {
            string[] lost = [.. model.Adapters.Where(static adapter => adapter is { TrainingRecord: not null, Path: null }).Select(static adapter => adapter.Name)];
            if (lost.Length > 0)
            {
                WriteWarning($"Trained and never saved, gone with the model '{model.Name}': {string.Join(", ", lost)}.");
            }

            model.Dispose();
            LoadedModels.Remove(model);
        }
    }
}
