using System.Collections;
using System.Management.Automation;

namespace Peft.Cmdlets.Arguments;

/// <summary>Answers an amount of memory without a device, which PowerShell would only say the type of.</summary>
[AttributeUsage(AttributeTargets.Property)]
public sealed class MemoryLimitArgumentAttribute : ArgumentTransformationAttribute
{
    /// <inheritdoc/>
    public override object? Transform(EngineIntrinsics engineIntrinsics, object? inputData) => inputData.Unwrap() switch
    {
        null or IDictionary => inputData,
        var amount => throw new ArgumentTransformationMetadataException($"'{amount}' doesn't say on which device: give a table, such as @{{ 0 = '10GiB'; cpu = '8GB' }}."),
    };
}
