using System.Globalization;
using Peft.Adapters.Asking;
using Peft.Tokenization;

namespace Peft.Training.Data;

/// <summary>
/// Rows to learn from, and everything that decides what is learnt of them: columns, template, maximum length, and which tokens carry
/// loss. Showing examples and training read the same object.
/// </summary>
public sealed class TrainingDataset
{
    /// <summary>How many rows are read or cut into tokens between two reports of progress.</summary>
    internal const int RowsPerReport = 1000;

    private readonly IReadOnlyList<DatasetColumns> _fits;
    private readonly DatasetOptions _options;

    private TrainingDataset(IReadOnlyList<TrainingRow> rows, string origin, DatasetOptions options)
    {
        if (rows.Count == 0)
        {
            throw new PeftException("DatasetEmpty", $"'{origin}' has no rows.")
            {
                Target = origin,
                RecommendedAction = "Give at least one row.",
            };
        }

        Rows = Values.Of(rows);
        _options = options;
        Origin = origin;
        ColumnNames = Values.Of(rows.SelectMany(row => row.Values.Keys).Distinct());
        _fits = DatasetColumns.Find(ColumnNames, options, origin);
        Template = options.Template ?? Columns.Kind.Template;
        MaxLength = options.MaxLength;
        Loss = options.Loss;
        if (options.Template is not null)
        {
            Check(options.Template);
        }

        foreach (var row in rows)
        {
            Columns.Check(row);
        }
    }

    /// <summary>The rows as they were read.</summary>
    public IReadOnlyList<TrainingRow> Rows { get; }

    /// <summary>The number of rows.</summary>
    public int Count => Rows.Count;

    /// <summary>Where the rows came from: a path, or a word for the pipeline.</summary>
    public string Origin { get; }

    /// <summary>The columns of all rows.</summary>
    public IReadOnlyList<string> ColumnNames { get; }

    /// <summary>Which columns play which part.</summary>
    public DatasetColumns Columns => _fits[0];

    /// <summary>Makes prompts of rows; null where the prompt column, text or conversation is taken as it is.</summary>
    public PromptTemplate? Template { get; }

    /// <summary>Maximum length of an example, in tokens; null leaves it to the training.</summary>
    public int? MaxLength { get; }

    /// <summary>Which tokens carry loss.</summary>
    public LossTokens Loss { get; }

    /// <summary>Whether the rows can be understood as examples of a kind.</summary>
    /// <param name="examples">The kind.</param>
    public bool Offers(ExampleKind examples) => _fits.Any(fit => fit.Kind.Examples == examples);

