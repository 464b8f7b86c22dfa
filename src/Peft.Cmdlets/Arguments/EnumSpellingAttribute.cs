using System.Management.Automation;

namespace Peft.Cmdlets.Arguments;

/// <summary>Takes a choice as Python code spells its enumerations too: <c>TaskType.CAUSAL_LM</c>, <c>PromptTuningInit.TEXT</c>, <c>torch.bfloat16</c>; and the names of one of ours in small letters, <c>dare_ties</c>.</summary>
[AttributeUsage(AttributeTargets.Property)]
public sealed class EnumSpellingAttribute : ArgumentTransformationAttribute
{
    /// <summary>The enumeration whose names may be spelt with underscores; null where choices are texts.</summary>
    public Type? Names { get; init; }

    /// <summary>What null stands for, which Python writes where a default is meant; null where it is no value.</summary>
    public string? Null { get; init; }

    /// <inheritdoc/>
    public override object? Transform(EngineIntrinsics engineIntrinsics, object? inputData) => inputData is null ? Null
        : Names is { } names
        ? inputData.Unwrap() is string given && Enum.TryParse(names, given.Replace("_", "", StringComparison.Ordinal), ignoreCase: true, out var value) ? value : inputData
        : inputData.Unwrap() is string text && text.Split('.') is [var enumeration, var choice] && (enumeration is "torch" || (enumeration.Length > 0 && char.IsAsciiLetterUpper(enumeration[0]) && enumeration.All(char.IsAsciiLetterOrDigit)))
            ? enumeration is "torch" ? TypeName(choice) : choice
            : inputData;

    /// <summary>torch's names of a type that are no other's.</summary>
    private static string TypeName(string name) => name switch
    {
        "half" => "float16",
        "float" => "float32",
        _ => name,
    };
}
