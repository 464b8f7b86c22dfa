using System.Collections;
using System.Globalization;
using System.Management.Automation;
using System.Management.Automation.Language;
using Peft.Adapters;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Cmdlets.Arguments;
using Peft.Cmdlets.Commands.Model;
using Peft.Cmdlets.Session;
using Peft.Models.Placement;

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
            .Select(text => new CompletionResult(Quote(text), text, CompletionResultType.ParameterValue, Describe(text)));
    }

    /// <summary>What is shown about a text that is offered; by default the text.</summary>
    protected virtual string Describe(string text) => text;

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
    private protected static object? ValueOfPipelineStart(CommandAst command)
    {
        if (command.Parent is not PipelineAst { PipelineElements: [CommandExpressionAst { Expression: VariableExpressionAst variable }, ..] })
        {
            return null;
        }

        using var shell = PowerShell.Create(RunspaceMode.CurrentRunspace);
        return shell.AddScript(variable.Extent.Text).Invoke().FirstOrDefault()?.BaseObject;
    }

    private static string Quote(string text) => text.StartsWith('$') || text.All(static letter => char.IsAsciiLetterOrDigit(letter) || letter is '.' or '_' or '-' or '/' or ':' or '\\')
        ? text
        : $"'{CodeGeneration.EscapeSingleQuotedStringContent(text)}'";
}

/// <summary>Variables of the session that hold a value of a kind, as <c>$name</c>.</summary>
/// <typeparam name="T">The kind.</typeparam>
public abstract class VariableCompleter<T> : TextCompleter
{
    /// <inheritdoc/>
    protected override IEnumerable<string> Texts(CommandAst command, IDictionary boundParameters)
    {
        using var shell = PowerShell.Create(RunspaceMode.CurrentRunspace);
        return [.. shell.AddCommand("Get-Variable").Invoke<PSVariable>().Where(static variable => variable.Value.Unwrap() is T).Select(static variable => "$" + variable.Name)];
    }
}

/// <summary>Variables that hold an adapter's configuration.</summary>
public sealed class ConfigCompleter : VariableCompleter<AdapterConfig>;

/// <summary>Variables that hold a data set.</summary>
public sealed class DatasetCompleter : VariableCompleter<Training.Data.TrainingDataset>;

/// <summary>Names of the ways in which LoRA's factors start.</summary>
public sealed class InitialisationCompleter : TextCompleter
{
    /// <inheritdoc/>
    protected override IEnumerable<string> Texts(CommandAst command, IDictionary boundParameters) => Adapters.Methods.Lora.LoraConfig.Initialisations;
}

/// <summary>Names of noise schedulers.</summary>
public sealed class SchedulerCompleter : TextCompleter
{
    /// <inheritdoc/>
    protected override IEnumerable<string> Texts(CommandAst command, IDictionary boundParameters) => Peft.Diffusion.Schedulers.SchedulerRegistry.Names;
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
public sealed class TargetModuleCompleter : ModuleNameCompleter
{
    /// <inheritdoc/>
    protected override IEnumerable<string> Texts(CommandAst command, IDictionary boundParameters) => base.Texts(command, boundParameters).Prepend(PartNames.Mlp).Prepend(PartNames.Attention).Prepend("all-linear");

    /// <inheritdoc/>
    protected override string Describe(string text) => text switch
    {
        "all-linear" => "every linear layer but the output layer",
        PartNames.Attention => "the linear layers of attention, or of what stands in its place",
        PartNames.Mlp => "the other linear layers of the blocks",
        _ => base.Describe(text),
    };
}

/// <summary>Names of modules with a matrix of weights of the models that are loaded.</summary>
public class ModuleNameCompleter : TextCompleter
{
    /// <inheritdoc/>
    protected override IEnumerable<string> Texts(CommandAst command, IDictionary boundParameters) =>
        Matrices(command, boundParameters).Select(static module => module.Name);

    /// <inheritdoc/>
    protected override string Describe(string text) =>
        LoadedModels.All.SelectMany(static model => model.Base.Descendants()).Where(module => module.Name == text).ToList() is [var first, ..] all
            ? $"{all.Count} x {first.ClassName}" : text;

