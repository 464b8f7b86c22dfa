using Peft.Adapters.Asking;

namespace Peft.Training.Data;

/// <summary>What an example of a data set is to an objective.</summary>
public enum ExampleKind
{
    /// <summary>Tokens, some of which are learnt.</summary>
    Text,

    /// <summary>Two answers to a prompt, the first better than the second.</summary>
    Pair,

    /// <summary>An answer to a prompt, good or bad.</summary>
    Judged,

    /// <summary>A prompt that the model answers itself, several times; the answers are rated.</summary>
    Rated,

    /// <summary>A text that is read, and one that is written of it.</summary>
    SequenceToSequence,

    /// <summary>A text, or two, with a class, several classes or a value.</summary>
    Classified,

    /// <summary>Words with a class each.</summary>
    Tagged,

    /// <summary>A question, and where in a text its answer stands.</summary>
    Span,

    /// <summary>An image with its caption.</summary>
    Image,

    /// <summary>Two texts that mean the same, or nearly, and how nearly.</summary>
    Similar,
}

/// <summary>The part that a column plays in a row.</summary>
public enum ColumnRole
{
    /// <summary>A whole text.</summary>
    Text,

    /// <summary>A conversation.</summary>
    Messages,

    /// <summary>A prompt, a text or messages.</summary>
    Prompt,

    /// <summary>What follows a prompt, a text or messages.</summary>
    Completion,

    /// <summary>An instruction.</summary>
    Instruction,

    /// <summary>What an instruction is about.</summary>
    Input,

    /// <summary>The answer to an instruction.</summary>
    Output,

    /// <summary>The better of two answers, a text or messages.</summary>
    Chosen,

    /// <summary>The worse of two answers, a text or messages.</summary>
    Rejected,

    /// <summary>By how much the better answer is better, a number.</summary>
    Margin,

    /// <summary>Whether an answer is good; of a text its class, by name or number, a list of classes, or a value.</summary>
    Label,

    /// <summary>A second text beside the first.</summary>
    TextPair,

    /// <summary>A list of words.</summary>
    Words,

    /// <summary>A list with a class for each word, by name or number.</summary>
    Tags,

    /// <summary>A question.</summary>
    Question,

    /// <summary>The text that an answer stands in.</summary>
    Context,

    /// <summary>The answer: a text, or an object with the lists <c>text</c> and <c>answer_start</c>; empty where the context has none.</summary>
    Answer,

    /// <summary>Where the answer begins in its context, in characters.</summary>
    AnswerStart,

    /// <summary>Which of several tasks the row is, a number from 0.</summary>
    TaskId,

    /// <summary>The path of an image.</summary>
    Image,

    /// <summary>Whether an image keeps a class as it is while another one is learnt.</summary>
    Prior,

    /// <summary>A text whose meaning is learnt, such as a query.</summary>
    Anchor,

    /// <summary>A text that means the same, such as what answers the query.</summary>
    Positive,

    /// <summary>How much two texts mean the same, a number from -1 to 1.</summary>
    Similarity,

    /// <summary>A text that means something else although it looks alike, or a list of such texts.</summary>
    Negative,
}

/// <summary>What a data set's rows are made of: which parts there are, and how they become an example. A new kind is a line in <see cref="All"/>.</summary>
public sealed class RowKind
{
    private static readonly ColumnRole[] s_answers = [ColumnRole.Completion, ColumnRole.Output, ColumnRole.Chosen];

    private RowKind(string name, ExampleKind examples, IReadOnlyList<ColumnRole> needed, Func<ExampleBuilder, TrainingRow, TrainingExample> build)
    {
        Name = name;
        Examples = examples;
        Needed = needed;
        Build = build;
    }

    /// <summary>A conversation.</summary>
    public static RowKind Messages { get; } = new(nameof(Messages), ExampleKind.Text, [ColumnRole.Messages], static (builder, row) => builder.Conversation(row));

    /// <summary>A prompt and what follows it, each a text or messages.</summary>
    public static RowKind PromptCompletion { get; } = new(
        nameof(PromptCompletion), ExampleKind.Text, [ColumnRole.Prompt, ColumnRole.Completion], static (builder, row) => builder.Answer(row, ColumnRole.Completion));

    /// <summary>An instruction, what it is about, and the answer.</summary>
    public static RowKind Instruction { get; } = new(
        nameof(Instruction), ExampleKind.Text, [ColumnRole.Instruction, ColumnRole.Output], static (builder, row) => builder.Answer(row, ColumnRole.Output))
    {
        Optional = [ColumnRole.Input],
        Template = PromptTemplate.Instruction,
    };

    /// <summary>An image and its caption.</summary>
    public static RowKind Image { get; } = new(
        nameof(Image), ExampleKind.Image, [ColumnRole.Image, ColumnRole.Text], static (_, row) => throw row.Error("image", "an image isn't cut into tokens; it is for a diffusion model."))
    {
        Optional = [ColumnRole.Prior],
    };

    /// <summary>An image and its class.</summary>
    public static RowKind ImageClass { get; } = new(
        nameof(ImageClass), ExampleKind.Classified, [ColumnRole.Image, ColumnRole.Label], static (_, row) => throw row.Error("image", "an image isn't cut into tokens; it is for a model that classifies images."));

