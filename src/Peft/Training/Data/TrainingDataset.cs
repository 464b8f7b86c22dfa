using System.Globalization;
using Peft.Adapters.Asking;
using Peft.Files;
using Peft.Tokenization;
using Peft.Training.Policy;

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

    /// <summary>A data set of rows that are in memory, or on the disk with the columns that they have.</summary>
    private TrainingDataset(IReadOnlyList<TrainingRow> rows, string origin, DatasetOptions options, IReadOnlyList<string>? columns = null)
    {
        if (rows.Count == 0)
        {
            throw new PeftException("DatasetEmpty", $"'{origin}' has no rows.")
            {
                Target = origin,
                RecommendedAction = "Give at least one row.",
            };
        }

        IsStreamed = columns is not null;
        Rows = IsStreamed ? rows : Values.Of(rows);
        _options = options;
        Origin = origin;
        ColumnNames = Values.Of(columns ?? rows.SelectMany(row => row.Values.Keys).Distinct());
        _fits = DatasetColumns.Find(ColumnNames, options, origin);
        Template = options.Template ?? Columns.Kind.Template;
        MaxLength = options.MaxLength;
        Loss = options.Loss;
        if (options.Template is not null)
        {
            Check(options.Template);
        }

        foreach (var row in IsStreamed ? [rows[0]] : rows)
        {
            (row.Source?.Columns ?? Columns).Check(row);
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

    /// <summary>Whether the rows, and the tokens made of them, are kept on the disk and read when they are needed.</summary>
    public bool IsStreamed { get; }

    /// <summary>The data sets that the rows are a mixture of; empty where they are one.</summary>
    public IReadOnlyList<TrainingDataset> Parts { get; private init; } = Values.Of<TrainingDataset>([]);

    /// <summary>What the rows are, in the field's words: <c>ShareGPT</c>, <c>Chat</c>, <c>Alpaca</c>, or the kind.</summary>
    public string Layout => DatasetLayout.Of(this);

    /// <summary>Whether the rows can be understood as examples of a kind.</summary>
    /// <param name="examples">The kind.</param>
    public bool Offers(ExampleKind examples) => Parts.Count > 0 ? Parts.All(part => part.Offers(examples)) : _fits.Any(fit => fit.Kind.Examples == examples);

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
        var rows = paths.SelectMany(path => RowReader.Read(path, options, new ReadingWatch(onProgress, cancellation)));
        if (!(options.Streaming ?? IsTooLarge(paths)))
        {
            return new TrainingDataset([.. rows], origin, options);
        }

        var (stored, columns) = RowStore.Store(rows);
        return new TrainingDataset(stored, origin, options, columns);
    }

    /// <summary>Rows take about eight times the room of their file.</summary>
    private static bool IsTooLarge(IReadOnlyList<string> paths)
    {
        const int RoomOfRows = 8;
        var memory = GC.GetGCMemoryInfo();
        return paths.Sum(static path => File.Exists(path) ? new FileInfo(path).Length : 0) > Math.Max(0, memory.TotalAvailableMemoryBytes - memory.MemoryLoadBytes) / RoomOfRows;
    }

    /// <summary>A mixture of data sets, whatever the layouts of their rows: each keeps its columns, template and loss.</summary>
    /// <param name="parts">The data sets.</param>
    /// <param name="weights">How much of the mixture each makes up, in any unit; null for as many rows as each has.</param>
    /// <param name="repeats">Whether rows are repeated so that each comes at least once. Otherwise none is repeated, and of some data sets not all are taken.</param>
    /// <param name="seed">Another one takes other rows.</param>
    /// <exception cref="PeftException"><c>DatasetSharesInvalid</c>, or <c>DatasetKindUnfit</c>: the data sets hold examples of different kinds.</exception>
    public static TrainingDataset Mix(IReadOnlyList<TrainingDataset> parts, IReadOnlyList<double>? weights = null, bool repeats = false, int seed = 0)
    {
        ArgumentNullException.ThrowIfNull(parts);
        var chosen = DatasetMixture.Choose(parts, weights, repeats, seed);
        var rows = new IndexedList<TrainingRow>(chosen.Length, index => parts[chosen[index].Part].Rows[chosen[index].Row] is var row ? row with { Source = row.Source ?? parts[chosen[index].Part] } : null!);
        var first = parts[0];
        var isStreamed = parts.Any(static part => part.IsStreamed);
        var names = parts.SelectMany(static part => part.ColumnNames).Distinct().ToArray();
        return new TrainingDataset(isStreamed ? rows : [.. rows], string.Join(" + ", parts.Select(static part => part.Origin)), first._options, isStreamed ? names : null) { Parts = Values.Of(parts) };
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

    /// <summary>Reads what a program wrote: compressed or not, in the format given; by default as <see cref="FromLines"/> tells.</summary>
    /// <param name="stream">The bytes, from which reading goes on to the end.</param>
    /// <param name="options">How to understand them.</param>
    /// <param name="origin">What messages call their source.</param>
    /// <exception cref="PeftException">As <see cref="FromFile"/>.</exception>
    public static TrainingDataset FromStream(MemoryStream stream, DatasetOptions? options = null, string origin = "the given stream")
    {
        ArgumentNullException.ThrowIfNull(stream);
        options ??= new DatasetOptions();
        stream.Position = 0;
        if (options.Format == DatasetFormat.Parquet)
        {
            throw new NotSupportedByPeftException("DatasetFormatNotSupported", "Parquet is read from files, not from a stream.") { RecommendedAction = "Save it to a file and give its path." };
        }

        return TextFile.Guard(origin, () =>
        {
            using var reader = new StreamReader(CompressedFile.Unpacked(stream), new System.Text.UTF8Encoding(false, throwOnInvalidBytes: true));
            var text = reader.ReadToEnd();
            return options.Format is DatasetFormat.Automatic or DatasetFormat.Text
                ? FromLines([.. text.ReplaceLineEndings("\n").Split('\n').Where(static line => !string.IsNullOrWhiteSpace(line))], options, origin)
                : new TrainingDataset(RowReader.ReadText(text, origin, options), origin, options);
        });
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
    public TrainingDataset WithRows(IEnumerable<int> rows, string? origin = null)
    {
        int[] chosen = [.. rows];
        return new(
            IsStreamed ? new IndexedList<TrainingRow>(chosen.Length, index => Rows[chosen[index]]) : [.. chosen.Select(row => Rows[row])], origin ?? Origin, _options, IsStreamed ? ColumnNames : null)
        {
            Parts = Parts,
        };
    }

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
        var (packs, columns) = (options.Packing != PackingStrategy.None, ColumnsFor(options.Examples));
        if (packs)
        {
            CheckPacking(options);
        }

        var (statistics, lengths, rows, dropped) = (new ExampleStatistics(options.MaxLength ?? int.MaxValue), new List<int>(), new List<int>(), new List<DroppedRow>());
        var (store, examples) = (IsStreamed ? new ExampleStore(Rows) : null, new List<TrainingExample>());
        var builders = new Dictionary<TrainingDataset, ExampleBuilder>();
        for (var i = 0; i < Rows.Count; i++)
        {
            cancellation.ThrowIfCancellationRequested();
            if (i > 0 && i % RowsPerReport == 0)
            {
                onRow?.Invoke(i);
            }

            var row = Rows[i];
            var source = row.Source ?? this;
            if (!builders.TryGetValue(source, out var builder))
            {
                builder = new ExampleBuilder(source.ColumnsFor(options.Examples), source.Template, source.Loss, tokenizer, cancellation, packs ? null : options.MaxLength, options.Labels);
                builders.Add(source, builder);
            }

            if (IsStreamed || builder.Columns != source.Columns)
            {
                builder.Columns.Check(row);
            }

            var whole = builder.Build(row);
            var example = packs ? whole : whole.Cut(source.MaxLength ?? options.MaxLength);
            if (!packs && !example.IsLearnable)
            {
                dropped.Add(new DroppedRow(row, example.IsCut ? $"the first {example.InputIds.Length} of its {example.UncutLength} tokens carry no loss" : "none of its tokens carries loss"));
                continue;
            }

            statistics.Add(example);
            lengths.Add(example.InputIds.Length);
            rows.Add(i);
            store?.Add(i, example);
            if (store is null)
            {
                examples.Add(example);
            }
        }

        var tokenized = new TokenizedDataset(store?.Examples() ?? examples, statistics, lengths, dropped, options, tokenizer.PadTokenId ?? tokenizer.EosTokenId ?? 0)
        {
            Form = FormOf(columns),
            Likeness = token => GroupsOf(rows, token),
        };
        return tokenized.HasLearnedTokens ? tokenized : throw AllMasked(options.MaxLength);
    }

    private static void CheckPacking(TokenizationOptions options)
    {
        if (options.MaxLength is null)
        {
            throw new PeftException("PackingWithoutLength", "Examples can only be packed into rows of a given maximum length.") { RecommendedAction = "Give a maximum length." };
        }

        if (options.Examples != ExampleKind.Text)
        {
            throw new PeftException("PackingNotPossible", $"Examples of the kind {options.Examples} can't share a row.") { RecommendedAction = "Leave packing out." };
        }
    }

    /// <summary>For each of some rows the first of them that says nearly the same.</summary>
    private int[] GroupsOf(List<int> rows, CancellationToken cancellation)
    {
        var groups = NearDuplicates.Groups(this, cancellation);
        return [.. rows.Select(row => groups[row])];
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
        int index, Tokenizer tokenizer, int? maxLength = null, ExampleKind? examples = null, ModelLabels? labels = null, CancellationToken cancellation = default)
    {
        var row = Rows[index];
        var source = row.Source ?? this;
        var limit = source.MaxLength ?? maxLength;
        var columns = examples is { } kind && source.Offers(kind) ? source.ColumnsFor(kind) : source.Columns;
        return new ExampleBuilder(columns, source.Template, source.Loss, tokenizer, cancellation, limit, labels).Build(row).Cut(limit);
    }

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
            if (Rows[i].Source is { } source && source.Columns[ColumnRole.Messages] != column)
            {
                return null;
            }

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
        List<DatasetQuestion> questions = [];
        for (var i = 0; i < Rows.Count; i++)
        {
            cancellation.ThrowIfCancellationRequested();
            var row = Rows[i];
            var source = row.Source ?? this;
            if (new ExampleBuilder(source.Columns, source.Template, source.Loss, tokenizer, cancellation).Question(row, i) is { } question)
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

    /// <summary>The rows as prompts that the model answers itself: prompts alone, what stands before answers, or whole texts.</summary>
    /// <param name="tokenizer">The tokenizer.</param>
    /// <param name="maxLength">Prompts of more tokens are left out, where the data set has no maximum of its own; null keeps all.</param>
    /// <param name="cancellation">Stops between rows.</param>
    /// <exception cref="PeftException"><c>DatasetEmpty</c>: all prompts are too long.</exception>
    public PolicyPrompts Prompts(Tokenizer tokenizer, int? maxLength = null, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(tokenizer);
        var limit = MaxLength ?? maxLength ?? int.MaxValue;
        List<PolicyPrompt> prompts = [];
        for (var i = 0; i < Rows.Count; i++)
        {
            cancellation.ThrowIfCancellationRequested();
            var row = Rows[i];
            var source = row.Source ?? this;
            var (text, ids) = new ExampleBuilder(source.Columns, source.Template, source.Loss, tokenizer, cancellation).Unanswered(row, i);
            ids = ids.Length > 0 ? ids : Generation.TextGenerator.EncodePrompt(tokenizer, text);
            if (ids.Length <= limit)
            {
                prompts.Add(new PolicyPrompt(i, text, ids, row.Values));
            }
        }

        var tooLong = FormattableString.Invariant($"{Rows.Count - prompts.Count} of {Rows.Count} prompts are longer than {limit} tokens and were left out; -MaxLength (max_length) sets the limit.");
        return prompts.Count == 0
            ? throw new PeftException("DatasetEmpty", tooLong) { Target = this, RecommendedAction = "Raise the maximum length, or give shorter prompts." }
            : new PolicyPrompts(prompts, tokenizer.PadTokenId ?? tokenizer.EosTokenId ?? 0) { Form = FormOf(Columns), Messages = prompts.Count < Rows.Count ? [tooLong] : [] };
    }

    /// <summary>How the rows are understood by an objective that takes such examples.</summary>
    internal DatasetColumns ColumnsFor(ExampleKind examples) => _fits.FirstOrDefault(fit => fit.Kind.Examples == examples)
        ?? throw new PeftException("DatasetKindUnfit", $"'{Origin}' holds no examples of the kind {examples}. Its columns: {string.Join(", ", ColumnNames)}.")
        {
            Target = this,
            RecommendedAction = Columns.Kind.AdviceFor(examples),
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
