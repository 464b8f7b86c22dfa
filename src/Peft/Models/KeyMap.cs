using System.Globalization;
using System.Text.RegularExpressions;

namespace Peft.Models;

/// <summary>
/// Names that a family's files give to what the tree calls otherwise: parts of paths, at whole segments. A rule joins one name with one,
/// several in a file with one in the tree (<c>w1</c>, <c>w3</c> as <c>gate_up_proj</c>), or one in a file with several in the tree. <c>#</c>
/// in a file's name is the index of an expert, which the tree keeps as the outermost dimension.
/// </summary>
/// <param name="Tree">Names in the tree, in order along the outermost dimension of what one expert has.</param>
/// <param name="File">Names in a file, in the same order.</param>
public sealed record KeyRule(IReadOnlyList<string> Tree, IReadOnlyList<string> File)
{
    /// <summary>One name in the tree.</summary>
    /// <param name="tree">Such as <c>mlp.gate</c>.</param>
    /// <param name="file">Such as <c>block_sparse_moe.gate</c>; several are joined along the outermost dimension.</param>
    public KeyRule(string tree, params string[] file)
        : this([tree], file)
    {
    }
}

/// <summary>Where a piece of a parameter stands in a file.</summary>
/// <param name="Name">The tensor's name.</param>
/// <param name="Expert">Index in the parameter's outermost dimension; null for a parameter without experts.</param>
/// <param name="Start">First row of the piece within the parameter (within the expert).</param>
/// <param name="Size">Number of rows.</param>
/// <param name="FileStart">First row of the piece within the file's tensor.</param>
public readonly record struct FilePart(string Name, long? Expert, long Start, long Size, long FileStart);

/// <summary>What a name in a file is in the tree.</summary>
/// <param name="Path">The path in the tree.</param>
/// <param name="Expert">Which expert's; null for all.</param>
/// <param name="Part">Which of the names that are joined there.</param>
/// <param name="Parts">How many are joined.</param>
public readonly record struct TreeKey(string Path, int? Expert, int Part, int Parts);

/// <summary>How a family's files call what the tree calls otherwise, in both directions: what is read under a name is saved under it.</summary>
/// <param name="rules">Each may be followed in a file or not; the first rules are those of published files.</param>
public sealed class KeyMap(params IReadOnlyList<KeyRule> rules)
{
    private readonly IReadOnlyList<KeyRule> _rules = rules;

    /// <summary>Files use the tree's names.</summary>
    public static KeyMap Identity { get; } = new();

    /// <summary>Rules for weights that a file has for each expert by itself.</summary>
    internal IEnumerable<KeyRule> OfExperts => _rules.Where(static rule => rule.File[0].Contains('#', StringComparison.Ordinal));

    /// <summary>These rules and then those of another map, as for a language model in a model of several parts.</summary>
    internal KeyMap Then(KeyMap next) => new([.. _rules, .. next._rules]);

    /// <summary>The places where files may hold a parameter, published names first.</summary>
    /// <param name="path">The parameter's path.</param>
    /// <param name="shapeOf">Shape of the parameter at a path.</param>
    internal IEnumerable<IReadOnlyList<FilePart>> Places(string path, Func<string, IReadOnlyList<long>> shapeOf) =>
        Places(new FilePart(path, null, 0, shapeOf(path).FirstOrDefault(1), 0), path, 0, shapeOf);

