using System.IO.Enumeration;

namespace Peft.Hub;

/// <summary>Which files of a repository on the hub a model or an adapter is made of: many hold the same weights several times, for other programs.</summary>
public static class HubModelFiles
{
    /// <summary>Names the models of a pipeline, in its repository.</summary>
    internal const string PipelineIndex = "model_index.json";

    private static readonly string[] s_texts = [".json", ".txt", ".model", ".jinja", ".tiktoken", ".md"];

    /// <summary>What to fetch where nothing is said: configuration, tokenizer and weights, in safetensors where they are there, beside them none in another format.</summary>
    /// <param name="files">All files.</param>
    /// <exception cref="PeftException"><c>HubFileAmbiguous</c>: several GGUF files and nothing else.</exception>
    public static IReadOnlyList<HubFile> Choose(IReadOnlyList<HubFile> files)
    {
        ArgumentNullException.ThrowIfNull(files);
        var isPipeline = files.Any(static file => file.Path == PipelineIndex);
        HubFile[] here = [.. files.Where(file => isPipeline ? IsOfPipeline(file) : !file.Path.Contains('/', StringComparison.Ordinal))];
        HubFile[] weights = [.. here.Where(static file => IsWeights(Name(file)))];
        var format = weights.Select(static file => Path.GetExtension(file.Path)).Order(Comparer<string>.Create(static (one, other) => Rank(one) - Rank(other))).FirstOrDefault();
        weights = [.. weights.Where(file => Path.GetExtension(file.Path) == format)];
        if (format == ".gguf" && weights.Length > 1)
        {
            throw new PeftException("HubFileAmbiguous", $"It holds {weights.Length} GGUF files: {string.Join(", ", weights.Select(static file => file.Path))}.")
            {
                RecommendedAction = "Say which by -Include, such as -Include *Q4_K_M.gguf.",
            };
        }

        return [.. here.Where(file => weights.Contains(file) || (s_texts.Contains(Path.GetExtension(file.Path)) && (!IsIndex(Name(file)) || Name(file).Contains(format ?? "", StringComparison.Ordinal))))];
    }

    /// <summary>Files whose path or name matches one of some wildcards and none of others.</summary>
    /// <param name="files">All files.</param>
    /// <param name="include">Wildcards; none for what <see cref="Choose"/> chooses.</param>
    /// <param name="exclude">Wildcards.</param>
    /// <exception cref="PeftException"><c>HubFileAmbiguous</c> or <c>HubFileNotFound</c>: nothing is left.</exception>
    public static IReadOnlyList<HubFile> Match(IReadOnlyList<HubFile> files, IReadOnlyList<string> include, IReadOnlyList<string> exclude)
    {
        ArgumentNullException.ThrowIfNull(files);
        HubFile[] chosen = [.. (include.Count > 0 ? files.Where(file => Fits(file, include)) : Choose(files)).Where(file => !Fits(file, exclude))];
        return chosen.Length > 0 ? chosen : throw new PeftException(
            "HubFileNotFound", $"None of its {files.Count} files is meant: {string.Join(", ", files.Take(20).Select(static file => file.Path))}{(files.Count > 20 ? ", …" : "")}.")
        {
            RecommendedAction = "Give other wildcards by -Include and -Exclude.",
        };
    }

    /// <summary>Whether a file of this name holds weights that can be read here.</summary>
    public static bool IsWeights(string name) => Path.GetExtension(name) switch
    {
        ".safetensors" => !name.StartsWith("consolidated", StringComparison.Ordinal),
        ".bin" => name.StartsWith("pytorch_model", StringComparison.Ordinal) || name.StartsWith("adapter_model", StringComparison.Ordinal) || name.StartsWith("diffusion_pytorch_model", StringComparison.Ordinal),
        ".gguf" => true,
        _ => false,
    };

    /// <summary>Whether a file of this name says in which file each tensor is.</summary>
    internal static bool IsIndex(string name) => name.EndsWith(".index.json", StringComparison.Ordinal);

    // Beside the folders of its models lie the same weights in one file, and within them in other types (model.fp16.safetensors).
    private static bool IsOfPipeline(HubFile file) => !IsWeights(Name(file))
        || (file.Path.Contains('/', StringComparison.Ordinal) && !Path.GetFileNameWithoutExtension(file.Path).Contains('.', StringComparison.Ordinal));

    private static string Name(HubFile file) => Path.GetFileName(file.Path);

    private static int Rank(string extension) => extension switch
    {
        ".safetensors" => 0,
        ".bin" => 1,
        _ => 2,
    };

    private static bool Fits(HubFile file, IReadOnlyList<string> patterns) => patterns.Any(pattern =>
        FileSystemName.MatchesSimpleExpression(pattern, file.Path) || FileSystemName.MatchesSimpleExpression(pattern, Name(file)));
}
