using System.Diagnostics;
using System.Formats.Tar;
using System.IO.Compression;
using System.Text.Json;
using Peft.Images;

namespace Peft.Samples.Emoji;

/// <summary>The pictures to learn: Google's emoji (Noto, Apache 2.0) in 64 x 64 pixels with their names, fetched with npm.</summary>
internal static class EmojiSet
{
    private const string Package = "emoji-datasource-google@16.0.0";
    private const string Pictures = "package/img/google/64/";

    /// <summary>Puts the emoji of some kinds into a folder with their names as captions, unless it is there.</summary>
    /// <param name="folder">The folder.</param>
    /// <param name="kinds">Beginnings of the names of subcategories, such as <c>face-</c>.</param>
    public static void Prepare(string folder, params string[] kinds)
    {
        var metadata = Path.Combine(folder, "metadata.jsonl");
        if (File.Exists(metadata))
        {
            return;
        }

        Directory.CreateDirectory(folder);
        var names = new Dictionary<string, string>(StringComparer.Ordinal);
        Dictionary<string, byte[]> images = new(StringComparer.Ordinal);
        using var reader = new TarReader(new GZipStream(File.OpenRead(Fetch(Path.GetDirectoryName(folder)!)), CompressionMode.Decompress));
        while (reader.GetNextEntry() is { } entry)
        {
            if (entry.Name == "package/emoji.json")
            {
                names = Names(entry.DataStream!, kinds);
            }
            else if (entry.Name.StartsWith(Pictures, StringComparison.Ordinal))
            {
                using var memory = new MemoryStream();
                entry.DataStream!.CopyTo(memory);
                images[entry.Name[Pictures.Length..]] = memory.ToArray();
            }
        }

        foreach (var image in names.Keys.Where(images.ContainsKey))
        {
            File.WriteAllBytes(Path.Combine(folder, image), images[image]);
        }

        File.WriteAllLines(metadata, names.Where(entry => images.ContainsKey(entry.Key)).Select(static entry => JsonSerializer.Serialize(new { file_name = entry.Key, text = entry.Value })));
    }

    /// <summary>The style to learn: the same faces in blue, for red and blue change places.</summary>
    public static void PrepareBlue(string folder, string source, int count)
    {
        Directory.CreateDirectory(folder);
        foreach (var line in File.ReadLines(Path.Combine(source, "metadata.jsonl")).Take(count))
        {
            using var row = JsonDocument.Parse(line);
            var (name, text) = (row.RootElement.GetProperty("file_name").GetString()!, row.RootElement.GetProperty("text").GetString()!);
            using var swapped = ImageFile.Read(Path.Combine(source, name)).ToTensor().flip(0);
            ImageFile.Write(PixelImage.FromTensor(swapped), Path.Combine(folder, name));
            File.WriteAllText(Path.ChangeExtension(Path.Combine(folder, name), ".txt"), text);
        }
    }

    private static Dictionary<string, string> Names(Stream stream, string[] kinds)
    {
        using var all = JsonDocument.Parse(stream);
        return all.RootElement.EnumerateArray()
            .Where(entry => kinds.Any(kind => entry.GetProperty("subcategory").GetString()!.StartsWith(kind, StringComparison.Ordinal)))
            .ToDictionary(static entry => entry.GetProperty("image").GetString()!, static entry => entry.GetProperty("name").GetString()!.ToLowerInvariant().Replace('-', ' '));
    }

    private static string Fetch(string folder)
    {
        if (Directory.GetFiles(folder, "emoji-datasource-google-*.tgz") is [var there, ..])
        {
            return there;
        }

        var npm = new ProcessStartInfo(OperatingSystem.IsWindows() ? "npm.cmd" : "npm", ["pack", "--silent", Package]) { WorkingDirectory = folder, RedirectStandardOutput = true, UseShellExecute = false };
        using var process = Process.Start(npm)!;
        process.WaitForExit();
        return process.ExitCode == 0 ? Directory.GetFiles(folder, "emoji-datasource-google-*.tgz")[0]
            : throw new PeftException("EmojiMissing", $"npm could not fetch {Package}.") { RecommendedAction = $"Put its archive (npm pack {Package}) into '{folder}'." };
    }
}