    /// <summary>What a file's name (of a tensor or, in adapter files, of a module) is in the tree.</summary>
    /// <param name="name">The name in the file.</param>
    public TreeKey ToTree(string name)
    {
        ArgumentNullException.ThrowIfNull(name);
        var key = new TreeKey(name, null, 0, 1);

        // The last rule acted last on the way to the file, so it is undone first.
        foreach (var rule in _rules.Reverse())
        {
            for (var i = 0; i < rule.File.Count; i++)
            {
                var pattern = Regex.Escape(rule.File[i]).Replace(@"\#", "(?<expert>[0-9]{1,6})", StringComparison.Ordinal);
                pattern = pattern.EndsWith(@"\.weight", StringComparison.Ordinal) ? $@"{pattern[..^8]}(?:\.weight)?" : pattern;
                var match = Regex.Match(key.Path, $@"(?<=\A|\.){pattern}(?=\z|\.)", RegexOptions.CultureInvariant, TimeSpan.FromSeconds(1));
                if (match.Success && rule.Tree.Count == 1)
                {
                    var expert = match.Groups["expert"] is { Success: true } digits ? int.Parse(digits.Value, CultureInfo.InvariantCulture) : key.Expert;
                    key = new TreeKey(string.Concat(key.Path.AsSpan(0, match.Index), rule.Tree[0], key.Path.AsSpan(match.Index + match.Length)), expert, i, rule.File.Count);
                    break;
                }
            }
        }

        return key;
    }

    /// <summary>What the tree calls modules that files call so, by the ending of their path: one name, or several where files have it in several places.</summary>
    /// <param name="ending">Such as <c>query</c>.</param>
    internal IEnumerable<string> TreeNames(string ending) => _rules
        .Where(rule => rule is { Tree: [_], File: [var file] } && !file.Contains('#', StringComparison.Ordinal) && (file == ending || file.EndsWith("." + ending, StringComparison.Ordinal))).Select(static rule => rule.Tree[0]);

    private IEnumerable<IReadOnlyList<FilePart>> Places(FilePart whole, string path, int first, Func<string, IReadOnlyList<long>> shapeOf)
    {
        for (var i = first; i < _rules.Count; i++)
        {
            for (var part = 0; part < _rules[i].Tree.Count; part++)
            {
                if (Segments(whole.Name, _rules[i].Tree[part]) is not { } at)
                {
                    continue;
                }

                foreach (var place in _rules[i].File.Count == 1 && !_rules[i].File[0].Contains('#', StringComparison.Ordinal)
                    ? Places(Moved(whole, path, _rules[i], part, at, shapeOf), path, i + 1, shapeOf)
                    : [Joined(whole.Name, _rules[i], at, shapeOf(path))])
                {
                    yield return place;
                }
            }
        }

        yield return [whole];
    }

    private static FilePart Moved(FilePart whole, string path, KeyRule rule, int part, int at, Func<string, IReadOnlyList<long>> shapeOf) => whole with
    {
        Name = Replaced(whole.Name, at, rule.Tree[part], rule.File[0]),
        FileStart = rule.Tree.Take(part).Sum(sibling => shapeOf(Replaced(path, Segments(path, rule.Tree[part])!.Value, rule.Tree[part], sibling))[0]),
    };

    // What is joined has parts of one size.
    private static List<FilePart> Joined(string name, KeyRule rule, int at, IReadOnlyList<long> shape)
    {
        var hasExperts = rule.File[0].Contains('#', StringComparison.Ordinal);
        var size = shape[hasExperts ? 1 : 0] / rule.File.Count;
        var parts = new List<FilePart>();
        for (var expert = 0; expert < (hasExperts ? shape[0] : 1); expert++)
        {
            for (var i = 0; i < rule.File.Count; i++)
            {
                var own = rule.File[i].Replace("#", expert.ToString(CultureInfo.InvariantCulture), StringComparison.Ordinal);
                parts.Add(new FilePart(Replaced(name, at, rule.Tree[0], own), hasExperts ? expert : null, i * size, size, 0));
            }
        }

        return parts;
    }

    private static string Replaced(string name, int at, string old, string by) => string.Concat(name.AsSpan(0, at), by, name.AsSpan(at + old.Length));

    /// <summary>Where whole segments stand in a name, or null.</summary>
    private static int? Segments(string name, string segments)
    {
        for (var at = name.IndexOf(segments, StringComparison.Ordinal); at >= 0; at = name.IndexOf(segments, at + 1, StringComparison.Ordinal))
        {
            var end = at + segments.Length;
            if ((at == 0 || name[at - 1] == '.') && (end == name.Length || name[end] == '.'))
            {
                return at;
            }
        }

        return null;
    }
}
