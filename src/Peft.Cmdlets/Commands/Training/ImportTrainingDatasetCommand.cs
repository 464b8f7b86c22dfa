using System.Management.Automation;
using Peft.Adapters.Asking;
using Peft.Cmdlets.Arguments;
using Peft.Cmdlets.Completion;
using Peft.Cmdlets.Pipeline;
using Peft.Hub;
using Peft.Training.Data;

namespace Peft.Cmdlets.Commands.Training;

/// <summary>Import-TrainingDataset: reads examples to learn from, from files or from the pipeline.</summary>
[Cmdlet(VerbsData.Import, "TrainingDataset", DefaultParameterSetName = PathSet)]
[OutputType(typeof(TrainingDataset))]
public sealed class ImportTrainingDatasetCommand : PeftCmdlet
{
    private const string PathSet = "Path";
    private const string LiteralSet = "LiteralPath";
    private const string RowSet = "InputObject";
    private const string HubSet = "Hub";
    private const string StandardInput = "-";
    private const string CardName = "README.md";

    private readonly List<IReadOnlyDictionary<string, object?>> _rows = [];
    private readonly List<string> _lines = [];
    private bool _hasInput;

    /// <summary>JSONL, JSON, CSV, TSV, Parquet or text files, also compressed by gzip or zstd, each a data set of its own; wildcards are allowed. A folder is one data set, laid out as on the hub. <c>-</c> is standard input.</summary>
    [Parameter(Mandatory = true, Position = 0, ParameterSetName = PathSet)]
    [SupportsWildcards]
    [ValidateNotNullOrEmpty]
    public string[] Path { get; set; } = [];

    /// <summary>Files and folders, taken as they are written.</summary>
    [Parameter(Mandatory = true, ParameterSetName = LiteralSet)]
    [Alias("PSPath", "LP")]
    [ValidateNotNullOrEmpty]
    public string[] LiteralPath { get; set; } = [];

    /// <summary>Rows of one data set, such as Import-Csv gives them: objects or tables with the columns' values, or texts. Texts that are all objects of JSON, as Get-Content gives the lines of a JSONL file, are rows; <c>-Format</c> says so of other forms. Files from Get-ChildItem are read.</summary>
    [Parameter(Mandatory = true, ParameterSetName = RowSet, ValueFromPipeline = true)]
    [ValidateNotNull]
    public PSObject[] InputObject { get; set; } = [];

    /// <summary>A data set on the hub, such as <c>kunishou/databricks-dolly-15k-ja</c>: its files are fetched where the hub's cache hasn't them.</summary>
    [Parameter(Mandatory = true, ParameterSetName = HubSet)]
    [ValidateNotNullOrEmpty]
    public string HubName { get; set; } = "";

    /// <summary>Branch, tag or commit on the hub.</summary>
    [Parameter(ParameterSetName = HubSet)]
    [PSDefaultValue(Value = "main", Help = "main")]
    [ValidateNotNullOrEmpty]
    public string Revision { get; set; } = "main";

    /// <summary>Which part of the data set on the hub or in a folder; by default <c>train</c>, or the only one.</summary>
    [Parameter(ParameterSetName = HubSet)]
    [Parameter(ParameterSetName = PathSet)]
    [Parameter(ParameterSetName = LiteralSet)]
    [ValidateNotNullOrEmpty]
    [ArgumentCompleter(typeof(DatasetPartCompleter))]
    public string? Split { get; set; }

    /// <summary>Which of several data sets in the repository or folder, by its folder there or its name in the README's <c>configs:</c>; by default the one in no folder, or the only one.</summary>
    [Parameter(ParameterSetName = HubSet)]
    [Parameter(ParameterSetName = PathSet)]
    [Parameter(ParameterSetName = LiteralSet)]
    [ValidateNotNullOrEmpty]
    public string? Subset { get; set; }

