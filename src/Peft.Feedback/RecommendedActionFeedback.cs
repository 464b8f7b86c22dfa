using System.Collections.ObjectModel;
using System.Management.Automation;
using System.Management.Automation.Subsystem;
using System.Management.Automation.Subsystem.Feedback;
using System.Text.RegularExpressions;

namespace Peft.Feedback;

/// <summary>
/// After a command of this module ended in an error, shows what the error recommends, and offers it as commands: the line again with the switch that is recommended, or the command that is named.
/// </summary>
public sealed partial class RecommendedActionFeedback : IFeedbackProvider
{
    private const string Cmdlets = "Peft.Cmdlets.";

    private static int s_isRegistered;
    private static readonly Guid s_id = new("b1f0c3a4-6f0e-4d6a-9a53-0d6f1f7a2c11");

    /// <inheritdoc/>
    public Guid Id => s_id;

    /// <inheritdoc/>
    public string Name => "Peft";

    /// <inheritdoc/>
    public string Description => "What Peft's errors recommend, as commands.";

    /// <inheritdoc/>
    public Dictionary<string, string>? FunctionsToDefine => null;

    /// <inheritdoc/>
    public FeedbackTrigger Trigger => FeedbackTrigger.Error | FeedbackTrigger.CommandNotFound;

    /// <summary>Makes the provider known to PowerShell, once for the process: it says nothing of errors that aren't this module's.</summary>
    public static void Register()
    {
        if (Interlocked.Exchange(ref s_isRegistered, 1) == 0)
        {
            SubsystemManager.RegisterSubsystem(SubsystemKind.FeedbackProvider, new RecommendedActionFeedback());
        }
    }

    /// <inheritdoc/>
    public FeedbackItem? GetFeedback(FeedbackContext context, CancellationToken token)
    {
        ArgumentNullException.ThrowIfNull(context);
        if (context.LastError is { } last && PythonNameIn(last) is { } name)
        {
            return new FeedbackItem($"What PEFT and its relatives call {name} is a command here:", [PythonNames.Commands[name]], FeedbackDisplayLayout.Portrait);
        }

        return context.LastError is { ErrorDetails.RecommendedAction: { Length: > 0 } action } error && error.FullyQualifiedErrorId.Contains("," + Cmdlets, StringComparison.Ordinal)
            ? new FeedbackItem(action, [.. Commands(context.CommandLine, action)], FeedbackDisplayLayout.Portrait)
            : null;
    }

    /// <summary>The name of a Python function or class that somebody called, as a command or as a method of one of this module's objects; null for anything else.</summary>
    /// <param name="error">What came of it.</param>
    public static string? PythonNameIn(ErrorRecord error)
    {
        ArgumentNullException.ThrowIfNull(error);
        var name = error.FullyQualifiedErrorId switch
        {
            "CommandNotFoundException" => Called((error.TargetObject as string)?.Split('.') ?? []),
            "MethodNotFound" when Method().Match(error.Exception.Message) is { Success: true } match => match.Groups[1].Value,
            _ => null,
        };
        return name is not null && PythonNames.Commands.ContainsKey(name) ? name : null;
    }

    /// <summary>What of a dotted name is called: its end, but every class has a <c>from_pretrained</c>, and which one it is says what is loaded.</summary>
    private static string? Called(string[] path) =>
        path is [.., var owner, "from_pretrained"] && PythonNames.Commands.ContainsKey(owner) ? owner : path.LastOrDefault();

    /// <summary>The commands that a recommendation comes to.</summary>
    /// <param name="line">The line that failed.</param>
    /// <param name="action">What its error recommends.</param>
    public static IReadOnlyList<string> Commands(string line, string action)
    {
        ArgumentNullException.ThrowIfNull(line);
        var commands = new Collection<string>();
        foreach (var match in Named().EnumerateMatches(action))
        {
            commands.Add(action.AsSpan(match.Index, match.Length).ToString());
        }

        foreach (Match match in Switch().Matches(action))
        {
            if (!line.Contains(match.Groups[1].Value, StringComparison.OrdinalIgnoreCase) && !line.Contains('\n', StringComparison.Ordinal))
            {
                commands.Add($"{line.TrimEnd()} {match.Groups[1].Value}");
            }
        }

        return commands;
    }

    /// <summary>A command with its parameters, whose values are a word or quoted; a word of the sentence follows no parameter that takes none.</summary>
    [GeneratedRegex(@"\b(?:Get|Set|New|Import|Export|Remove|Save|Merge|Undo|Measure|Show|Enable|Disable|Add|Convert|ConvertTo|Compare|Invoke|Select|Split|Join|Test)-(?:Peft|Lora|Model|Training|Text|Active|Hub|Chat|Quantization|Perplexity|Adapter)\w*(?:\s+-[A-Z]\w+(?:\s+(?:'[^']*'|[a-z0-9./]+(?=\s*(?:[,.;)]|$|-))|float32|bfloat16|cuda))?)*", RegexOptions.CultureInvariant, 1000)]
    private static partial Regex Named();

    /// <summary>A method that an object of this module hasn't.</summary>
    [GeneratedRegex(@"\[Peft\.[\w.]+\].*'(\w+)'", RegexOptions.CultureInvariant, 1000)]
    private static partial Regex Method();

    /// <summary>A switch that the sentence says to use.</summary>
    [GeneratedRegex(@"(?:with|by|Use|use)\s+(-(?:Force|Resume|AsLora|Unload|GradientCheckpointing|Full|StructureOnly))\b", RegexOptions.CultureInvariant, 1000)]
    private static partial Regex Switch();
}
