using System.Management.Automation;

namespace Peft.Cmdlets.Arguments;

/// <summary>Takes a choice as Python code spells its enumerations too: <c>TaskType.CAUSAL_LM</c>, <c>PromptTuningInit.TEXT</c>, <c>torch.bfloat16</c>; and the names of one of ours in small letters, <c>dare_ties</c>.</summary>
[AttributeUsage(AttributeTargets.Property)]
public sealed class EnumSpellingAttribute : ArgumentTransformationAttribute
{
    /// <summary>The enumeration whose names may be spelt with underscores; null where choices are texts.</summary>
    public Type? Names { get; init; }

    /// <inheritdoc/>
    public override object? Transform(EngineIntrinsics engineIntrinsics, object? inputData) => Names is { } names
        ? inputData.Unwrap() is string given && Enum.TryParse(names, given.Replace("_", "", StringComparison.Ordinal), ignoreCase: true, out var value) ? value : inputData
        : inputData.Unwrap() is string text && text.Split('.') is [var enumeration, var choice] && (enumeration is "torch" || (enumeration.Length > 0 && char.IsAsciiLetterUpper(enumeration[0]) && enumeration.All(char.IsAsciiLetterOrDigit)))
            ? choice
            : inputData;
}