    /// <summary>Wildcards of the files on the hub, or in a folder, that are the data set, where their names don't tell.</summary>
    [Parameter(ParameterSetName = HubSet)]
    [Parameter(ParameterSetName = PathSet)]
    [Parameter(ParameterSetName = LiteralSet)]
    [SupportsWildcards]
    [Alias("data_files")]
    [ValidateNotNullOrEmpty]
    public string[] Include { get; set; } = [];

    /// <summary>How the rows are written: <c>Automatic</c> goes by the file's extension.</summary>
    [Parameter]
    [PSDefaultValue(Value = DatasetFormat.Automatic, Help = "Automatic")]
    public DatasetFormat Format { get; set; }

    /// <summary>Keeps rows and tokens on the disk (in the folder <c>PEFT_CACHE</c>, or the user's local application data) and reads them when they are needed. Without it that is done where the files are larger than an eighth of the free memory; <c>-Streaming:$false</c> never does.</summary>
    [Parameter]
    public SwitchParameter Streaming { get; set; }

    /// <summary>What separates the values of a CSV file. Without it the first line tells.</summary>
    [Parameter]
    public char? Delimiter { get; set; }

    /// <summary>Encoding of the text, such as <c>utf-8</c>, <c>utf-16</c> or <c>shift_jis</c>. Without it the bytes tell.</summary>
    [Parameter]
    [ArgumentCompleter(typeof(EncodingCompleter))]
    [ValidateNotNullOrEmpty]
    public string? Encoding { get; set; }

    /// <summary>Column that holds a whole text; by default <c>text</c>.</summary>
    [Parameter]
    [ArgumentCompleter(typeof(ColumnCompleter))]
    [ValidateNotNullOrEmpty]
    public string? TextColumn { get; set; }

    /// <summary>Column that holds the prompt; by default <c>prompt</c>.</summary>
    [Parameter]
    [ArgumentCompleter(typeof(ColumnCompleter))]
    [ValidateNotNullOrEmpty]
    public string? PromptColumn { get; set; }

    /// <summary>Column that holds what follows the prompt; by default <c>completion</c>.</summary>
    [Parameter]
    [ArgumentCompleter(typeof(ColumnCompleter))]
    [ValidateNotNullOrEmpty]
    public string? CompletionColumn { get; set; }

    /// <summary>Column that holds an instruction; by default <c>instruction</c>.</summary>
    [Parameter]
    [ArgumentCompleter(typeof(ColumnCompleter))]
    [ValidateNotNullOrEmpty]
    public string? InstructionColumn { get; set; }

    /// <summary>Column that holds what the instruction is about; by default <c>input</c>.</summary>
    [Parameter]
    [ArgumentCompleter(typeof(ColumnCompleter))]
    [ValidateNotNullOrEmpty]
    public string? InputColumn { get; set; }

    /// <summary>Column that holds the answer to the instruction; by default <c>output</c>.</summary>
    [Parameter]
    [ArgumentCompleter(typeof(ColumnCompleter))]
    [ValidateNotNullOrEmpty]
    public string? OutputColumn { get; set; }

    /// <summary>Column that holds a conversation; by default <c>messages</c>.</summary>
    [Parameter]
    [ArgumentCompleter(typeof(ColumnCompleter))]
    [ValidateNotNullOrEmpty]
    public string? MessagesColumn { get; set; }

    /// <summary>Column that holds the better of two answers; by default <c>chosen</c>.</summary>
    [Parameter]
    [ArgumentCompleter(typeof(ColumnCompleter))]
    [ValidateNotNullOrEmpty]
    public string? ChosenColumn { get; set; }

    /// <summary>Column that holds the worse of two answers; by default <c>rejected</c>.</summary>
    [Parameter]
    [ArgumentCompleter(typeof(ColumnCompleter))]
    [ValidateNotNullOrEmpty]
    public string? RejectedColumn { get; set; }

    /// <summary>Column that holds by how much the better answer is better, a number; by default <c>margin</c>.</summary>
    [Parameter]
    [ArgumentCompleter(typeof(ColumnCompleter))]
    [ValidateNotNullOrEmpty]
    public string? MarginColumn { get; set; }

