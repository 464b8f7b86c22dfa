using System.Collections;
using System.Management.Automation;
using System.Management.Automation.Language;
using Peft.Adapters.Model;
using Peft.Cmdlets.Arguments;
using Peft.Cmdlets.Pipeline;
using Peft.Training.Policy;

namespace Peft.Cmdlets.Commands.Training;

/// <summary>A reward that is a script block of the user's, which runs in their runspace with their functions. It gets the prompt, the answer, and the row of the data set.</summary>
/// <param name="name">Its name.</param>
/// <param name="script">The script block.</param>
/// <param name="output">Where the pipeline's thread is reached.</param>
internal sealed class ScriptReward(string name, ScriptBlock script, WorkOutput output) : IReward
{
    /// <inheritdoc/>
    public string Name => name;

    /// <inheritdoc/>
    public IReadOnlyList<double?> Rate(IReadOnlyList<PolicyCompletion> completions, CancellationToken cancellation)
    {
        var rates = new double?[completions.Count];
        output.Call(_ =>
        {
            for (var i = 0; i < rates.Length; i++)
            {
                cancellation.ThrowIfCancellationRequested();
                rates[i] = Rate(completions[i]);
            }

            return true;
        });
        return rates;
    }

    /// <summary>The rewards that a parameter gives: script blocks, adapters that were trained to score, their folders, or tables of these by name.</summary>
    /// <exception cref="PeftException"><c>RewardInvalid</c>: something else.</exception>
    /// <param name="given">What the parameter was given.</param>
    /// <param name="output">Where the pipeline's thread is reached.</param>
    /// <param name="model">The model that is trained, onto which saved reward adapters are loaded.</param>
    /// <param name="folderOf">Resolves a path; null where it is no folder.</param>
    public static IReadOnlyList<IReward> Read(IEnumerable<object> given, WorkOutput output, PeftModel model, Func<string, string?> folderOf)
    {
        List<(string? Name, object? Value)> all = [];
        foreach (var item in given)
        {
            if (item.Unwrap() is IDictionary table)
            {
                all.AddRange(table.Cast<DictionaryEntry>().Select(static entry => ((string?)entry.Key.ToString(), entry.Value)));
            }
            else
            {
                all.Add((null, item));
            }
        }

        return [.. all.Select((entry, i) => One(entry.Name, entry.Value.Unwrap(), all.Count == 1 ? "reward" : FormattableString.Invariant($"reward{i + 1}"), output, model, folderOf))];
    }

    private static IReward One(string? name, object? value, string otherwise, WorkOutput output, PeftModel model, Func<string, string?> folderOf) => value switch
    {
        ScriptBlock script => new ScriptReward(name ?? otherwise, script, output),
        CommandInfo command => new ScriptReward(name ?? command.Name, ScriptBlock.Create($"param($prompt, $completion, $row) & '{CodeGeneration.EscapeSingleQuotedStringContent(command.Name)}' $prompt $completion"), output),
        PeftAdapter adapter => new RewardAdapter(adapter, name),
        string path when folderOf(path) is { } folder => RewardAdapter.On(model, folder, name),
        _ => throw new PeftException("RewardInvalid", $"'{value}' is no reward.")
        {
            Target = value,
            RecommendedAction = "Give a script block such as { param($prompt, $completion) … }, an adapter that was trained with Invoke-PreferenceTraining -Objective reward or its folder, or a table of these by name.",
        },
    };

    private double? Rate(PolicyCompletion completion)
    {
        System.Collections.ObjectModel.Collection<PSObject> results;
        try
        {
            results = script.InvokeWithContext(null, [new PSVariable("_", completion), new PSVariable("ErrorActionPreference", ActionPreference.Stop)], Arguments(completion));
        }
        catch (RuntimeException error) when (error is not PipelineStoppedException)
        {
            throw new PeftException(error.ErrorRecord?.Exception is PeftException { ErrorId: "PeftModelBusy" } ? "PeftModelBusy" : "RewardFailed", $"The reward '{name}' failed at the answer {completion}: {(error.ErrorRecord?.Exception ?? error).Message}", error)
            {
                Target = completion,
                RecommendedAction = error.ErrorRecord?.Exception is PeftException { RecommendedAction: { } action } ? action : "Mend the script block; the error's target is the answer, with which it can be tried.",
            };
        }

        return results.Select(static result => result.Unwrap()).ToList() switch
        {
            [] or [null] => null,
            [bool holds] => holds ? 1 : 0,
            [var one] when LanguagePrimitives.TryConvertTo<double>(one, System.Globalization.CultureInfo.InvariantCulture, out var number) => number,
            var several => throw new PeftException("RewardInvalid", $"The reward '{name}' gave {(several.Count == 1 ? $"'{several[0]}'" : $"{several.Count} values")} to the answer {completion}; a number is needed.")
            {
                Target = completion,
                RecommendedAction = "Let the script block put out one number, $true or $false, or $null where it has nothing to say; assign other output to $null.",
            },
        };
    }

    /// <summary>As many as the script block takes.</summary>
    private object[] Arguments(PolicyCompletion completion)
    {
        var row = new PSObject();
        foreach (var (column, value) in completion.Prompt.Row)
        {
            row.Properties.Add(new PSNoteProperty(column, value));
        }

        object[] all = [completion.Prompt.Text, completion.Text, row];
        var taken = script.Ast switch
        {
            ScriptBlockAst { ParamBlock: { } block } => block.Parameters.Count,
            FunctionDefinitionAst { Parameters: { } parameters } => parameters.Count,
            FunctionDefinitionAst { Body.ParamBlock: { } block } => block.Parameters.Count,
            _ => all.Length,
        };
        return all[..Math.Min(taken, all.Length)];
    }
}