    /// <summary>A whole text.</summary>
    public static RowKind Text { get; } = new(nameof(Text), ExampleKind.Text, [ColumnRole.Text], static (builder, row) => builder.Whole(row));

    /// <summary>Two answers, the better one and the worse one, to a prompt; without one, to what both begin with.</summary>
    public static RowKind Preference { get; } = new(
        nameof(Preference), ExampleKind.Pair, [ColumnRole.Chosen, ColumnRole.Rejected], static (builder, row) => builder.Pair(row))
    {
        Optional = [ColumnRole.Prompt, ColumnRole.Margin],
    };

    /// <summary>A prompt, an answer, and whether it is good.</summary>
    public static RowKind Judged { get; } = new(
        nameof(Judged), ExampleKind.Judged, [ColumnRole.Prompt, ColumnRole.Completion, ColumnRole.Label], static (builder, row) => builder.Judged(row));

    /// <summary>A text to read, and the one to write of it.</summary>
    public static RowKind TextToText { get; } = new(
        nameof(TextToText), ExampleKind.SequenceToSequence, [ColumnRole.Prompt, ColumnRole.Completion], static (builder, row) => builder.TextToText(row, ColumnRole.Completion));

    /// <summary>The same of an instruction and its answer.</summary>
    public static RowKind InstructionToText { get; } = new(
        nameof(InstructionToText), ExampleKind.SequenceToSequence, [ColumnRole.Instruction, ColumnRole.Output], static (builder, row) => builder.TextToText(row, ColumnRole.Output))
    {
        Optional = [ColumnRole.Input],
        Template = PromptTemplate.Instruction,
    };

    /// <summary>A text, or two, and a class, several classes or a value.</summary>
    public static RowKind Classified { get; } = new(
        nameof(Classified), ExampleKind.Classified, [ColumnRole.Text, ColumnRole.Label], static (builder, row) => builder.Labelled.Classified(row))
    {
        Optional = [ColumnRole.TextPair],
    };

    /// <summary>Words and a class for each.</summary>
    public static RowKind Tagged { get; } = new(nameof(Tagged), ExampleKind.Tagged, [ColumnRole.Words, ColumnRole.Tags], static (builder, row) => builder.Labelled.Tagged(row));

    /// <summary>A question, a text, and the part of it that answers.</summary>
    public static RowKind Span { get; } = new(
        nameof(Span), ExampleKind.Span, [ColumnRole.Question, ColumnRole.Context, ColumnRole.Answer], static (builder, row) => builder.Labelled.Span(row))
    {
        Optional = [ColumnRole.AnswerStart],
    };

    /// <summary>Two texts that mean the same, or so much of the same.</summary>
    public static RowKind Similar { get; } = new(nameof(Similar), ExampleKind.Similar, [ColumnRole.Anchor, ColumnRole.Positive], static (builder, row) => builder.Similar(row))
    {
        Optional = [ColumnRole.Similarity, ColumnRole.Negative],
    };

    /// <summary>A prompt that the model answers itself.</summary>
    public static RowKind Prompt { get; } = new(nameof(Prompt), ExampleKind.Rated, [ColumnRole.Prompt], static (builder, row) => builder.PromptAlone(row));

    /// <summary>All kinds. Where rows fit several for one purpose, the first counts.</summary>
    public static IReadOnlyList<RowKind> All { get; } = [Messages, PromptCompletion, Instruction, Image, ImageClass, Text, Preference, Judged, TextToText, InstructionToText, Classified, Tagged, Span, Similar, Prompt];

    /// <summary>The name.</summary>
    public string Name { get; }

    /// <summary>What an example made of such a row is.</summary>
    public ExampleKind Examples { get; }

    /// <summary>The parts that must be there.</summary>
    public IReadOnlyList<ColumnRole> Needed { get; }

    /// <summary>The parts that may be there.</summary>
    public IReadOnlyList<ColumnRole> Optional { get; private init; } = [];

    /// <summary>What makes the prompt where the user gives nothing; null to take the prompt as it is.</summary>
    public PromptTemplate? Template { get; private init; }

    /// <summary>Whether a template has a prompt to make.</summary>
    public bool TakesTemplate => Needed is [ColumnRole.Prompt] || Needed.Any(s_answers.Contains);

    /// <summary>Makes the example of a row.</summary>
    internal Func<ExampleBuilder, TrainingRow, TrainingExample> Build { get; }

    /// <inheritdoc/>
    public override string ToString() => Name;

    /// <summary>What to do where rows of this kind are given for examples that they don't hold.</summary>
    /// <param name="examples">The examples that are asked for.</param>
    internal string AdviceFor(ExampleKind examples)
    {
        var needed = string.Join(", or ", All.Where(kind => kind.Examples == examples).Select(static kind => string.Join(", ", kind.Needed).ToLowerInvariant()));
        return (Examples, examples) switch
        {
            (ExampleKind.Pair or ExampleKind.Judged, ExampleKind.Text) => $"Invoke-PreferenceTraining learns from such rows; or give rows with {needed}.",
            (_, ExampleKind.Pair) => $"Give rows with {needed} (two answers to a prompt), or with prompt, completion, label (one answer that is good or bad), which the objective kto learns from.",
            _ => $"Give rows with {needed}; the model's head, and in training -Objective, say which rows are taken.",
        };
    }
}
