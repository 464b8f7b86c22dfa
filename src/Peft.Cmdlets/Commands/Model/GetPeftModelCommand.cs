using System.Management.Automation;
using Peft.Adapters.Model;
using Peft.Cmdlets.Completion;
using Peft.Cmdlets.Pipeline;
using Peft.Cmdlets.Session;

namespace Peft.Cmdlets.Commands.Model;

/// <summary>Get-PeftModel: the models that are loaded and what they occupy.</summary>
[Cmdlet(VerbsCommon.Get, "PeftModel")]
[OutputType(typeof(PeftModel))]
public sealed class GetPeftModelCommand : PeftCmdlet
{
    /// <summary>Names to list; wildcards are allowed. Without it all models are listed.</summary>
    [Parameter(Position = 0, ValueFromPipeline = true)]
    [SupportsWildcards]
    [ArgumentCompleter(typeof(ModelNameCompleter))]
    [ValidateNotNullOrEmpty]
    public string[] Name { get; set; } = ["*"];

    /// <summary>PEFT's function of this name puts an adapter on a model.</summary>
    internal override string? SurplusAdvice => "This lists the models that are loaded; $model | Add-PeftAdapter $config puts a new adapter on one.";

    /// <inheritdoc/>
    protected override void Process()
    {
        foreach (var name in Name)
        {
            var models = LoadedModels.Named(name).ToList();
            if (models.Count == 0 && !WildcardPattern.ContainsWildcardCharacters(name))
            {
                WriteError(LoadedModels.NotFound(name));
            }

            WriteObject(models, enumerateCollection: true);
        }
    }
}
