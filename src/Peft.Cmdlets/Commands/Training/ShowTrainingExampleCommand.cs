using System.Management.Automation;
using Peft.Adapters.Model;
using Peft.Cmdlets.Arguments;
using Peft.Cmdlets.Completion;
using Peft.Cmdlets.Pipeline;
using Peft.Cmdlets.Session;
using Peft.Tokenization;
using Peft.Training;
using Peft.Training.Data;
using Peft.Training.Objectives;

namespace Peft.Cmdlets.Commands.Training;

/// <summary>Show-TrainingExample: examples as the training sees them, with what of them is learnt.</summary>
[Cmdlet(VerbsCommon.Show, "TrainingExample")]
[OutputType(typeof(TrainingExampleView))]
public sealed class ShowTrainingExampleCommand : PeftCmdlet
{
    /// <summary>The data set, from Import-TrainingDataset; the path of a file, or rows, do as well.</summary>
    [Parameter(Mandatory = true, Position = 0, ValueFromPipeline = true)]
    [DatasetArgument]
    [ArgumentCompleter(typeof(DatasetCompleter))]
    public TrainingDataset Dataset { get; set; } = null!;

    /// <summary>The model whose tokenizer and chat template make the examples. Without it the model that is loaded is taken, where it is the only one.</summary>
    [Parameter(Position = 1)]
    [ModelArgument]
    [ArgumentCompleter(typeof(ModelNameCompleter))]
    public PeftModel? Model { get; set; }

    /// <summary>How many examples to show, from the first on.</summary>
    [Parameter]
    [ValidateRange(1, int.MaxValue)]
    [PSDefaultValue(Value = 3, Help = "3")]
    public int First { get; set; } = 3;

    /// <summary>Which examples to show, counted from 0, in place of the first ones.</summary>
    [Parameter]
    [ValidateRange(0, int.MaxValue)]
    public int[]? Index { get; set; }

    /// <summary>Maximum length of an example, in tokens, where the data set doesn't say; what a training would get as its <c>-MaxLength</c>.</summary>
    [Parameter]
    [Alias("max_length", "max_seq_length")]
    [ValidateRange(2, int.MaxValue)]
    [PSDefaultValue(Value = 1024, Help = "1024")]
    public int MaxLength { get; set; } = 1024;

    /// <inheritdoc/>
    protected override void Process()
    {
        if (Dataset.Columns.Kind == RowKind.Image || Dataset.Columns.Kind == RowKind.ImageClass)
        {
            throw new NotSupportedByPeftException("DatasetKindUnfit", "Examples are shown of texts, and the data set holds images.")
            {
                Target = Dataset,
                RecommendedAction = "Look at the image files; captions stand beside them or in metadata.jsonl, classes are their folders.",
            };
        }

        var model = Model ?? (LoadedModels.All is [var only] ? only : throw new PeftException("ModelMissing", "Examples take their form from a model's tokenizer and chat template.")
        {
            RecommendedAction = "Give the model with -Model.",
        });
        var tokenizer = model.RequiredTokenizer;
        var (kind, labels) = (ObjectiveRegistry.Create(new TrainingOptions { Objective = ObjectiveRegistry.DefaultFor(model.Base) }).ExampleKind, ModelLabels.Of(model.Base));
        foreach (var index in Index ?? [.. Enumerable.Range(0, Math.Min(First, Dataset.Count))])
        {
            if (index >= Dataset.Count)
            {
                WriteError(new PeftException("ExampleNotFound", $"The data set has {Dataset.Count} examples; there is none with index {index}.")
                {
                    Target = index,
                    RecommendedAction = FormattableString.Invariant($"Give indices from 0 to {Dataset.Count - 1}."),
                });
                continue;
            }

            WriteObject(Run(output => TrainingExampleView.Of(index, Dataset.Example(index, tokenizer, MaxLength, kind, labels, output.Cancellation), tokenizer)));
        }
    }
}

