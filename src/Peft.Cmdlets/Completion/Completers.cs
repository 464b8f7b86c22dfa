using System.Collections;
using System.Management.Automation;
using System.Management.Automation.Language;
using Peft.Adapters;
using Peft.Adapters.Model;
using Peft.Cmdlets.Arguments;
using Peft.Cmdlets.Commands.Model;
using Peft.Cmdlets.Session;

namespace Peft.Cmdlets.Completion;

/// <summary>Completes an argument from a list of texts: those that begin with or match what is typed, quoted where they need it.</summary>
public abstract class TextCompleter : IArgumentCompleter
{
    /// <inheritdoc/>
    public IEnumerable<CompletionResult> CompleteArgument(
        string commandName, string parameterName, string wordToComplete, CommandAst commandAst, IDictionary fakeBoundParameters)
    {
        var typed = wordToComplete.Trim('\'', '"');
        return Texts(commandAst, fakeBoundParameters)
            .Distinct(StringComparer.Ordinal)
            .Where(text => LoadedModels.Matches(typed + "*", text))
            .Select(static text => new CompletionResult(Quote(text), text, CompletionResultType.ParameterValue, text));
    }

    /// <summary>What may be offered.</summary>
    protected abstract IEnumerable<string> Texts(CommandAst command, IDictionary boundParameters);

    /// <summary>The models that the command would act on, as far as the command line tells; all that are loaded where it doesn't.</summary>
    private protected static IReadOnlyList<PeftModel> Models(CommandAst command, IDictionary boundParameters)
    {
        var value = boundParameters["Model"] ?? boundParameters["Adapter"] ?? ValueOfPipelineStart(command);
        return value.Unwrap() switch
        {
            PeftModel model => [model],
            PeftAdapter adapter => [adapter.Model],
            string name when LoadedModels.Named(name).ToList() is { Count: > 0 } named => named,
            _ => LoadedModels.All,
        };
    }

    /// <summary>The value of <c>$model</c> in <c>$model | Set-ActiveAdapter …</c>; running anything else to find out could have effects.</summary>
    private static object? ValueOfPipelineStart(CommandAst command)
    {
        if (command.Parent is not PipelineAst { PipelineElements: [CommandExpressionAst { Expression: VariableExpressionAst variable }, ..] })
        {
            return null;
        }

        using var shell = PowerShell.Create(RunspaceMode.CurrentRunspace);
        return shell.AddScript(variable.Extent.Text).Invoke().FirstOrDefault()?.BaseObject;
    }

    private static string Quote(string text) => text.All(static letter => char.IsAsciiLetterOrDigit(letter) || letter is '.' or '_' or '-' or '/' or ':' or '\\')
        ? text
        : $"'{CodeGeneration.EscapeSingleQuotedStringContent(text)}'";
}

/// <summary>Names of loaded models.</summary>
public sealed class ModelNameCompleter : TextCompleter
{
    /// <inheritdoc/>
    protected override IEnumerable<string> Texts(CommandAst command, IDictionary boundParameters) => LoadedModels.All.Select(static model => model.Name);
}

/// <summary>Names of the adapters of the model at hand.</summary>
public class AdapterNameCompleter : TextCompleter
{
    /// <inheritdoc/>
    protected override IEnumerable<string> Texts(CommandAst command, IDictionary boundParameters) =>
        Models(command, boundParameters).SelectMany(static model => model.Adapters).Select(static adapter => adapter.Name);
}

/// <summary>Names of the adapters of the model at hand, and <c>base</c> for the model without any.</summary>
public sealed class AdapterOrBaseCompleter : AdapterNameCompleter
{
    /// <inheritdoc/>
    protected override IEnumerable<string> Texts(CommandAst command, IDictionary boundParameters) => base.Texts(command, boundParameters).Append("base");
}

/// <summary>What <c>-TargetModule</c> takes: <c>all-linear</c> and the names of linear layers of the models that are loaded.</summary>
public sealed class TargetModuleCompleter : TextCompleter
{
    /// <inheritdoc/>
    protected override IEnumerable<string> Texts(CommandAst command, IDictionary boundParameters) =>
        Models(command, boundParameters)
            .SelectMany(static model => model.Base.Descendants())
            .Where(static module => module.Children.Count == 0 && module.Parameters.Any(static parameter => parameter.Shape.Count >= 2))
            .Select(static module => module.Name)
            .Prepend("all-linear");
}

