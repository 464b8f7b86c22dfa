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

    /// <summary>Whether an answer is good.</summary>
    Label,
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

    /// <summary>All kinds. Where rows fit several for one purpose, the first counts.</summary>
    public static IReadOnlyList<RowKind> All { get; } = [Messages, PromptCompletion, Instruction, Text, Preference, Judged];

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
    public bool TakesTemplate => Needed.Any(s_answers.Contains);

    /// <summary>Makes the example of a row.</summary>
    internal Func<ExampleBuilder, TrainingRow, TrainingExample> Build { get; }

    /// <inheritdoc/>
    public override string ToString() => Name;
}
