using Peft.Adapters.Asking;

namespace Peft.Training.Data;

/// <summary>How the rows of a file are written.</summary>
public enum DatasetFormat
{
    /// <summary>Told by the file's extension.</summary>
    Automatic,

    /// <summary>A JSON object a line.</summary>
    JsonLines,

    /// <summary>One JSON array of objects, or an object with such an array.</summary>
    Json,

    /// <summary>Separated values with a line of names on top.</summary>
    Csv,

    /// <summary>The same with tabs between values.</summary>
    Tsv,

    /// <summary>Apache Parquet, as most data sets on the hub are kept.</summary>
    Parquet,

    /// <summary>A text a line; empty lines are passed over.</summary>
    Text,
}

/// <summary>Which tokens carry loss, that is, which tokens a training learns to say.</summary>
public enum LossTokens
{
    /// <summary>
    /// The answer only (default): the completion, the output, or what the assistant says. A plain text is all answer.
    /// </summary>
    Answer,

    /// <summary>Every token, the prompt's as well.</summary>
    All,
}

/// <summary>How to read a data set. Every default is told by the data itself.</summary>
public sealed record DatasetOptions
{
    /// <summary>How the rows are written. Default: told by the extension.</summary>
    public DatasetFormat Format { get; init; }

    /// <summary>
    /// Whether rows and tokens are kept on the disk and read when they are needed, for data that doesn't fit into memory. Null (default): where the files are larger than an eighth
    /// of the memory that is free.
    /// </summary>
    public bool? Streaming { get; init; }

    /// <summary>What separates the values of a CSV file; null: the one of comma, semicolon, tab and bar that splits the first line most.</summary>
    public char? Delimiter { get; init; }

    /// <summary>
    /// Name of the text's encoding, such as <c>utf-8</c>, <c>utf-16</c> or <c>shift_jis</c>; null: told by the byte order mark, else UTF-8
    /// where the bytes are valid UTF-8, else Shift-JIS where they are Japanese text in it.
    /// </summary>
    public string? Encoding { get; init; }

    /// <summary>Columns by the part they play, where they have no usual name: <c>text</c>, <c>prompt</c>, …, and <c>messages</c> or <c>conversations</c>.</summary>
    public IReadOnlyDictionary<ColumnRole, string> Columns { get; init; } = new Dictionary<ColumnRole, string>();

    /// <summary>How a row becomes a prompt; null: <see cref="PromptTemplate.Instruction"/> for instructions, the prompt as it is otherwise.</summary>
    public PromptTemplate? Template { get; init; }

    /// <summary>Maximum length of an example, in tokens; null leaves it to the training.</summary>
    public int? MaxLength { get; init; }

    /// <summary>Which tokens carry loss. Default: the answer only.</summary>
    public LossTokens Loss { get; init; }
}
