using System.Management.Automation;
using Peft.Training.Data;

namespace Peft.Cmdlets.Arguments;

/// <summary>Takes a way of packing as TRL has it too: <c>packing=True</c>, and <c>bfd</c>, <c>bfd_split</c> or <c>wrapped</c> for how.</summary>
[AttributeUsage(AttributeTargets.Property)]
public sealed class PackingArgumentAttribute : ArgumentTransformationAttribute
{
    /// <inheritdoc/>
    public override object? Transform(EngineIntrinsics engineIntrinsics, object? inputData) => inputData.Unwrap() switch
    {
        true or "bfd" => PackingStrategy.BestFit,
        false => PackingStrategy.None,
        "bfd_split" => PackingStrategy.BestFitSplit,
        _ => inputData,
    };
}
