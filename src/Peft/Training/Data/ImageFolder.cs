using Peft.Images;

namespace Peft.Training.Data;

/// <summary>
/// A folder of images to learn from, as rows with <c>image</c> (the path) and <c>text</c> (the caption): of <c>metadata.jsonl</c> or <c>metadata.csv</c> with <c>file_name</c>, of a text beside the image
/// (<c>cat.txt</c> or <c>cat.caption</c> for <c>cat.png</c>), or one caption for all (DreamBooth).
/// </summary>
public static class ImageFolder
{
    private static readonly string[] s_metadata = ["metadata.jsonl", "metadata.csv", "metadata.json"];
    private static readonly string[] s_captions = [".txt", ".caption"];
    private static readonly string[] s_captionColumns = ["text", "caption", "prompt"];

    /// <summary>Whether a folder is one of images: it holds some, and no other data but their captions.</summary>
    /// <param name="folder">The folder.</param>
    public static bool IsOne(string folder) => Images(folder).Any();

    /// <summary>Reads the rows.</summary>
    /// <param name="folder">The folder; images in folders below it count.</param>
    /// <param name="caption">The caption of images without one of their own, such as <c>a photo of sks dog</c>; null where each has one.</param>
    /// <param name="isPrior">Whether the images keep a class as it is while others are learnt.</param>
    /// <exception cref="PeftException"><c>FolderNotFound</c>, <c>DatasetEmpty</c>, <c>ImageCaptionMissing</c>, or as <see cref="TrainingDataset.FromFile"/> of the metadata.</exception>
    public static IReadOnlyList<IReadOnlyDictionary<string, object?>> Read(string folder, string? caption = null, bool isPrior = false)
    {
        ArgumentException.ThrowIfNullOrEmpty(folder);
        if (!Directory.Exists(folder))
        {
            throw new PeftException("FolderNotFound", $"There is no folder '{folder}'.") { Target = folder };
        }

        var known = Metadata(folder);
        List<IReadOnlyDictionary<string, object?>> rows = [];
        foreach (var image in Images(folder))
        {
            var text = known.GetValueOrDefault(image) ?? Beside(image) ?? caption ?? throw new PeftException("ImageCaptionMissing", $"The image '{image}' has no caption: neither in metadata.jsonl nor in a text beside it.")
            {
                Target = image,
            };
            rows.Add(new Dictionary<string, object?>(StringComparer.Ordinal) { ["image"] = image, ["text"] = text, ["is_prior"] = isPrior });
        }

        return rows.Count > 0 ? rows : throw new PeftException("DatasetEmpty", $"The folder '{folder}' holds no image.")
        {
            Target = folder,
            RecommendedAction = "Give the folder that the images lie in, as PNG, JPEG or WebP.",
        };
    }

    /// <summary>Whether a folder is one of classes: its images lie in folders below it, and have no captions.</summary>
    /// <param name="folder">The folder.</param>
    public static bool HasClasses(string folder) => !s_metadata.Any(name => File.Exists(Path.Combine(folder, name)))
        && Images(folder).Any() && Images(folder).All(image => ClassOf(folder, image) is not null && Beside(image) is null);

    /// <summary>Reads images with the names of their folders as classes, as rows with <c>image</c> and <c>label</c>.</summary>
    /// <param name="folder">The folder that holds a folder for each class.</param>
    public static IReadOnlyList<IReadOnlyDictionary<string, object?>> ReadClasses(string folder) =>
        [.. Images(folder).Select(image => new Dictionary<string, object?>(StringComparer.Ordinal) { ["image"] = image, ["label"] = ClassOf(folder, image) })];

    /// <summary>The path of a row's image; one that isn't whole is from the file that the row stands in.</summary>
    internal static string PathOf(TrainingRow row, string column)
    {
        var path = FileName(row, column);
        return Path.IsPathRooted(path) || !File.Exists(row.Origin) ? path : Path.Combine(Path.GetDirectoryName(Path.GetFullPath(row.Origin))!, path);
    }

    /// <summary>A row's text that names a file.</summary>
    private static string FileName(TrainingRow row, string column) =>
        row.Text(column) is var name && name.Contains('\0', StringComparison.Ordinal) ? throw row.Error(column, "no file has a name with a null character.") : name;

    private static string? ClassOf(string folder, string image) => Path.GetRelativePath(folder, image).Split(Path.DirectorySeparatorChar) is [var name, _, ..] ? name : null;

    private static IEnumerable<string> Images(string folder) => Directory.EnumerateFiles(folder, "*", SearchOption.AllDirectories)
        .Where(static file => ImageFile.IsImage(file) && !Path.GetFileName(file).StartsWith('.')).Order(StringComparer.Ordinal);

    private static string? Beside(string image) =>
        s_captions.Select(extension => Path.ChangeExtension(image, extension)).FirstOrDefault(File.Exists) is { } file ? TextFile.Guard(file, () => File.ReadAllText(file)).Trim() : null;

    private static Dictionary<string, string> Metadata(string folder)
    {
        if (s_metadata.Select(name => Path.Combine(folder, name)).FirstOrDefault(File.Exists) is not { } file)
        {
            return [];
        }

        Dictionary<string, string> captions = new(StringComparer.Ordinal);
        foreach (var row in RowReader.Read(file, new DatasetOptions(), new ReadingWatch(null, CancellationToken.None)))
        {
            var text = s_captionColumns.FirstOrDefault(row.Values.ContainsKey) ?? row.Values.Keys.FirstOrDefault(static column => column != "file_name")
                ?? throw row.Error("text", "there is no column with the caption.");
            captions[Path.GetFullPath(Path.Combine(folder, FileName(row, "file_name")))] = row.Text(text);
        }

        return captions;
    }
}
