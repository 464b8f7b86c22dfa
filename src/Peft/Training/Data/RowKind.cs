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

/// <summary>What a data set's rows are made of.</summary>
public enum RowKind
{
    /// <summary>A whole text.</summary>
    Text,

    /// <summary>A prompt and what follows it, each a text or messages.</summary>
    PromptCompletion,

    /// <summary>An instruction, what it is about, and the answer.</summary>
    Instruction,

    /// <summary>A conversation.</summary>
    Messages,
}

/// <summary>Which columns of a data set play which part.</summary>
/// <param name="Kind">What the rows are made of.</param>
/// <param name="Text">The text, or the conversation.</param>
/// <param name="Prompt">The prompt or instruction, where there is one.</param>
/// <param name="Input">What an instruction is about.</param>
/// <param name="Answer">The completion or output.</param>
public sealed record DatasetColumns(RowKind Kind, string? Text = null, string? Prompt = null, string? Input = null, string? Answer = null)
{
    /// <summary>Finds the parts by the columns' usual names, or by those the user gave.</summary>
    /// <param name="columns">The columns there are.</param>
    /// <param name="options">The user's names.</param>
    /// <param name="origin">Where the rows come from, for messages.</param>
    /// <returns>The parts.</returns>
    /// <exception cref="PeftException"><c>DatasetColumnMissing</c> or <c>DatasetColumnsUnknown</c>.</exception>
    internal static DatasetColumns Find(IReadOnlyCollection<string> columns, DatasetOptions options, string origin)
    {
        string?[] given = [options.TextColumn, options.PromptColumn, options.CompletionColumn, options.InstructionColumn, options.InputColumn, options.OutputColumn, options.MessagesColumn];
        string? absent = given.FirstOrDefault(name => name is not null && !columns.Contains(name));
        if (absent is not null)
        {
            throw new PeftException("DatasetColumnMissing", $"'{origin}' has no column '{absent}'. Its columns: {string.Join(", ", columns)}.")
            {
                Target = absent,
                RecommendedAction = "Name one of the columns there are.",
            };
        }

        string? Column(string? chosen, string usual) => chosen ?? (columns.Contains(usual) ? usual : null);
        string? messages = Column(options.MessagesColumn, "messages") ?? Column(null, "conversations");
        string? prompt = Column(options.PromptColumn, "prompt"), completion = Column(options.CompletionColumn, "completion");
        string? instruction = Column(options.InstructionColumn, "instruction"), output = Column(options.OutputColumn, "output");
        string? text = Column(options.TextColumn, "text");
        DatasetColumns?[] candidates =
        [
            messages is null ? null : new DatasetColumns(RowKind.Messages, Text: messages),
            prompt is null || completion is null ? null : new DatasetColumns(RowKind.PromptCompletion, Prompt: prompt, Answer: completion),
            instruction is null || output is null ? null : new DatasetColumns(RowKind.Instruction, Prompt: instruction, Input: Column(options.InputColumn, "input"), Answer: output),
            text is null ? null : new DatasetColumns(RowKind.Text, Text: text),
        ];

        // What the user named goes before what merely has a usual name.
        DatasetColumns? chosenByUser = options switch
        {
            { MessagesColumn: not null } => candidates[0],
            { PromptColumn: not null } or { CompletionColumn: not null } => candidates[1],
            { InstructionColumn: not null } or { OutputColumn: not null } => candidates[2],
            { TextColumn: not null } => candidates[3],
            _ => candidates.FirstOrDefault(candidate => candidate is not null),
        };
        return chosenByUser ?? throw new PeftException("DatasetColumnsUnknown", $"The columns of '{origin}' fit no kind of example: {string.Join(", ", columns)}.")
        {
            Target = origin,
            RecommendedAction = "Name them text; prompt and completion; instruction, input and output; or messages. Or say which column is which.",
        };
    }
}
