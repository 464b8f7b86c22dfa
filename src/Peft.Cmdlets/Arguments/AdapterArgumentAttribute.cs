using System.Collections;
using System.Management.Automation;

namespace Peft.Cmdlets.Arguments;

/// <summary>
/// Explains of an adapter, or a model, that came back from another process why it is none any more: <c>Start-Job</c> and remoting copy
/// an object's properties, not its weights.
/// </summary>
[AttributeUsage(AttributeTargets.Property)]
public sealed class AdapterArgumentAttribute : ArgumentTransformationAttribute
{
    /// <inheritdoc/>
    public override object? Transform(EngineIntrinsics engineIntrinsics, object? inputData) => NoCopy(inputData);

    /// <summary>The same value, which is no copy.</summary>
    /// <exception cref="ArgumentTransformationMetadataException">It is one, or holds one.</exception>
    internal static object? NoCopy(object? value) => IsCopy(value) || (value.Unwrap() is IList several && several.Cast<object?>().Any(IsCopy))
        ? throw new ArgumentTransformationMetadataException(
            "ModelDeserialized: this is a copy of a model or an adapter that came back from another process (Start-Job, remoting, Import-Clixml); its weights stayed there. "
            + "Import the model in this session, or use Start-ThreadJob or ForEach-Object -Parallel, which share it.")
        : value;

    private static bool IsCopy(object? value) =>
        value is PSObject { TypeNames: var names } && names.Any(static type => type.StartsWith("Deserialized.Peft.", StringComparison.Ordinal));
}