    /// <summary>Column that holds whether an answer is good, true or false; or what a text is: a class by name or number, a list of classes, or a value. By default <c>label</c> or <c>labels</c>.</summary>
    [Parameter]
    [ArgumentCompleter(typeof(ColumnCompleter))]
    [ValidateNotNullOrEmpty]
    public string? LabelColumn { get; set; }

    /// <summary>Column that holds a second text beside the first; by default <c>text_pair</c>.</summary>
    [Parameter]
    [ValidateNotNullOrEmpty]
    [ArgumentCompleter(typeof(ColumnCompleter))]
    public string? TextPairColumn { get; set; }

    /// <summary>Column that holds a list of words, each of which has a class; by default <c>words</c> or <c>tokens</c>.</summary>
    [Parameter]
    [ValidateNotNullOrEmpty]
    [ArgumentCompleter(typeof(ColumnCompleter))]
    public string? WordsColumn { get; set; }

    /// <summary>Column that holds the classes of the words, by name or number; by default <c>tags</c>, <c>ner_tags</c> or <c>labels</c>.</summary>
    [Parameter]
    [ValidateNotNullOrEmpty]
    [ArgumentCompleter(typeof(ColumnCompleter))]
    public string? TagsColumn { get; set; }

    /// <summary>Column that holds a question; by default <c>question</c>.</summary>
    [Parameter]
    [ValidateNotNullOrEmpty]
    [ArgumentCompleter(typeof(ColumnCompleter))]
    public string? QuestionColumn { get; set; }

    /// <summary>Column that holds the text that an answer stands in; by default <c>context</c>.</summary>
    [Parameter]
    [ValidateNotNullOrEmpty]
    [ArgumentCompleter(typeof(ColumnCompleter))]
    public string? ContextColumn { get; set; }

    /// <summary>Column that holds the answer, a text or an object with the lists <c>text</c> and <c>answer_start</c>; by default <c>answers</c> or <c>answer</c>.</summary>
    [Parameter]
    [ValidateNotNullOrEmpty]
    [ArgumentCompleter(typeof(ColumnCompleter))]
    public string? AnswerColumn { get; set; }

    /// <summary>Column that holds where the answer begins in its context, in characters; by default <c>answer_start</c>.</summary>
    [Parameter]
    [ValidateNotNullOrEmpty]
    [ArgumentCompleter(typeof(ColumnCompleter))]
    public string? AnswerStartColumn { get; set; }

    /// <summary>Column that holds which of several tasks a row is, a number from 0; by default <c>task_id</c>.</summary>
    [Parameter]
    [ValidateNotNullOrEmpty]
    [ArgumentCompleter(typeof(ColumnCompleter))]
    public string? TaskIdColumn { get; set; }

    /// <summary>Makes a prompt of a row: text with columns in braces, such as <c>Question: {question} Answer:</c>. Rows with an instruction have a template by default.</summary>
    [Parameter]
    [ArgumentCompleter(typeof(PromptTemplateCompleter))]
    [ValidateNotNullOrEmpty]
    public string? Template { get; set; }

    /// <summary>In a folder of images the caption of those that have none of their own, such as <c>a photo of sks dog</c> (DreamBooth). A caption of its own stands in a text beside the image or in <c>metadata.jsonl</c>.</summary>
    [Parameter(ParameterSetName = PathSet)]
    [Parameter(ParameterSetName = LiteralSet)]
    [Alias("instance_prompt")]
    [ValidateNotNullOrEmpty]
    public string? InstancePrompt { get; set; }

    /// <summary>A folder of images that keep a class as it is while one of its members is learnt (prior preservation).</summary>
    [Parameter(ParameterSetName = PathSet)]
    [Parameter(ParameterSetName = LiteralSet)]
    [Alias("class_data_dir")]
    [ValidateNotNullOrEmpty]
    public string? PriorPath { get; set; }

