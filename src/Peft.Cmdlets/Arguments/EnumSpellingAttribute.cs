using System.Management.Automation;

namespace Peft.Cmdlets.Arguments;

/// <summary>Takes a choice as Python code spells its enumerations too: <c>TaskType.CAUSAL_LM</c>, <c>PromptTuningInit.TEXT</c>.</summary>
[AttributeUsage(AttributeTargets.Property)]
public sealed class EnumSpellingAttribute : ArgumentTransformationAttribute
{
    /// <inheritdoc/>
    public override object? Transform(EngineIntrinsics engineIntrinsics, object? inputData) =>
        inputData.Unwrap() is string text && text.Split('.') is [var enumeration, var choice] && enumeration.Length > 0 && char.IsAsciiLetterUpper(enumeration[0]) && enumeration.All(char.IsAsciiLetterOrDigit)
            ? choice
            : inputData;
}
