namespace Peft.Training.Data;

/// <summary>Which columns of a data set play which part.</summary>
/// <param name="Kind">What the rows are made of.</param>
/// <param name="Names">The columns by the part they play.</param>
public sealed record DatasetColumns(RowKind Kind, IReadOnlyDictionary<ColumnRole, string> Names)
{
    /// <summary>The columns by the part they play.</summary>
    public IReadOnlyDictionary<ColumnRole, string> Names { get; } = new RoleNames(Names);

    /// <summary>The column that plays a part, or null.</summary>
    public string? this[ColumnRole role] => Names.GetValueOrDefault(role);

    /// <summary>The column of the prompt or instruction, or null.</summary>
    public string? Prompt => this[ColumnRole.Prompt] ?? this[ColumnRole.Instruction];

    /// <inheritdoc/>
    public override string ToString() => $"{Kind}: {string.Join(", ", Names.Select(static entry => $"{entry.Key} = {entry.Value}"))}";

    /// <summary>The usual names of the columns.</summary>
    private static IEnumerable<string> UsualNames(ColumnRole role, RowKind kind) => role switch
    {
        ColumnRole.Text when kind == RowKind.Classified => ["text", "sentence", "sentence1", "premise", "question1"],
        ColumnRole.TextPair => ["text_pair", "sentence2", "hypothesis", "question2"],
        ColumnRole.Messages => ["messages", "conversations"],
        ColumnRole.Label => ["label", "labels"],
        ColumnRole.Words => ["words", "tokens"],
        ColumnRole.Tags => ["tags", "ner_tags", "labels"],
        ColumnRole.Answer => ["answers", "answer"],
        ColumnRole.AnswerStart => ["answer_start"],
        ColumnRole.TaskId => ["task_id", "task_ids"],
        ColumnRole.Image => ["image"],
        ColumnRole.Prior => ["is_prior"],
        ColumnRole.Output => ["output", "response"],
        ColumnRole.Input => ["input", "context"],
        ColumnRole.Anchor => ["anchor", "query", "sentence1"],
        ColumnRole.Positive => ["positive", "sentence2"],
        ColumnRole.Similarity => ["similarity", "score", "label"],
        ColumnRole.Negative => ["negative", "negatives"],
        _ => [role.ToString().ToLowerInvariant()],
    };

    /// <summary>Finds the parts by the columns' usual names, or by those the user gave.</summary>
    /// <param name="columns">The columns there are.</param>
    /// <param name="options">The user's names.</param>
    /// <param name="origin">Where the rows come from, for messages.</param>
    /// <returns>Every way to understand the rows, the best first.</returns>
    /// <exception cref="PeftException"><c>DatasetColumnMissing</c> or <c>DatasetColumnsUnknown</c>.</exception>
    internal static IReadOnlyList<DatasetColumns> Find(IReadOnlyCollection<string> columns, DatasetOptions options, string origin)
    {
        if (options.Columns.Values.FirstOrDefault(name => Named(columns, name) is null) is { } absent)
        {
            throw new PeftException("DatasetColumnMissing", $"'{origin}' has no column '{absent}'. Its columns: {string.Join(", ", columns)}.{Spelling.DidYouMean(absent, columns)}")
            {
                Target = absent,
                RecommendedAction = "Name one of the columns there are.",
            };
        }

        // What the user named goes before what merely has a usual name, and has a use.
        List<DatasetColumns> found =
        [
            .. RowKind.All.Select(kind => Fit(kind, columns, options)).OfType<DatasetColumns>()
                .Where(fit => options.Columns.Count == 0 || options.Columns.Keys.Any(fit.Names.ContainsKey))
                .OrderByDescending(fit => options.Columns.Keys.Count(fit.Names.ContainsKey)),
        ];
        return found.Count > 0 ? found : throw new PeftException("DatasetColumnsUnknown", $"The columns of '{origin}' fit no kind of example: {string.Join(", ", columns)}.")
        {
            Target = origin,
            RecommendedAction = Named(columns, "input_ids") is not null ? "Give the texts themselves: rows are cut into tokens here, by the model's own tokenizer." : "Say which column is which, as with -PromptColumn and -CompletionColumn (or -Template in place of the prompt's), -TextColumn and -LabelColumn. Or name them text; prompt and completion; instruction, input and output; messages; prompt, chosen and rejected; prompt, completion and label; text and label; words and tags; question, context and answers; or anchor and positive.",
        };
    }

    /// <summary>The column of a name, whatever its case; the one that is written so goes first.</summary>
    internal static string? Named(IReadOnlyCollection<string> columns, string name) =>
        columns.Contains(name) ? name : columns.FirstOrDefault(column => column.Equals(name, StringComparison.OrdinalIgnoreCase));

    /// <summary>Finds bad values before a model is loaded for them.</summary>
    /// <exception cref="PeftException"><c>DatasetRowInvalid</c>.</exception>
    internal void Check(TrainingRow row)
    {
        var isConversation = IsConversation(row);
        foreach ((var role, var column) in Names)
        {
            switch (role)
            {
                case ColumnRole.Prior:
                    row.Truth(column);
                    break;
                case ColumnRole.Label when Kind == RowKind.Judged:
                    row.Truth(column);
                    break;
                case ColumnRole.Label or ColumnRole.Words or ColumnRole.Tags or ColumnRole.Answer:
                    // What they may hold the model's head says.
                    _ = row.Value(column);
                    break;
                case ColumnRole.TaskId or ColumnRole.AnswerStart:
                    row.OptionalWhole(column);
                    break;
                case ColumnRole.Margin or ColumnRole.Similarity:
                    row.OptionalNumber(column);
                    break;
                case ColumnRole.Negative:
                    row.Texts(column);
                    break;
                case ColumnRole.Input:
                    row.OptionalText(column);
                    break;
                case ColumnRole.Messages:
                    row.Messages(column);
                    break;
                case ColumnRole.Prompt or ColumnRole.Completion or ColumnRole.Chosen or ColumnRole.Rejected when isConversation:
                    row.Messages(column);
                    break;
                default:
                    row.Text(column);
                    break;
            }
        }
    }

    /// <summary>Whether a row's parts are messages.</summary>
    internal bool IsConversation(TrainingRow row) => row.Values.GetValueOrDefault(Prompt ?? this[ColumnRole.Chosen] ?? string.Empty) is IReadOnlyList<object?>;

    private static DatasetColumns? Fit(RowKind kind, IReadOnlyCollection<string> columns, DatasetOptions options)
    {
        Dictionary<ColumnRole, string> names = [];
        foreach (var role in kind.Needed.Concat(kind.Optional).Append(ColumnRole.TaskId))
        {
            string[] wanted = options.Columns.GetValueOrDefault(role) is { } given ? [given] : [.. UsualNames(role, kind)];
            if (wanted.Select(name => Named(columns, name)).FirstOrDefault(static name => name is not null) is { } found)
            {
                names.Add(role, found);
            }
        }

        // A template that the user gives makes the prompt of whatever columns it names.
        var isComplete = kind.Needed.All(role => names.ContainsKey(role) || (role is ColumnRole.Prompt or ColumnRole.Instruction && kind.TakesTemplate && options.Template is not null));
        return isComplete ? new DatasetColumns(kind, names) : null;
    }
}
