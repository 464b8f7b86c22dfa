using System.Management.Automation;
using Peft.Adapters;

namespace Peft.Module;

/// <summary>
/// Lets a parameter take a model by name, and explains why a model that came back from another process is no model:
/// <c>Start-Job</c> and remoting copy an object's properties, not its weights.
/// </summary>
[AttributeUsage(AttributeTargets.Property)]
public sealed class ModelArgumentAttribute : ArgumentTransformationAttribute
{
    /// <inheritdoc/>
    public override object? Transform(EngineIntrinsics engineIntrinsics, object? inputData)
    {
        var value = inputData is PSObject wrapped ? wrapped.BaseObject : inputData;
        if (value is string name)
        {
            return LoadedModels.Named(WildcardPattern.Escape(name)).LastOrDefault() ?? throw new ArgumentTransformationMetadataException(
                $"No model named '{name}' is loaded. Get-PeftModel lists those that are; Import-PeftModel loads one from a folder.");
        }

        if (inputData is PSObject { TypeNames: var names } && names.Any(static type => type.StartsWith("Deserialized.Peft.", StringComparison.Ordinal)))
        {
            throw new ArgumentTransformationMetadataException(
                "ModelDeserialized: this is a copy of a model or an adapter that came back from another process (Start-Job, remoting, Import-Clixml); its weights stayed there. "
                + "Import the model in this session, or use Start-ThreadJob or ForEach-Object -Parallel, which share it.");
        }

        return inputData;
    }
}
