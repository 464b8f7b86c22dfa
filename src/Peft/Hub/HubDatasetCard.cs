using System.IO.Enumeration;
using YamlDotNet.Core;
using YamlDotNet.RepresentationModel;

namespace Peft.Hub;

/// <summary>
/// What the front matter of a data set's README.md says of its files: <c>configs:</c> with a name and <c>data_files:</c>, which are a path, paths, or a path for each split.
/// </summary>
internal static class HubDatasetCard
{
    private const string Fence = "---";
    private const int MaxDepth = 64;

    /// <summary>The parts that a card names.</summary>
    /// <param name="card">The README's text.</param>
    /// <param name="files">The repository's files.</param>
    /// <returns>Each file with the part that it belongs to; none where the card says nothing of files.</returns>
    public static IReadOnlyList<((string Subset, string Split) Part, HubFile File)> PartsOf(string card, IReadOnlyList<HubFile> files)
    {
        try
        {
            return [.. Configs(card).SelectMany(config => PartsOf(config, files))];
        }
        catch (Exception error) when (error is YamlException or InvalidOperationException or ArgumentException)
        {
            // A card is written for people first, and YAML's reader has no one kind of error; names of files still tell.
            return [];
        }
    }

    private static IEnumerable<YamlMappingNode> Configs(string card)
    {
        var lines = card.ReplaceLineEndings("\n").Split('\n');
        var end = lines.Length > 0 && lines[0].TrimEnd() == Fence ? Array.FindIndex(lines, 1, static line => line.TrimEnd() == Fence) : -1;
        if (end < 0)
        {
            return [];
        }

        var text = string.Join('\n', lines[1..end]);
        if (IsDeep(text))
        {
            return [];
        }

        var yaml = new YamlStream();
        yaml.Load(new StringReader(text));
        return yaml.Documents is [{ RootNode: YamlMappingNode root }, ..] && Child(root, "configs") is YamlSequenceNode configs ? configs.OfType<YamlMappingNode>() : [];
    }

    /// <summary>Whether values lie deeper in each other than any card has them: reading them calls itself as deep, and a full stack ends the process.</summary>
    private static bool IsDeep(string text)
    {
        var depth = 0;
        for (var parser = new Parser(new StringReader(text)); depth <= MaxDepth && parser.MoveNext();)
        {
            depth += parser.Current!.NestingIncrease;
        }

        return depth > MaxDepth;
    }

    private static IEnumerable<((string, string), HubFile)> PartsOf(YamlMappingNode config, IReadOnlyList<HubFile> files)
    {
        var subset = Text(Child(config, "config_name")) is { } name && name != "default" ? name : "";
        var folder = Text(Child(config, "data_dir")) is { } within ? within.Trim('/') + "/" : "";
        var entries = Child(config, "data_files") switch
        {
            YamlSequenceNode list when list.Children.All(static item => item is YamlMappingNode) =>
                list.OfType<YamlMappingNode>().Select(item => (Split: Text(Child(item, "split")) ?? "train", Paths: Texts(Child(item, "path")))),
            YamlMappingNode table => table.Children.Select(static entry => (Split: Text(entry.Key) ?? "train", Paths: Texts(entry.Value))),
            { } paths => [("train", Texts(paths))],
            _ => [],
        };
        return from entry in entries
               from file in files
               where entry.Paths.Any(pattern => Matches(folder + pattern, file.Path))
               select ((subset, entry.Split), file);
    }

    /// <summary>A glob in which <c>**</c> and <c>*</c> stand for anything.</summary>
    private static bool Matches(string pattern, string path) =>
        FileSystemName.MatchesSimpleExpression(pattern.Replace("**/", "*", StringComparison.Ordinal).Replace("**", "*", StringComparison.Ordinal), path);

    private static YamlNode? Child(YamlMappingNode node, string name) => node.Children.TryGetValue(new YamlScalarNode(name), out var value) ? value : null;

    private static string? Text(YamlNode? node) => (node as YamlScalarNode)?.Value;

    private static string[] Texts(YamlNode? node) => node switch
    {
        YamlScalarNode { Value: { } value } => [value],
        YamlSequenceNode list => [.. list.Children.Select(Text).OfType<string>()],
        _ => [],
    };
}
