using System.Collections;
using System.Management.Automation;
using System.Text.RegularExpressions;
using Peft.Cmdlets.Pipeline;

namespace Peft.Cmdlets.Arguments;

/// <summary>
/// What is typed or splatted and belongs to no parameter. A tutorial for Python gives many names that mean nothing here, or that go by another name: what can
/// be taken is taken, and everything else is said at once, before PowerShell asks for what may be missing.
/// </summary>
internal static partial class SurplusArguments
{
    /// <summary>Name of the parameter that holds them. It is there while a command is bound, and in no list.</summary>
    public const string ParameterName = "UnknownArgument";

    /// <summary>The parameter that takes them.</summary>
    /// <param name="cmdlet">The command that is bound.</param>
    public static RuntimeDefinedParameter Parameter(PeftCmdlet cmdlet) => new(ParameterName, typeof(object[]), [
        new ParameterAttribute { ValueFromRemainingArguments = true, DontShow = true },
        new TransformationAttribute(cmdlet),
    ]);

    private static void Take(PeftCmdlet cmdlet, IEnumerable arguments)
    {
        List<string> complaints = [];
        string? name = null;
        object? value = null;
        foreach (var argument in arguments)
        {
            if (NameOf(argument) is { } next)
            {
                TakeNamed();
                (name, value) = (next, null);
            }
            else if (name is not null && value is null)
            {
                value = argument;
            }
            else
            {
                TakeNamed();
                name = null;
                complaints.AddRange(OfStray(cmdlet, argument.Unwrap()));
            }
        }

        TakeNamed();
        if (complaints.Count > 0)
        {
            throw new ArgumentTransformationMetadataException(string.Join(" ", [$"{cmdlet.MyInvocation.MyCommand.Name}: {complaints[0]}", .. complaints.Skip(1), .. cmdlet.SurplusAdvice is { } advice ? [advice] : Array.Empty<string>()]));
        }

        void TakeNamed()
        {
            if (name is not null && !cmdlet.TakesArgument(name, value.Unwrap()) && ForeignArguments.Complaint(cmdlet, name, value.Unwrap()) is { } complaint)
            {
                complaints.Add(complaint);
            }
        }
    }

    /// <summary>The name that an argument is; splatted ones end in a colon.</summary>
    private static string? NameOf(object? argument) => argument.Unwrap() is string text && Name().Match(text) is { Success: true } match ? match.Groups[1].Value : null;

    [GeneratedRegex(@"\A-([A-Za-z_]\w*):?\z", RegexOptions.CultureInvariant, 1000)]
    private static partial Regex Name();

    /// <summary>A switch followed by a value, as Python has it: on is what the switch says already.</summary>
    private static IEnumerable<string> OfStray(PeftCmdlet cmdlet, object? value)
    {
        var switches = cmdlet.MyInvocation.BoundParameters.Where(static entry => entry.Value is SwitchParameter).Select(static entry => entry.Key).ToArray();
        if (value is bool and true && switches.Length > 0)
        {
            yield break;
        }

        yield return value is bool
            ? $"A switch takes its value after a colon, such as -{switches.FirstOrDefault() ?? "Force"}:$false."
            : $"'{value}' belongs to no parameter.";
    }

    [AttributeUsage(AttributeTargets.Property)]
    private sealed class TransformationAttribute(PeftCmdlet cmdlet) : ArgumentTransformationAttribute
    {
        public override object? Transform(EngineIntrinsics engineIntrinsics, object? inputData)
        {
            if (inputData.Unwrap() is IEnumerable arguments and not string)
            {
                Take(cmdlet, arguments);
            }

            return inputData;
        }
    }
}