/// <summary>An example as the training sees it, for a person to read.</summary>
/// <param name="Index">Its index in the data set, counted from 0.</param>
/// <param name="Place">Where its row stands.</param>
/// <param name="TokenCount">Its tokens.</param>
/// <param name="LearnedCount">Its tokens that carry loss.</param>
/// <param name="Rule">Which tokens carry loss and why.</param>
/// <param name="IsCut">Whether it was cut at the maximum length.</param>
/// <param name="Segments">Its text, split where loss begins and ends.</param>
public sealed record TrainingExampleView(
    int Index, string Place, int TokenCount, int LearnedCount, string Rule, bool IsCut, IReadOnlyList<ExampleSegment> Segments)
{
    private static readonly (ExampleRemarks Remark, string What)[] s_remarks =
    [
        (ExampleRemarks.AnswerTouches, "there is no space between prompt and answer"),
        (ExampleRemarks.AnswerEmpty, "the answer is empty"),
        (ExampleRemarks.IdleTail, "of messages behind the last answer nothing is learnt"),
        (ExampleRemarks.ToolsLeftOut, "the chat template leaves tools out"),
    ];

    /// <summary>What is learnt, as text.</summary>
    public string LearnedText => string.Concat(Segments.Where(static segment => segment.IsLearned).Select(static segment => segment.Text));

    /// <summary>The text with a margin that says of every line whether it is read or learnt; it needs no colour.</summary>
    public string Text => VisibleText.Of(string.Join('\n', Lines(Segments, "learn | ").Concat(Lines(RejectedSegments, "avoid | "))));

    /// <summary>In a pair, the worse answer with its prompt, split in the same way; empty elsewhere.</summary>
    public IReadOnlyList<ExampleSegment> RejectedSegments { get; init; } = Values.Of<ExampleSegment>([]);

    /// <summary>The line above the text.</summary>
    public string Title => FormattableString.Invariant($"Example {Index}: {TokenCount} tokens, {LearnedCount} learnt{(IsCut ? ", cut" : "")}. {char.ToUpperInvariant(Rule[0])}{Rule[1..]}{Remark}.");

    /// <summary>What is noteworthy of it.</summary>
    public ExampleRemarks Remarks { get; init; }

    private string Remark => string.Concat(s_remarks.Where(entry => Remarks.HasFlag(entry.Remark)).Select(static entry => "; " + entry.What));

    /// <inheritdoc/>
    public override string ToString() => $"{Title}\n{Text}";

    /// <summary>Makes the view of an example.</summary>
    internal static TrainingExampleView Of(int index, TrainingExample example, Tokenizer tokenizer) => new(
        index,
        example.Row.Place,
        example.TokenCount,
        example.LearnedCount,
        example.Rule,
        example.IsCut,
        Values.Of(example.Segments(tokenizer)))
    {
        RejectedSegments = Values.Of(example.RejectedSegments(tokenizer)),
        Remarks = example.Remarks,
    };

    /// <summary>The text with colours beside the margin, for a terminal; PowerShell takes the colours out where <c>$PSStyle.OutputRendering</c> says so, and where the output is no terminal.</summary>
    /// <param name="learnt">What begins the colour of what is learnt.</param>
    /// <param name="avoided">What begins that of a worse answer.</param>
    /// <param name="read">What begins that of what is read alone.</param>
    /// <param name="end">What ends a colour.</param>
    public string Coloured(string? learnt, string? avoided, string? read, string? end) => string.Join('\n', Text.Split('\n').Select(line =>
        (line.StartsWith("learn", StringComparison.Ordinal) ? learnt : line.StartsWith("avoid", StringComparison.Ordinal) ? avoided : read) + line + end));

    private static IEnumerable<string> Lines(IReadOnlyList<ExampleSegment> segments, string learnt) =>
        segments.SelectMany(segment => segment.Text.Split('\n').Select(line => (segment.IsLearned ? learnt : " read | ") + line));
}
