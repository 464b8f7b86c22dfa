using Peft.Models;

namespace Peft.Adapters.Files;

/// <summary>Which keys of a file are which of an adapter's, in all the spellings that PEFT's releases and what wraps models have used.</summary>
/// <param name="Found">The file's key by the adapter's.</param>
/// <param name="Unexpected">Keys of the file that belong to nothing, sorted.</param>
/// <param name="Repeated">Keys of the file that are another name of what it holds under <c>Of</c> as well: PEFT writes saved modules and tied tables once more where it saves embeddings.</param>
internal sealed record AdapterKeys(IReadOnlyDictionary<string, string> Found, IReadOnlyList<string> Unexpected, IReadOnlyList<(string Key, string Of)> Repeated)
{
    /// <summary>The part of a key under which PEFT keeps what a saved module stands for: the base's own values, which it doesn't read.</summary>
    private const string Original = ".original_module.";

    /// <summary>What torch.compile and data parallelism put in front of a name, or between its parts.</summary>
    private static readonly string[] s_wrappers = ["_orig_mod.", "module."];

    private const string Inner = "model.language_model";

    /// <summary>How many keys a message names before it counts.</summary>
    private const int Shown = 3;

    /// <summary>Finds the keys of an adapter in a file. A key that stands as the adapter spells it comes before any other spelling of it.</summary>
    /// <param name="names">Keys of the file.</param>
    /// <param name="expected">Keys of the adapter.</param>
    /// <param name="adapter">The adapter's name, which some releases left in.</param>
    /// <param name="model">The model, whose family's files may call a module otherwise than its tree.</param>
    public static AdapterKeys Match(IEnumerable<string> names, IReadOnlySet<string> expected, string adapter, PretrainedModel model)
    {
        Dictionary<string, string> found = new(StringComparer.Ordinal);
        List<string> others = [];
        foreach (var name in names)
        {
            if (!expected.Contains(name) || !found.TryAdd(name, name))
            {
                others.Add(name);
            }
        }

        List<string> unexpected = [];
        List<(string, string)> repeated = [];
        foreach (var name in others.Where(static name => !name.Contains(Original, StringComparison.Ordinal)))
        {
            string[] spellings = [.. Spellings(name, adapter, model)];
            if (Array.Exists(spellings, spelling => expected.Contains(spelling) && found.TryAdd(spelling, name)))
            {
                continue;
            }

            if (spellings.Concat(spellings.SelectMany(spelling => OfOwner(spelling, model))).FirstOrDefault(found.ContainsKey) is { } twin)
            {
                repeated.Add((name, found[twin]));
            }
            else
            {
                unexpected.Add(name);
            }
        }

        unexpected.Sort(StringComparer.Ordinal);
        return new AdapterKeys(found, unexpected, repeated);
    }

    /// <summary>The key of the module that shares its weight with the one of this key.</summary>
    private static IEnumerable<string> OfOwner(string key, PretrainedModel model) =>
        from tie in model.TiedParameters
        let follower = AdapterFile.Prefix + Module(tie.Follower)
        where key.StartsWith(follower, StringComparison.Ordinal)
        select AdapterFile.Prefix + Module(tie.Owner) + key[follower.Length..];

    private static string Module(string parameter) => parameter[..(parameter.LastIndexOf('.') + 1)];

    /// <summary>A list for a message: the first few, and how many more there are.</summary>
    public static string Shorten(IReadOnlyList<string> keys) => keys.Count == 0 ? "none"
        : string.Join(", ", keys.Take(Shown)) + (keys.Count > Shown ? FormattableString.Invariant($" and {keys.Count - Shown} more") : "");

    /// <summary>What a key may mean: without wrappers, with the prefix that some writers leave out, without the adapter's name and the wrapper of saved modules.</summary>
    private static IEnumerable<string> Spellings(string name, string adapter, PretrainedModel model)
    {
        foreach (var spelling in Spellings(name, adapter))
        {
            yield return spelling;
            if (spelling.StartsWith(AdapterFile.Prefix, StringComparison.Ordinal))
            {
                var path = model.Keys.ToTree(spelling[AdapterFile.Prefix.Length..]).Path;
                yield return AdapterFile.Prefix + path;

                // The language model of a model of several parts stands deeper in the tree than the same model by itself.
                yield return AdapterFile.Prefix + (model.BackbonePath == Inner
                    ? Inner + "." + (path.StartsWith("model.", StringComparison.Ordinal) ? path["model.".Length..] : path)
                    : path.Replace(Inner + ".", "model.", StringComparison.Ordinal));
            }
        }
    }

    private static IEnumerable<string> Spellings(string name, string adapter)
    {
        var plain = name;
        foreach (var wrapper in s_wrappers)
        {
            plain = plain.StartsWith(wrapper, StringComparison.Ordinal) ? plain[wrapper.Length..] : plain;
            plain = plain.Replace("." + wrapper, ".", StringComparison.Ordinal);
        }

        foreach (var whole in new[] { plain, AdapterFile.Prefix + plain })
        {
            yield return whole;
            foreach (var named in new[] { adapter, "default" })
            {
                foreach (var spelling in Without(whole, named))
                {
                    yield return spelling;
                    yield return Without(spelling, "modules_to_save").FirstOrDefault(spelling);
                }
            }

            foreach (var spelling in Without(whole, "modules_to_save"))
            {
                yield return spelling;
            }
        }
    }

    /// <summary>The name with one of its parts left out, wherever that stands, the last first.</summary>
    private static IEnumerable<string> Without(string name, string part)
    {
        var parts = name.Split('.');
        for (var i = parts.Length - 1; i >= 0; i--)
        {
            if (parts[i] == part)
            {
                yield return string.Join('.', parts[..i].Concat(parts[(i + 1)..]));
            }
        }
    }
}