    /// <summary>The caption of the images in <c>-PriorPath</c>, such as <c>a photo of a dog</c>.</summary>
    [Parameter(ParameterSetName = PathSet)]
    [Parameter(ParameterSetName = LiteralSet)]
    [Alias("class_prompt")]
    [ValidateNotNullOrEmpty]
    public string? PriorPrompt { get; set; }

    /// <summary>Maximum length of an example, in tokens. Without it the training's own maximum counts.</summary>
    [Parameter]
    [ValidateRange(2, int.MaxValue)]
    public int? MaxLength { get; set; }

    /// <summary>Which tokens are learnt: those of the answer, or all.</summary>
    [Parameter]
    [PSDefaultValue(Value = LossTokens.Answer, Help = "Answer")]
    public LossTokens Loss { get; set; }

    /// <inheritdoc/>
    protected override void Process()
    {
        switch (ParameterSetName)
        {
            case RowSet:
                _hasInput = true;
                foreach (var item in InputObject)
                {
                    if (item.BaseObject is FileInfo file)
                    {
                        Each([file.FullName], Read);
                    }
                    else
                    {
                        _rows.Add(DatasetRow.From(item));
                        if (item.BaseObject is string line)
                        {
                            _lines.Add(line);
                        }
                    }
                }

                break;
            case HubSet:
                Each([new HubRepository(HubName, Revision, HubKind.Dataset)], ReadHub);
                break;
            case LiteralSet:
                Each(LiteralPath, path => Read(PathResolution.ResolveLiteral(this, path)));
                break;
            default:
                Each(Path, pattern =>
                {
                    if (pattern == StandardInput)
                    {
                        ReadStandardInput();
                    }
                    else
                    {
                        Each(PathResolution.Resolve(this, pattern), Read);
                    }
                });
                break;
        }
    }

    /// <inheritdoc/>
    protected override void End()
    {
        // A pipeline without any object, such as Import-Csv makes of an empty file, is a data set without rows.
        if (_rows.Count > 0 || (MyInvocation.ExpectingInput && !_hasInput))
        {
            Write(_rows.Count > 0 && _lines.Count == _rows.Count
                ? TrainingDataset.FromLines(_lines, Options(), "the pipeline")
                : TrainingDataset.FromRows(_rows, Options(), "the pipeline"));
        }
    }

    private void Read(string path) => Write(Directory.Exists(path) && ImageFolder.IsOne(path) ? Images(path) : Run(output => Read(Directory.Exists(path) ? InFolder(path) : [path], path, output)));

    /// <summary>A folder of images, with those that keep the class behind them; where each class has a folder of its own, with their classes.</summary>
    private TrainingDataset Images(string folder) => TrainingDataset.FromRows(
        [
            .. InstancePrompt is null && PriorPath is null && ImageFolder.HasClasses(folder) ? ImageFolder.ReadClasses(System.IO.Path.GetFullPath(folder)) : ImageFolder.Read(System.IO.Path.GetFullPath(folder), InstancePrompt),
            .. PriorPath is null ? [] : ImageFolder.Read(System.IO.Path.GetFullPath(PathResolution.ResolveLiteral(this, PriorPath)), PriorPrompt, isPrior: true),
        ],
        Options(),
        folder);

    /// <summary>The files of a folder that are the data set, found as in a repository of the hub.</summary>
    private IReadOnlyList<string> InFolder(string folder)
    {
        HubFile[] files = [.. Directory.EnumerateFiles(folder, "*", SearchOption.AllDirectories).Select(file => new HubFile(System.IO.Path.GetRelativePath(folder, file).Replace('\\', '/'), 0, "")).OrderBy(static file => file.Path, StringComparer.Ordinal)];
        var card = System.IO.Path.Combine(folder, CardName);
        try
        {
            return [.. HubDatasetFiles.Choose(files, Subset, Split, Include, File.Exists(card) ? File.ReadAllText(card) : null).Select(file => System.IO.Path.Combine(folder, file.Path))];
        }
        catch (PeftException error) when (error.ErrorId == "HubDatasetWithoutFiles")
        {
            throw new PeftException("DatasetFilesMissing", $"The folder '{folder}' holds no JSON, JSONL, CSV, TSV, Parquet or text file{(Include.Length > 0 ? " of that name" : "")}.", error)
            {
                Target = folder,
                RecommendedAction = "Give the folder that the data set's files lie in, or the files themselves.",
            };
        }
    }

