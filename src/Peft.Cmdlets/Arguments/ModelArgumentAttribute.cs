using System.Management.Automation;
using Peft.Adapters.Model;
using Peft.Cmdlets.Session;

namespace Peft.Cmdlets.Arguments;

/// <summary>Lets a parameter take a model by name, and refuses a copy as <see cref="AdapterArgumentAttribute"/> does.</summary>
[AttributeUsage(AttributeTargets.Property)]
public sealed class ModelArgumentAttribute : ArgumentTransformationAttribute
{
    /// <inheritdoc/>
    public override object? Transform(EngineIntrinsics engineIntrinsics, object? inputData) => inputData.Unwrap() is string name
        ? LoadedModels.Named(WildcardPattern.Escape(name)).LastOrDefault() ?? throw new ArgumentTransformationMetadataException(
            $"No model named '{name}' is loaded. Get-PeftModel lists those that are; Import-PeftModel loads one from a folder.")
        : AdapterArgumentAttribute.NoCopy(inputData);
}
