using System.IO.Enumeration;
using System.Text.RegularExpressions;
using Peft.Files;

namespace Peft.Hub;

/// <summary>
/// Which files of a data set on the hub are which of its parts, as their names tell: <c>data/train-00000-of-00002.parquet</c>, <c>test.jsonl</c>,
/// <c>main/validation.csv</c> (of the subset <c>main</c>). A file whose name tells nothing is for training.
/// </summary>
public static partial class HubDatasetFiles
{
    private const string Train = "train", Validation = "validation", Test = "test";

    /// <summary>Formats of data, the best first: where a repository has several, they hold the same rows.</summary>
    private static readonly string[][] s_formats = [[".parquet"], [".jsonl", ".ndjson"], [".json"], [".csv", ".tsv"], [".txt"]];

    private static readonly string[] s_noData = ["dataset_infos.json", "dataset_dict.json", "state.json", "config.json", "license.txt", "requirements.txt"];

    private static readonly Dictionary<string, string> s_words = new(StringComparer.OrdinalIgnoreCase)
    {
        ["train"] = Train,
        ["training"] = Train,
        ["validation"] = Validation,
        ["valid"] = Validation,
        ["val"] = Validation,
        ["dev"] = Validation,
        ["test"] = Test,
        ["testing"] = Test,
        ["eval"] = Test,
        ["evaluation"] = Test,
    };

    /// <summary>The files of a part.</summary>
    /// <param name="files">All files.</param>
    /// <param name="subset">Which of several data sets in the repository; null for the only one, or the one that is called <c>default</c>.</param>
    /// <param name="split">Which part; null for <c>train</c>, or the only one.</param>
    /// <param name="include">Wildcards that name the files themselves; none for all.</param>
    /// <param name="card">The repository's README.md, whose <c>configs:</c> say which files are what; null where names tell alone.</param>
    /// <exception cref="PeftException"><c>HubDatasetWithoutFiles</c>, <c>HubSubsetUnknown</c> or <c>HubSplitUnknown</c>, with those there are.</exception>
    public static IReadOnlyList<HubFile> Choose(
        IReadOnlyList<HubFile> files, string? subset = null, string? split = null, IReadOnlyList<string>? include = null, string? card = null)
    {
        ArgumentNullException.ThrowIfNull(files);
        if (card is not null && include is not { Count: > 0 } && HubDatasetCard.PartsOf(card, files) is { Count: > 0 } told)
        {
            return Pick(told.ToLookup(static entry => entry.Part, static entry => entry.File), subset, split);
        }

        HubFile[] candidates = [.. files.Where(file => include is { Count: > 0 }
            ? include.Any(pattern => FileSystemName.MatchesSimpleExpression(pattern, file.Path))
            : !s_noData.Contains(Path.GetFileName(file.Path), StringComparer.OrdinalIgnoreCase) && file.Path[0] != '.')];
        var format = s_formats.FirstOrDefault(format => candidates.Any(file => IsOf(file, format)));
        if (format is null)
        {
            throw new PeftException("HubDatasetWithoutFiles", $"It holds no JSON, JSONL, CSV, Parquet or text file{(include is { Count: > 0 } ? " of that name" : "")}: {string.Join(", ", files.Take(20).Select(static file => file.Path))}.")
            {
                RecommendedAction = "Many such data sets are offered in Parquet at -Revision refs/convert/parquet; -Include names files by wildcards.",
            };
        }

        return Pick(candidates.Where(file => IsOf(file, format)).ToLookup(static file => PartOf(file.Path)), subset, split);
    }

    /// <summary>The files of the part that is asked for, or of the usual one.</summary>
    private static IReadOnlyList<HubFile> Pick(ILookup<(string Subset, string Split), HubFile> parts, string? subset, string? split)
    {
        string[] subsets = [.. parts.Select(static part => part.Key.Subset).Distinct()];
        var chosenSubset = Pick(subsets, subset, ["", "default"]) ?? throw Unknown("HubSubsetUnknown", "subset", subset, subsets, "-Subset");
        string[] splits = [.. parts.Where(part => part.Key.Subset == chosenSubset).Select(static part => part.Key.Split).Distinct()];
        var chosenSplit = Pick(splits, split, [Train]) ?? throw Unknown("HubSplitUnknown", "split", split, splits, "-Split");
        return [.. parts[(chosenSubset, chosenSplit)].OrderBy(static file => file.Path, StringComparer.Ordinal)];
    }

    private static bool IsOf(HubFile file, string[] format) => format.Contains(Path.GetExtension(CompressedFile.PlainName(file.Path)), StringComparer.OrdinalIgnoreCase);

    private static string? Pick(string[] there, string? wanted, string[] usual) => wanted is null
        ? usual.FirstOrDefault(there.Contains) ?? (there is [var only] ? only : null)
        : Array.Find(there, name => name.Equals(wanted, StringComparison.OrdinalIgnoreCase));

    private static PeftException Unknown(string id, string what, string? wanted, string[] there, string parameter) => new(
        id, $"{(wanted is null ? $"It has several {what}s and none of the usual name" : $"It has no {what} '{wanted}'")}: {string.Join(", ", there.Select(static name => name.Length > 0 ? name : "(without a name)"))}.")
    {
        Target = wanted,
        RecommendedAction = $"Give one of them by {parameter}.",
    };

    private static (string Subset, string Split) PartOf(string path)
    {
        var segments = path.Split('/');
        var name = segments[^1];
        var folders = segments[..^1].Where(static folder => !folder.Equals("data", StringComparison.OrdinalIgnoreCase)).ToList();
        var subset = folders.FirstOrDefault(static folder => Word(folder) is null) ?? "";
        return Numbered().Match(name) is { Success: true } numbered ? (subset, numbered.Groups[1].Value)
            : (subset, Word(name) ?? folders.Select(Word).LastOrDefault(static word => word is not null) ?? Train);
    }

    /// <summary>The part of which a name has the word.</summary>
    private static string? Word(string name) => Separators().Split(name).Select(static word => s_words.GetValueOrDefault(word)).FirstOrDefault(static split => split is not null);

    [GeneratedRegex(@"^(.+)-\d{5}-of-\d{5}", RegexOptions.CultureInvariant, 1000)]
    private static partial Regex Numbered();

    [GeneratedRegex("[^a-zA-Z]+", RegexOptions.CultureInvariant, 1000)]
    private static partial Regex Separators();
}