    private protected static IEnumerable<Models.Module> Matrices(CommandAst command, IDictionary boundParameters) =>
        Models(command, boundParameters)
            .SelectMany(static model => model.Base.Descendants())
            .Where(static module => module.Children.Count == 0 && module.Parameters.Any(static parameter => parameter.Shape.Count >= 2));
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
        ["{prompt}", "Question: {prompt}\nAnswer:", Adapters.Asking.PromptTemplate.Instruction.Text];
}

/// <summary>Names of the learning rate's schedules.</summary>
public sealed class ScheduleCompleter : TextCompleter
{
    /// <inheritdoc/>
    protected override IEnumerable<string> Texts(CommandAst command, IDictionary boundParameters) => Training.Schedules.ScheduleRegistry.Names;

    /// <inheritdoc/>
    protected override string Describe(string text) => Training.Schedules.ScheduleRegistry.Describe(text);
}

/// <summary>Names of the optimisers.</summary>
public sealed class OptimizerCompleter : TextCompleter
{
    /// <inheritdoc/>
    protected override IEnumerable<string> Texts(CommandAst command, IDictionary boundParameters) => Training.Optimizers.OptimizerRegistry.Names;

    /// <inheritdoc/>
    protected override string Describe(string text) => Training.Optimizers.OptimizerRegistry.Describe(text);
}

/// <summary>Names of the losses that a preference objective knows: the chosen objective's, or all.</summary>
public sealed class PreferenceLossCompleter : TextCompleter
{
    /// <inheritdoc/>
    protected override IEnumerable<string> Texts(CommandAst command, IDictionary boundParameters) =>
        Training.Objectives.ObjectiveRegistry.Losses(boundParameters["Objective"]?.ToString()?.ToLowerInvariant());
}

/// <summary>Names of the losses that learn from a model's own answers.</summary>
public sealed class PolicyLossCompleter : TextCompleter
{
    /// <inheritdoc/>
    protected override IEnumerable<string> Texts(CommandAst command, IDictionary boundParameters) => Training.Objectives.ObjectiveRegistry.Losses("grpo");
}

/// <summary>Variables that hold an adapter.</summary>
public sealed class AdapterCompleter : VariableCompleter<PeftAdapter>;

/// <summary>Columns of the data set that the command is given, of the file that it reads, or that the pipeline before it does: the names in its first row.</summary>
public sealed class ColumnCompleter : TextCompleter
{
    /// <inheritdoc/>
    protected override IEnumerable<string> Texts(CommandAst command, IDictionary boundParameters)
    {
        ArgumentNullException.ThrowIfNull(command);
        if ((boundParameters["Dataset"] ?? ValueOfPipelineStart(command)).Unwrap() is Training.Data.TrainingDataset dataset)
        {
            return dataset.ColumnNames;
        }

        using var shell = PowerShell.Create(RunspaceMode.CurrentRunspace);
        var given = new[] { boundParameters["Path"], boundParameters["LiteralPath"] }.OfType<object>().Select(static path => path.ToString()!);
        var written = (command.Parent as PipelineAst)?.PipelineElements.TakeWhile(element => element != command)
            .SelectMany(static element => element.FindAll(static node => node is StringConstantExpressionAst, searchNestedScriptBlocks: false)).Select(static node => ((StringConstantExpressionAst)node).Value) ?? [];
        foreach (var path in given.Concat(written))
        {
            shell.Commands.Clear();
            foreach (var file in shell.AddCommand("Convert-Path").AddParameter("Path", path).AddParameter("ErrorAction", ActionPreference.Ignore).Invoke<string>().Where(File.Exists))
            {
                var columns = Training.Data.TrainingDataset.ColumnsOf(file, boundParameters["Delimiter"]?.ToString() is [var delimiter] ? delimiter : null);
                if (columns.Count > 0)
                {
                    return columns;
                }
            }
        }

        return [];
    }
}

/// <summary>Sizes of a file of weights.</summary>
public sealed class ShardSizeCompleter : TextCompleter
{
    /// <inheritdoc/>
    protected override IEnumerable<string> Texts(CommandAst command, IDictionary boundParameters) => ["500MB", "1GB", "2GB", "5GB", "10GB"];
}

/// <summary>Regular expressions for modules' paths to start from.</summary>
public sealed class ModulePatternCompleter : ModuleNameCompleter
{
    /// <inheritdoc/>
    protected override IEnumerable<string> Texts(CommandAst command, IDictionary boundParameters) =>
        base.Texts(command, boundParameters).Select(static name => $@".*\.{name}").DefaultIfEmpty(@".*\.(q_proj|v_proj)");
}

/// <summary>Types that products with quantised weights are formed in.</summary>
public sealed class ComputeTypeCompleter : TextCompleter
{
    /// <inheritdoc/>
    protected override IEnumerable<string> Texts(CommandAst command, IDictionary boundParameters) => ["float32", "bfloat16", "float16"];
}

/// <summary>Sizes of the blocks that four-bit weights are quantised by.</summary>
public sealed class BlockSizeCompleter : TextCompleter
{
    /// <inheritdoc/>
    protected override IEnumerable<string> Texts(CommandAst command, IDictionary boundParameters) => Quantization.FourBitBlocks.Sizes.Select(static size => size.ToString(CultureInfo.InvariantCulture));
}

/// <summary>Types that bitsandbytes keeps packed weights in.</summary>
public sealed class StorageTypeCompleter : TextCompleter
{
    /// <inheritdoc/>
    protected override IEnumerable<string> Texts(CommandAst command, IDictionary boundParameters) => ["uint8", "float16", "bfloat16", "float32"];
}

/// <summary>Where a whole model may go: what places it by memory, devices, and the disk.</summary>
public sealed class DeviceMapCompleter : TextCompleter
{
    /// <inheritdoc/>
    protected override IEnumerable<string> Texts(CommandAst command, IDictionary boundParameters) =>
        ["auto", .. DeviceInformation.List().Select(static device => device.Name), DeviceMapRequest.Disk];
}

/// <summary>Usual parts of a data set.</summary>
public sealed class DatasetPartCompleter : TextCompleter
{
    /// <inheritdoc/>
    protected override IEnumerable<string> Texts(CommandAst command, IDictionary boundParameters) => ["train", "validation", "test"];
}

/// <summary>Figures that an evaluation measures, by their names in the log: those of the command's objectives.</summary>
public sealed class MetricCompleter : TextCompleter
{
    /// <inheritdoc/>
    protected override IEnumerable<string> Texts(CommandAst command, IDictionary boundParameters)
    {
        ArgumentNullException.ThrowIfNull(command);
        return (command.GetCommandName() ?? string.Empty).ToUpperInvariant() switch
        {
            "INVOKE-PREFERENCETRAINING" => ["loss", "accuracy", "rewards/accuracies", "rewards/margins", "rewards/chosen", "rewards/rejected"],
            "INVOKE-POLICYTRAINING" or "INVOKE-GRPOTRAINING" => ["loss", "entropy", "kl"],
            _ => ["loss", "accuracy", "exact_match", "mean_absolute_error"],
        };
    }
}

/// <summary>Names of the lists of layers of the models that are loaded, such as <c>layers</c> or <c>h</c>.</summary>
public sealed class LayerListCompleter : TextCompleter
{
    /// <inheritdoc/>
    protected override IEnumerable<string> Texts(CommandAst command, IDictionary boundParameters) =>
        Models(command, boundParameters).SelectMany(static model => model.Base.Descendants()).Where(static module => module.Name == "0" && module.Parent is { Name.Length: > 0 }).Select(static module => module.Parent!.Name);
}

/// <summary>Names of the parameters of the models that are loaded that aren't a linear layer's own weight, such as those of fused experts.</summary>
public sealed class ParameterNameCompleter : TextCompleter
{
    /// <inheritdoc/>
    protected override IEnumerable<string> Texts(CommandAst command, IDictionary boundParameters) =>
        Models(command, boundParameters).SelectMany(static model => model.Base.NamedParameters()).Where(static named => named.Parameter.Shape.Count >= 2)
            .OrderByDescending(static named => named.Parameter.Shape.Count).Select(static named => $"{named.Module.Name}.{named.Path[(named.Path.LastIndexOf('.') + 1)..]}".TrimStart('.'));
}

/// <summary>Names of the objectives.</summary>
public sealed class ObjectiveCompleter : TextCompleter
{
    /// <inheritdoc/>
    protected override IEnumerable<string> Texts(CommandAst command, IDictionary boundParameters) => Training.Objectives.ObjectiveRegistry.Names;
}
