using Peft.Files;

namespace Peft.Tokenization;

public sealed partial class Tokenizer
{
    private const string TemplateFolder = "additional_chat_templates";

    /// <summary>The files that belong to a tokenizer, besides additional templates.</summary>
    private static readonly string[] s_fileNames =
    [
        "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "chat_template.json",
        "vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "tekken.json",
    ];

    /// <summary>
    /// Reads the tokenizer of a model folder: tokenizer.json or the older files, tokenizer_config.json, special_tokens_map.json and the chat
    /// templates. Truncation and padding blocks are left off until <see cref="With"/> switches them on.
    /// </summary>
    /// <param name="folder">The folder.</param>
    /// <exception cref="PeftException">There is no tokenizer, or a file is broken.</exception>
    public static Tokenizer FromFolder(string folder)
    {
        ArgumentException.ThrowIfNullOrEmpty(folder);
        var contents = new Dictionary<string, byte[]>(StringComparer.Ordinal);
        foreach (var name in FilesIn(folder))
        {
            contents[name] = ReadFile(Path.Combine(folder, name));
        }

        return FolderReader.Read(folder, new TokenizerFiles(contents));
    }

    /// <summary>
    /// Reads a single file as the library that it belongs to would: a tokenizer.json with its truncation and padding blocks, a SentencePiece
    /// <c>.model</c>, a <c>.tiktoken</c> of a known encoding, or a <c>vocab.txt</c>.
    /// </summary>
    /// <param name="path">The file.</param>
    /// <exception cref="PeftException">The file isn't there, is broken or of an unknown kind.</exception>
    public static Tokenizer FromFile(string path)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        return FolderReader.ReadSingle(path, ReadFile(path));
    }

    /// <summary>Makes a tokenizer of what a GGUF file says about it.</summary>
    /// <param name="metadata">
    /// The file's metadata: <c>tokenizer.ggml.model</c>, <c>tokenizer.ggml.tokens</c> and so on; strings, numbers, booleans and arrays of these.
    /// </param>
    /// <exception cref="PeftException">The metadata holds no tokenizer, or a broken one.</exception>
    public static Tokenizer FromGguf(IReadOnlyDictionary<string, object> metadata)
    {
        ArgumentNullException.ThrowIfNull(metadata);
        return FolderReader.ReadGguf(metadata);
    }

    /// <summary>Writes the tokenizer's files into a folder, byte for byte as they were read, in place of another tokenizer's.</summary>
    /// <param name="folder">The folder; it is created where it is missing.</param>
    public void Save(string folder)
    {
        ArgumentException.ThrowIfNullOrEmpty(folder);
        AtomicFile.MakeFolder(folder);
        FileSet.Replace(folder, Files, FilesIn(folder));
    }

    /// <summary>What a file held that the tokenizer was read from, or null.</summary>
    internal byte[]? FileContent(string name) => _files.Contents.GetValueOrDefault(name);

    /// <summary>Names of the tokenizer's files and what writes them.</summary>
    internal IReadOnlyList<(string Name, Action<Stream> Write)> Files =>
        [.. _files.Contents.Select(static file => (file.Key, (Action<Stream>)(stream => stream.Write(file.Value))))];

    /// <summary>Names of the files of a folder that a tokenizer is read from.</summary>
    internal static IReadOnlyList<string> FilesIn(string folder)
    {
        var templates = Path.Combine(folder, TemplateFolder);
        return
        [
            .. s_fileNames.Where(name => File.Exists(Path.Combine(folder, name))),
            .. Names(folder, "*.tiktoken"),
            .. Names(folder, "tokenization_*.py"),
            .. Names(templates, "*.jinja").Select(static name => $"{TemplateFolder}/{name}"),
        ];
    }

    private static IEnumerable<string> Names(string folder, string pattern) =>
        Directory.Exists(folder) ? Directory.GetFiles(folder, pattern).Select(static path => Path.GetFileName(path)).Order(StringComparer.Ordinal) : [];

    private static byte[] ReadFile(string path)
    {
        try
        {
            return File.ReadAllBytes(path);
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            throw new PeftException("TokenizerFileUnreadable", $"{path} can't be read: {error.Message}", error) { Target = path };
        }
    }
}