/// <summary>Names of adapter methods.</summary>
public sealed class AdapterMethodCompleter : TextCompleter
{
    /// <inheritdoc/>
    protected override IEnumerable<string> Texts(CommandAst command, IDictionary boundParameters) => Adapters.Methods.AdapterMethods.Names;
}

/// <summary>Full paths of the modules of the model at hand.</summary>
public sealed class ModulePathCompleter : TextCompleter
{
    /// <inheritdoc/>
    protected override IEnumerable<string> Texts(CommandAst command, IDictionary boundParameters) =>
        Models(command, boundParameters).SelectMany(static model => model.Base.Descendants()).Select(static module => module.Path).Where(static path => path.Length > 0);
}

/// <summary>Kinds of modules of the model at hand, such as <c>Linear</c>.</summary>
public sealed class ModuleKindCompleter : TextCompleter
{
    /// <inheritdoc/>
    protected override IEnumerable<string> Texts(CommandAst command, IDictionary boundParameters) =>
        Models(command, boundParameters).SelectMany(static model => model.Base.Descendants()).Select(static module => module.ClassName).Order(StringComparer.Ordinal);
}

/// <summary>Devices that models can run on.</summary>
public sealed class DeviceCompleter : TextCompleter
{
    /// <inheritdoc/>
    protected override IEnumerable<string> Texts(CommandAst command, IDictionary boundParameters) =>
        DeviceInformation.List().Select(static device => device.Name).Prepend("auto");
}

/// <summary>Models in the hub's cache.</summary>
public sealed class HubNameCompleter : TextCompleter
{
    /// <inheritdoc/>
    protected override IEnumerable<string> Texts(CommandAst command, IDictionary boundParameters) => Hub.HubCache.Names();
}

/// <summary>Names of the chat templates of the model at hand.</summary>
public sealed class ChatTemplateCompleter : TextCompleter
{
    /// <inheritdoc/>
    protected override IEnumerable<string> Texts(CommandAst command, IDictionary boundParameters) =>
        Models(command, boundParameters).Select(static model => model.Tokenizer).OfType<Tokenization.Tokenizer>().SelectMany(static tokenizer => tokenizer.ChatTemplates.Names);
}

/// <summary>Names of encodings that data sets come in.</summary>
public sealed class EncodingCompleter : TextCompleter
{
    /// <inheritdoc/>
    protected override IEnumerable<string> Texts(CommandAst command, IDictionary boundParameters) =>
        ["utf-8", "utf-16", "utf-16BE", "utf-32", "shift_jis", "euc-jp", "gb18030", "big5", "euc-kr", "windows-1252", "iso-8859-1"];
}

/// <summary>Prompt templates to start from.</summary>
public sealed class PromptTemplateCompleter : TextCompleter
{
    /// <inheritdoc/>
    protected override IEnumerable<string> Texts(CommandAst command, IDictionary boundParameters) =>
        ["{prompt}", "Question: {prompt}\nAnswer:", Training.Data.PromptTemplate.Instruction.Text];
}

/// <summary>Names of the learning rate's schedules.</summary>
public sealed class ScheduleCompleter : TextCompleter
{
    /// <inheritdoc/>
    protected override IEnumerable<string> Texts(CommandAst command, IDictionary boundParameters) => Training.Schedules.ScheduleRegistry.Names;
}

/// <summary>Names of the optimisers.</summary>
public sealed class OptimizerCompleter : TextCompleter
{
    /// <inheritdoc/>
    protected override IEnumerable<string> Texts(CommandAst command, IDictionary boundParameters) => Training.Optimizers.OptimizerRegistry.Names;
}

/// <summary>Names of the losses that a preference objective knows: the chosen objective's, or all.</summary>
public sealed class PreferenceLossCompleter : TextCompleter
{
    /// <inheritdoc/>
    protected override IEnumerable<string> Texts(CommandAst command, IDictionary boundParameters) =>
        Training.Objectives.ObjectiveRegistry.Losses(boundParameters["Objective"]?.ToString()?.ToLowerInvariant());
}