    /// <summary>Reads a file.</summary>
    /// <param name="path">A JSONL, JSON, CSV or text file.</param>
    /// <param name="options">How to read it; null lets the file tell.</param>
    /// <param name="onProgress">Hears now and then how many of the file's bytes are read.</param>
    /// <param name="cancellation">Stops between rows.</param>
    /// <returns>The data set.</returns>
    /// <exception cref="PeftException">
    /// <c>FileNotFound</c>, <c>FileUnreadable</c>, <c>DatasetEmpty</c>, <c>DatasetEncodingUnknown</c>, <c>DatasetEncodingInvalid</c>,
    /// <c>DatasetRowInvalid</c> (with file, line and field), <c>DatasetColumnMissing</c>, <c>DatasetColumnsUnknown</c> or <c>PromptTemplateInvalid</c>.
    /// </exception>
    /// <exception cref="NotSupportedByPeftException"><c>DatasetFormatNotSupported</c>.</exception>
    public static TrainingDataset FromFile(
        string path, DatasetOptions? options = null, Action<long, long>? onProgress = null, CancellationToken cancellation = default)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        return FromFiles([path], path, options, onProgress, cancellation);
    }

    /// <summary>Reads files that are one data set in several parts.</summary>
    /// <param name="paths">The files, in order.</param>
    /// <param name="origin">What messages call them together.</param>
    /// <param name="options">How to read them; null lets each tell.</param>
    /// <param name="onProgress">Hears now and then how many of a file's bytes are read.</param>
    /// <param name="cancellation">Stops between rows.</param>
    /// <returns>The data set.</returns>
    /// <exception cref="PeftException">As <see cref="FromFile"/>.</exception>
    public static TrainingDataset FromFiles(
        IReadOnlyList<string> paths, string origin, DatasetOptions? options = null, Action<long, long>? onProgress = null, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(paths);
        options ??= new DatasetOptions();
        return new TrainingDataset([.. paths.SelectMany(path => RowReader.Read(path, options, new ReadingWatch(onProgress, cancellation)))], origin, options);
    }

    /// <summary>The columns of a file's first row, for whoever names them; empty where the file can't be read.</summary>
    /// <param name="path">A JSONL, JSON or CSV file.</param>
    /// <param name="delimiter">What separates the values of a CSV file; null lets the first line tell.</param>
    public static IReadOnlyList<string> ColumnsOf(string path, char? delimiter = null)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        try
        {
            return RowReader.First(path, new DatasetOptions { Delimiter = delimiter });
        }
        catch (Exception error) when (error is PeftException or IOException or UnauthorizedAccessException)
        {
            return [];
        }
    }

    /// <summary>Takes the lines of a file that are in memory already. Unless a format is given, lines that are all objects of JSON are rows, and any others texts.</summary>
    /// <param name="lines">The lines.</param>
    /// <param name="options">How to understand them.</param>
    /// <param name="origin">What messages call their source.</param>
    /// <returns>The data set.</returns>
    /// <exception cref="PeftException">As <see cref="FromFile"/>.</exception>
    public static TrainingDataset FromLines(IReadOnlyList<string> lines, DatasetOptions? options = null, string origin = "the given lines")
    {
        ArgumentNullException.ThrowIfNull(lines);
        options ??= new DatasetOptions();
        if (options.Format == DatasetFormat.Automatic)
        {
            options = options with { Format = lines.Count > 0 && lines.All(static line => string.IsNullOrWhiteSpace(line) || RowReader.IsObject(line)) && lines.Any(static line => !string.IsNullOrWhiteSpace(line)) ? DatasetFormat.JsonLines : DatasetFormat.Text };
        }

        // A text of the pipeline may hold lines itself, and is one row all the same.
        return options.Format == DatasetFormat.Text
            ? FromRows(lines.Select(static line => new Dictionary<string, object?> { ["text"] = line }), options, origin)
            : new TrainingDataset(RowReader.ReadText(string.Join('\n', lines), origin, options), origin, options);
    }

    /// <summary>Takes rows that are in memory already, such as objects of a pipeline.</summary>
    /// <param name="rows">The rows' values by column.</param>
    /// <param name="options">How to understand them.</param>
    /// <param name="origin">What messages call their source.</param>
    /// <returns>The data set.</returns>
    /// <exception cref="PeftException">As <see cref="FromFile"/>.</exception>
    public static TrainingDataset FromRows(IEnumerable<IReadOnlyDictionary<string, object?>> rows, DatasetOptions? options = null, string origin = "the given rows")
    {
        ArgumentNullException.ThrowIfNull(rows);
        return new TrainingDataset([.. rows.Select((values, i) => new TrainingRow(values, origin, i + 1))], origin, options ?? new DatasetOptions());
    }

    /// <summary>What the columns hold, for a look at them.</summary>
    public IReadOnlyList<ColumnPreview> Preview => Values.Of(ColumnNames.Select(name => ColumnPreview.Of(name, this)));

    /// <summary>Some of the rows, understood as before.</summary>
    /// <param name="rows">Indices of the rows, in the order wanted.</param>
    /// <param name="origin">What messages call them; null for what they call this data set.</param>
    /// <exception cref="PeftException"><c>DatasetEmpty</c>: there are none.</exception>
    public TrainingDataset WithRows(IEnumerable<int> rows, string? origin = null) => new([.. rows.Select(row => Rows[row])], origin ?? Origin, _options);

    /// <summary>Makes the examples of a model's tokenizer. Rows of which nothing is learnt are left out and listed.</summary>
    /// <param name="tokenizer">The tokenizer.</param>
    /// <param name="options">Length and packing; null keeps every example whole and apart.</param>
    /// <param name="onRow">Hears now and then how many rows are done.</param>
    /// <param name="cancellation">Stops between rows.</param>
    /// <returns>The examples.</returns>
    /// <exception cref="PeftException">
    /// <c>DatasetAllMasked</c>: no token of any row carries loss; <c>DatasetKindUnfit</c>: the rows hold no examples of that kind; <c>PackingWithoutLength</c>;
    /// <c>PackingNotPossible</c>; <c>DatasetRowInvalid</c>; <c>ChatTemplateWithoutMarks</c>.
    /// </exception>
    public TokenizedDataset Tokenize(Tokenizer tokenizer, TokenizationOptions? options = null, Action<int>? onRow = null, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(tokenizer);
        options ??= new TokenizationOptions();
        options = options with { MaxLength = MaxLength ?? options.MaxLength };
        var packs = options.Packing != PackingStrategy.None;
        if (packs && options.MaxLength is null)
        {
            throw new PeftException("PackingWithoutLength", "Examples can only be packed into rows of a given maximum length.") { RecommendedAction = "Give a maximum length." };
        }

        var columns = ColumnsFor(options.Examples);
        if (packs && options.Examples != ExampleKind.Text)
        {
            throw new PeftException("PackingNotPossible", $"Examples of the kind {options.Examples} can't share a row.") { RecommendedAction = "Leave packing out." };
        }

        var builder = new ExampleBuilder(columns, Template, Loss, tokenizer, cancellation, packs ? null : options.MaxLength, options.Labels);
        var examples = new List<TrainingExample>(Rows.Count);
        var dropped = new List<DroppedRow>();
        for (var i = 0; i < Rows.Count; i++)
        {
            cancellation.ThrowIfCancellationRequested();
            if (i > 0 && i % RowsPerReport == 0)
            {
                onRow?.Invoke(i);
            }

            var row = Rows[i];
            if (columns != Columns)
            {
                columns.Check(row);
            }

            var whole = builder.Build(row);
            var example = packs ? whole : whole.Cut(options.MaxLength);
            if (packs || example.IsLearnable)
            {
                examples.Add(example);
            }
            else
            {
                dropped.Add(new DroppedRow(row, example.IsCut ? $"the first {example.InputIds.Length} of its {example.UncutLength} tokens carry no loss" : "none of its tokens carries loss"));
            }
        }

        var tokenized = new TokenizedDataset(examples, dropped, options, tokenizer.PadTokenId ?? tokenizer.EosTokenId ?? 0) { Form = FormOf(columns) };
        return tokenized.HasLearnedTokens ? tokenized : throw AllMasked(options.MaxLength);
    }

    /// <summary>The example of one row, as the training will see it.</summary>
    /// <param name="index">The row's index.</param>
    /// <param name="tokenizer">The tokenizer.</param>
    /// <param name="maxLength">Maximum length where the data set has none of its own; null keeps all.</param>
    /// <param name="examples">What it is for; null for what the rows are first.</param>
    /// <param name="labels">The classes of the model's head.</param>
    /// <param name="cancellation">Ends a chat template's rendering.</param>
    /// <returns>The example; it may carry no loss at all.</returns>
    public TrainingExample Example(
        int index, Tokenizer tokenizer, int? maxLength = null, ExampleKind? examples = null, ModelLabels? labels = null, CancellationToken cancellation = default) =>
        new ExampleBuilder(examples is { } kind && Offers(kind) ? ColumnsFor(kind) : Columns, Template, Loss, tokenizer, cancellation, MaxLength ?? maxLength, labels).Build(Rows[index]).Cut(MaxLength ?? maxLength);

    /// <summary>How an adapter that learns these rows is asked; null for whole texts.</summary>
    private PromptForm? FormOf(DatasetColumns columns)
    {
        if (columns[ColumnRole.Messages] is { } messages)
        {
            return new PromptForm { Columns = new Dictionary<string, string> { ["messages"] = messages }, SystemMessage = SystemMessageOf(messages) };
        }

        if (columns.Prompt is { } prompt && columns.IsConversation(Rows[0]))
        {
            return new PromptForm { Columns = new Dictionary<string, string> { ["messages"] = prompt }, SystemMessage = SystemMessageOf(prompt) };
        }

        var template = Template ?? (columns.Prompt is { } plain && !plain.AsSpan().ContainsAny('{', '}') ? new PromptTemplate($"{{{plain}}}") : null);
        return template is null ? null : new PromptForm
        {
            Template = template,
            Columns = columns.Names.Where(entry => entry.Key is ColumnRole.Prompt or ColumnRole.Instruction or ColumnRole.Input)
                .Select(static entry => (Name: entry.Key.ToString().ToLowerInvariant(), Column: entry.Value))
                .Where(entry => entry.Name != entry.Column && template.Names.Contains(entry.Name)).ToDictionary(static entry => entry.Name, static entry => entry.Column),
        };
    }

    /// <summary>The system's message that all conversations begin with, or null.</summary>
    private string? SystemMessageOf(string column)
    {
        string? common = null;
        for (var i = 0; i < Rows.Count; i++)
        {
            var message = Rows[i].Messages(column)[0] is { Role: "system" } first ? first.Content : null;
            if (message is null || (i > 0 && message != common))
            {
                return null;
            }

            common = message;
        }

        return common;
    }

    /// <summary>The questions that the rows ask: what stands before each answer, and the answer.</summary>
    /// <param name="tokenizer">The tokenizer.</param>
    /// <param name="cancellation">Stops between rows.</param>
    /// <exception cref="PeftException"><c>AnswersMissing</c>: no row has an answer, as whole texts have none.</exception>
    public IReadOnlyList<DatasetQuestion> Questions(Tokenizer tokenizer, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(tokenizer);
        var builder = new ExampleBuilder(Columns, Template, Loss, tokenizer, cancellation);
        List<DatasetQuestion> questions = [];
        for (var i = 0; i < Rows.Count; i++)
        {
            cancellation.ThrowIfCancellationRequested();
            if (builder.Question(Rows[i], i) is { } question)
            {
                questions.Add(question);
            }
        }

        return questions.Count > 0 ? questions : throw new PeftException("AnswersMissing", $"'{Origin}' has no answers to compare with: its rows are {Columns.Kind}.")
        {
            Target = this,
            RecommendedAction = "Give rows with a prompt and a completion, an instruction and an output, or a conversation with the assistant's answer.",
        };
    }

    /// <summary>How the rows are understood by an objective that takes such examples.</summary>
    private DatasetColumns ColumnsFor(ExampleKind examples) => _fits.FirstOrDefault(fit => fit.Kind.Examples == examples)
        ?? throw new PeftException("DatasetKindUnfit", $"'{Origin}' holds no examples of the kind {examples}. Its columns: {string.Join(", ", ColumnNames)}.")
        {
            Target = this,
            RecommendedAction = RowKind.All.Any(kind => kind.Examples == examples)
                ? $"Give rows with {string.Join(", or ", RowKind.All.Where(kind => kind.Examples == examples).Select(static kind => string.Join(", ", kind.Needed).ToLowerInvariant()))}, or train towards another objective."
                : "Train towards another objective: no data set holds what this one learns from.",
        };

    private PeftException AllMasked(int? maxLength) => new("DatasetAllMasked", $"No token of the {Count} rows of '{Origin}' would carry loss, so nothing could be learnt.")
    {
        Target = this,
        RecommendedAction = maxLength is null
            ? "Check which column is the answer, or let every token carry loss."
            : $"The answers begin behind the maximum length of {maxLength} tokens, or are empty: raise it, or check which column is the answer.",
    };

    /// <summary>Where the rows came from and how many there are.</summary>
    public override string ToString() => string.Create(CultureInfo.InvariantCulture, $"{Origin} ({Count:N0} {(Count == 1 ? "example" : "examples")})");

    /// <summary>Sees that a template has something to make, of columns that there are.</summary>
    private void Check(PromptTemplate template)
    {
        if (!Columns.Kind.TakesTemplate)
        {
            throw new PeftException("PromptTemplateUnused", $"'{Origin}' holds {(Columns.Kind == RowKind.Text ? "whole texts" : "conversations")}, of which a template makes no prompt.")
            {
                Target = template,
                RecommendedAction = "Say which columns are prompt and answer, or leave the template out.",
            };
        }

        template.Render(column => DatasetColumns.Named(ColumnNames, column) is not null || (column is "input" or "instruction" or "prompt" && Columns.Prompt is not null) ? string.Empty : throw new PeftException(
            "DatasetColumnMissing", $"The template names the column '{column}', which '{Origin}' does not have. Its columns: {string.Join(", ", ColumnNames)}.{Spelling.DidYouMean(column, ColumnNames)}")
        {
            Target = column,
            RecommendedAction = "Name one of the columns there are.",
        });
    }
}