    private void ReadStandardInput() => Write(Run(_ =>
    {
        using var input = new MemoryStream();
        using (var stream = Console.OpenStandardInput())
        {
            stream.CopyTo(input);
        }

        return TrainingDataset.FromStream(input, Options(), "standard input");
    }));

    private void Write(TrainingDataset dataset)
    {
        WriteVerbose(FormattableString.Invariant($"'{dataset.Origin}' is of the layout {dataset.Layout}: {dataset.Columns}.{(dataset.IsStreamed ? " Rows and tokens are kept on the disk." : "")}"));
        WriteObject(dataset);
    }

    private void ReadHub(HubRepository repository) => Write(Run(output =>
    {
        var cards = HubFetch.CachedOrNew(output, repository, static files => [.. files.Where(static file => file.Path == CardName)]);
        var path = System.IO.Path.Combine(cards.Path, CardName);
        var card = File.Exists(path) ? File.ReadAllText(path) : null;
        var snapshot = HubFetch.CachedOrNew(output, repository, files => HubDatasetFiles.Choose(files, Subset, Split, Include, card));
        return Read([.. snapshot.Files.Select(file => System.IO.Path.Combine(snapshot.Path, file))], repository.ToString(), output);
    }));

    private TrainingDataset Read(IReadOnlyList<string> paths, string origin, WorkOutput output)
    {
        var progress = new ProgressLine(output, $"Importing '{System.IO.Path.GetFileName(origin)}'");
        var dataset = TrainingDataset.FromFiles(
            paths, origin, Options(), (done, total) => progress.Show(done, total, FormattableString.Invariant($"{done / 1e6:N0} of {total / 1e6:N0} MB")), output.Cancellation);
        progress.Complete();
        return dataset;
    }

    private DatasetOptions Options() => new()
    {
        Format = Format,
        Streaming = Given(nameof(Streaming)) ? Streaming.IsPresent : null,
        Delimiter = Delimiter,
        Encoding = Encoding,
        Columns = Columns(),
        Template = Template is null ? null : new PromptTemplate(Template),
        MaxLength = MaxLength,
        Loss = Loss,
    };

    private Dictionary<ColumnRole, string> Columns() => new (ColumnRole Role, string? Name)[]
    {
        (ColumnRole.Text, TextColumn),
        (ColumnRole.Prompt, PromptColumn),
        (ColumnRole.Completion, CompletionColumn),
        (ColumnRole.Instruction, InstructionColumn),
        (ColumnRole.Input, InputColumn),
        (ColumnRole.Output, OutputColumn),
        (ColumnRole.Messages, MessagesColumn),
        (ColumnRole.Chosen, ChosenColumn),
        (ColumnRole.Rejected, RejectedColumn),
        (ColumnRole.Margin, MarginColumn),
        (ColumnRole.Label, LabelColumn),
        (ColumnRole.TextPair, TextPairColumn),
        (ColumnRole.Words, WordsColumn),
        (ColumnRole.Tags, TagsColumn),
        (ColumnRole.Question, QuestionColumn),
        (ColumnRole.Context, ContextColumn),
        (ColumnRole.Answer, AnswerColumn),
        (ColumnRole.AnswerStart, AnswerStartColumn),
        (ColumnRole.TaskId, TaskIdColumn),
    }.Where(static column => column.Name is not null).ToDictionary(static column => column.Role, static column => column.Name!);
}
