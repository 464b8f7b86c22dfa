using System.Management.Automation;
using Peft.Adapters.Model;
using Peft.Cmdlets.Arguments;
using Peft.Cmdlets.Completion;
using Peft.Cmdlets.Pipeline;
using Peft.Models;
using Peft.Models.Heads;
using Peft.Training.Data;
using Peft.Training.Evaluation;

namespace Peft.Cmdlets.Commands.Text;

/// <summary>Measure-TextAnswer: how many questions of a data set a model answers as the data set does.</summary>
[Cmdlet(VerbsDiagnostic.Measure, "TextAnswer", DefaultParameterSetName = ModelSet)]
[OutputType(typeof(AnswerMeasurement), typeof(ChoiceMeasurement), typeof(ClassificationMeasurement), typeof(TaggingMeasurement), typeof(SpanMeasurement))]
public sealed class MeasureTextAnswerCommand : GenerationCommand
{
    /// <summary>The data set whose questions are asked, from Import-TrainingDataset; the path of a file, or rows, do as well.</summary>
    [Parameter(Mandatory = true, Position = 0)]
    [DatasetArgument]
    [ArgumentCompleter(typeof(DatasetCompleter))]
    public TrainingDataset Dataset { get; set; } = null!;

    /// <summary>A test of one's own: it gets the answer as <c>$_</c> (with Prompt, Expected and Answer) and says whether it passes.</summary>
    [Parameter(Position = 1)]
    public ScriptBlock? Test { get; set; }

    /// <summary>Answers to choose from: nothing is generated, but the likeliest of them is the model's answer. The data set's answer is one of them, or the number (from 0) or letter of one.</summary>
    [Parameter]
    [ValidateNotNullOrEmpty]
    public string[]? Choice { get; set; }

    /// <summary>The column with each row's list of answers to choose from, in place of <c>-Choice</c>.</summary>
    [Parameter]
    [ValidateNotNullOrEmpty]
    [ArgumentCompleter(typeof(ColumnCompleter))]
    public string? ChoiceColumn { get; set; }

    /// <summary>Adapters that act for this command, in order, whatever is active on the model; wildcards are allowed, and <c>base</c> for none.</summary>
    [Parameter(ParameterSetName = ModelSet)]
    [SupportsWildcards]
    [ArgumentCompleter(typeof(AdapterOrBaseCompleter))]
    [ValidateNotNullOrEmpty]
    [Alias("adapter_name")]
    public string[]? AdapterName { get; set; }

    /// <summary>Questions that are asked at once.</summary>
    [Parameter]
    [ValidateRange(1, int.MaxValue)]
    [PSDefaultValue(Value = 8, Help = "8")]
    public int BatchSize { get; set; } = 8;

    /// <inheritdoc/>
    protected override void Process()
    {
        var (model, selection) = (TheModel, SelectionOf(AdapterName));
        var hasOtherHead = model.Base is SequenceClassificationModel or TokenClassificationModel or QuestionAnsweringModel;
        if (Choice is not null || ChoiceColumn is not null || hasOtherHead)
        {
            WarnOfUnused(hasOtherHead ? [nameof(Test), nameof(Choice), nameof(ChoiceColumn)] : [nameof(Test)], hasOtherHead ? $"'{model.Name}' is measured by what its head is for" : "the likeliest of the choices is taken");
            WriteObject(Run(output => Rate(model, selection, output)));
            return;
        }

        var options = ReadOptions();
        var measured = Run(output =>
        {
            var progress = new ProgressLine(output, "Measuring answers", plainLines: true);
            var length = Given(nameof(MaxNewTokens)) ? options.MaxNewTokens : AnswerMeasurement.LengthFor(Dataset.Questions(model.RequiredTokenizer, output.Cancellation), model.RequiredTokenizer);
            var result = AnswerMeasurement.Measure(
                model,
                Dataset,
                options with { MaxNewTokens = length },
                selection,
                BatchSize,
                done => progress.Show(done, Dataset.Count, FormattableString.Invariant($"{done} of {Dataset.Count} questions")),
                output.Cancellation);
            progress.Complete();
            return result;
        });
        WriteObject(Test is null ? measured : new AnswerMeasurement([.. measured.Answers.Select(answer => answer with { IsPassed = Passes(answer) })]));
    }

    /// <summary>Says which of the parameters that were given count for nothing.</summary>
    private void WarnOfUnused(string[] names, string because)
    {
        string[] given = [.. names.Where(Given).Select(static name => "-" + name)];
        if (given.Length > 0)
        {
            WriteWarning($"{string.Join(" and ", given)} {(given.Length == 1 ? "counts" : "count")} for nothing here: {because}.");
        }
    }

    /// <summary>Without generating: the likeliest of several answers, or what a head gives.</summary>
    private object Rate(PeftModel model, AdapterSelection? selection, WorkOutput output)
    {
        var progress = new ProgressLine(output, "Measuring answers", plainLines: true);
        Action<int> onAnswered = done => progress.Show(done, Dataset.Count, FormattableString.Invariant($"{done} of {Dataset.Count} questions"));
        object measured = model.Base switch
        {
            SequenceClassificationModel => ClassificationMeasurement.Measure(model, Dataset, selection, BatchSize, onAnswered, output.Cancellation),
            TokenClassificationModel => TaggingMeasurement.Measure(model, Dataset, selection, BatchSize, onAnswered, output.Cancellation),
            QuestionAnsweringModel => SpanMeasurement.Measure(model, Dataset, selection, BatchSize, onAnswered, output.Cancellation),
            _ => ChoiceMeasurement.Measure(model, Dataset, ChoicesOf, selection, BatchSize, onAnswered, output.Cancellation),
        };
        progress.Complete();
        return measured;
    }

    private IReadOnlyList<string> ChoicesOf(int row) => ChoiceColumn is null
        ? Choice!
        : [.. Dataset.Rows[row].List(ChoiceColumn).Select(static choice => Convert.ToString(choice, System.Globalization.CultureInfo.InvariantCulture) ?? "")];

    private bool Passes(TextAnswer answer) =>
        LanguagePrimitives.IsTrue(Test!.InvokeWithContext(null, [new PSVariable("_", answer)]).LastOrDefault());
}
