using System.Globalization;
using System.Text.Json.Nodes;
using Peft.Tokenization.Text;

namespace Peft.Tokenization.LegacyFormats;

/// <summary>Makes the files of a Hugging Face tokenizer of the metadata of a GGUF file, with every field that the tokenizers library insists on.</summary>
internal static class GgufVocabulary
{
    private const string Keys = "tokenizer.ggml.";

    /// <summary>Whether a file says that it has no tokenizer, or nothing of one.</summary>
    public static bool IsMissing(IReadOnlyDictionary<string, object> metadata) =>
        Text(metadata, "model") is "no_vocab" or "none" || !metadata.Keys.Any(static key => key.StartsWith(Keys, StringComparison.Ordinal));

    /// <summary>What the metadata says of the tokenizer besides its vocabulary.</summary>
    public static TokenizerConfiguration Configuration(IReadOnlyDictionary<string, object> metadata)
    {
        var tokens = Tokens(metadata);
        var named = new Dictionary<string, string>(StringComparer.Ordinal);
        foreach (var (name, key) in new[] { ("bos_token", "bos_token_id"), ("eos_token", "eos_token_id"), ("unk_token", "unknown_token_id"), ("pad_token", "padding_token_id") })
        {
            if (metadata.TryGetValue(Keys + key, out var value))
            {
                var id = Convert.ToInt64(value, CultureInfo.InvariantCulture);
                named[name] = id >= 0 && id < tokens.Length ? tokens[id] : throw Invalid($"{key} is {id}, and there are {tokens.Length} tokens");
            }
        }

        return new TokenizerConfiguration
        {
            SpecialTokens = named,
            ChatTemplates = metadata.TryGetValue("tokenizer.chat_template", out var template) && template is string text
                ? ChatTemplates.ChatTemplateSet.Single(text)
                : ChatTemplates.ChatTemplateSet.None,
        };
    }

    /// <summary>The content of a tokenizer_config.json that says the same.</summary>
    public static JsonObject Document(TokenizerConfiguration configuration)
    {
        var document = new JsonObject { ["tokenizer_class"] = "PreTrainedTokenizerFast", ["clean_up_tokenization_spaces"] = false };
        foreach (var (name, token) in configuration.SpecialTokens)
        {
            document[name] = token;
        }

        if (configuration.ChatTemplates.Source("default") is { } template)
        {
            document["chat_template"] = template;
        }

        return document;
    }

    /// <summary>The content of a tokenizer.json.</summary>
    public static JsonObject Build(IReadOnlyDictionary<string, object> metadata, TokenizerConfiguration configuration)
    {
        var model = Text(metadata, "model");
        var tokens = Tokens(metadata);
        var architecture = metadata.TryGetValue("general.architecture", out var family) ? family as string : null;
        var tokenizer = model switch
        {
            "gemma4" => Marked(metadata, tokens, configuration, isGemma: true, begins: true),
            "gpt2" when Text(metadata, "pre") == "sarvam-moe" => Marked(metadata, tokens, configuration, isGemma: true, Flag(metadata, "add_bos_token", false)),
            "gpt2" => ByteLevel(metadata, tokens, configuration),
            "llama" => Marked(metadata, tokens, configuration, architecture is "gemma" or "gemma2" or "gemma3", Flag(metadata, "add_bos_token", true)),
            _ => throw new NotSupportedByPeftException("GgufTokenizerNotSupported", $"The GGUF file has a tokenizer of the kind \"{model}\", which isn't supported."),
        };
        tokenizer["version"] = "1.0";
        foreach (var part in new[] { "truncation", "padding", "normalizer", "pre_tokenizer" })
        {
            tokenizer.TryAdd(part, null);
        }

        return tokenizer;
    }

    private static JsonObject ByteLevel(IReadOnlyDictionary<string, object> metadata, string[] tokens, TokenizerConfiguration configuration)
    {
        var vocabulary = Vocabulary(tokens.Select(token => IsSpelled(token) ? token : Spelled(token)));
        var splitting = GgufSplitting.Named(Text(metadata, "pre"));
        return new JsonObject
        {
            ["pre_tokenizer"] = splitting.PreTokenizer(),
            ["decoder"] = VocabularyFiles.ByteLevel(false, usePattern: true),
            ["post_processor"] = VocabularyFiles.Template(vocabulary, configuration, Flag(metadata, "add_bos_token", splitting.Begins), Flag(metadata, "add_eos_token", false)),
            ["added_tokens"] = Added(metadata, tokens, configuration, byteLevel: true),
            ["model"] = new JsonObject
            {
                ["type"] = "BPE",
                ["ignore_merges"] = splitting.IgnoresMerges,
                ["merges"] = new JsonArray([.. Strings(metadata, "merges").Select(merge => (JsonNode)merge)]),
                ["vocab"] = vocabulary,
            },
        };
    }

    /// <summary>Whole characters, with a mark for blanks.</summary>
    private static JsonObject Marked(IReadOnlyDictionary<string, object> metadata, string[] tokens, TokenizerConfiguration configuration, bool isGemma, bool begins)
    {
        if (isGemma)
        {
            // Runs of spaces are stored as spaces, and looked for as marks.
            tokens = Array.ConvertAll(tokens, token => token.Length > 1 && token.All(unit => unit == ' ') ? new string('\u2581', token.Length) : token);
        }

        var vocabulary = Vocabulary(tokens);
        var merges = metadata.ContainsKey(Keys + "merges")
            ? Strings(metadata, "merges").Select(merge => merge.Split(' ', 2)).Select(pair => (pair[0], pair[^1]))
            : Merges(tokens, isGemma ? [.. Enumerable.Range(0, tokens.Length).Select(id => -(double)id)] : Numbers(metadata, "scores", tokens.Length));
        var decoders = new List<JsonNode>
        {
            new JsonObject { ["type"] = "Replace", ["pattern"] = new JsonObject { ["String"] = "\u2581" }, ["content"] = " " },
            new JsonObject { ["type"] = "ByteFallback" },
            new JsonObject { ["type"] = "Fuse" },
        };
        if (!isGemma)
        {
            decoders.Add(new JsonObject { ["type"] = "Strip", ["content"] = " ", ["start"] = 1, ["stop"] = 0 });
        }

        var result = new JsonObject
        {
            ["decoder"] = VocabularyFiles.Sequence("decoders", [.. decoders]),
            ["post_processor"] = VocabularyFiles.Template(vocabulary, configuration, begins, Flag(metadata, "add_eos_token", false)),
            ["added_tokens"] = Added(metadata, tokens, configuration, byteLevel: false),
            ["model"] = new JsonObject
            {
                ["type"] = "BPE",
                ["fuse_unk"] = true,
                ["byte_fallback"] = true,
                ["merges"] = new JsonArray([.. merges.Select(merge => (JsonNode)new JsonArray(merge.Item1, merge.Item2))]),
                ["vocab"] = vocabulary,
            },
        };
        if (isGemma)
        {
            result["normalizer"] = new JsonObject { ["type"] = "Replace", ["pattern"] = new JsonObject { ["String"] = " " }, ["content"] = "\u2581" };
        }
        else
        {
            // The tokenizers library puts the prefix in whatever add_space_prefix says.
            result["pre_tokenizer"] = new JsonObject { ["type"] = "Metaspace", ["replacement"] = "\u2581", ["split"] = false, ["prepend_scheme"] = "first" };
        }

        return result;
    }

    /// <summary>
    /// The merges that a vocabulary with scores implies: every cut of a token into two others, by falling score, then longer left halves,
    /// then longer right halves first.
    /// </summary>
    private static IEnumerable<(string Left, string Right)> Merges(string[] tokens, double[] scores)
    {
        var ids = new Dictionary<string, int>(StringComparer.Ordinal);
        for (var id = 0; id < tokens.Length; id++)
        {
            ids[tokens[id]] = id;
        }

        var lookup = ids.GetAlternateLookup<ReadOnlySpan<char>>();
        var merges = new List<(string Left, string Right, double Score)>();
        foreach (var (token, id) in ids)
        {
            var local = new List<(int Left, int Right)>();
            for (var cut = 1; cut < token.Length; cut++)
            {
                if (!char.IsLowSurrogate(token[cut]) && lookup.TryGetValue(token.AsSpan(0, cut), out var left) && lookup.TryGetValue(token.AsSpan(cut), out var right))
                {
                    local.Add((left, right));
                }
            }

            local.Sort();
            merges.AddRange(local.Select(pair => (tokens[pair.Left], tokens[pair.Right], scores[id])));
        }

        return merges
            .OrderByDescending(merge => merge.Score)
            .ThenByDescending(merge => CodePoints.Count(merge.Left))
            .ThenByDescending(merge => CodePoints.Count(merge.Right))
            .Select(merge => (merge.Left, merge.Right));
    }

    private static JsonArray Added(IReadOnlyDictionary<string, object> metadata, string[] tokens, TokenizerConfiguration configuration, bool byteLevel)
    {
        var types = metadata.ContainsKey(Keys + "token_type") ? Numbers(metadata, "token_type", tokens.Length) : new double[tokens.Length];
        var named = configuration.SpecialTokens.Values.ToHashSet(StringComparer.Ordinal);
        var added = new JsonArray();
        for (var id = 0; id < tokens.Length; id++)
        {
            // In a byte-level vocabulary a control token in another alphabet is a mistake of the converter.
            var special = named.Contains(tokens[id]) || (types[id] == 3 && (!byteLevel || IsSpelled(tokens[id])));
            if (special || types[id] == 4)
            {
                added.Add(new JsonObject
                {
                    ["id"] = id,
                    ["content"] = tokens[id],
                    ["single_word"] = false,
                    ["lstrip"] = false,
                    ["rstrip"] = false,
                    ["normalized"] = false,
                    ["special"] = special,
                });
            }
        }

        return added;
    }

    private static JsonObject Vocabulary(IEnumerable<string> tokens)
    {
        var vocabulary = new JsonObject();
        var id = 0;
        foreach (var token in tokens)
        {
            vocabulary[token] = id++;
        }

        return vocabulary;
    }

    private static bool IsSpelled(string token) => token.All(unit => ByteLevelAlphabet.Byte(unit) >= 0);

    private static string Spelled(string token) =>
        string.Concat(System.Text.Encoding.UTF8.GetBytes(token).Select(value => ByteLevelAlphabet.Character(value)));

    private static string? Text(IReadOnlyDictionary<string, object> metadata, string key) => metadata.TryGetValue(Keys + key, out var value) ? value as string : null;

    private static string[] Tokens(IReadOnlyDictionary<string, object> metadata) => [.. Strings(metadata, "tokens")];

    private static IEnumerable<string> Strings(IReadOnlyDictionary<string, object> metadata, string key) =>
        metadata.TryGetValue(Keys + key, out var value) && value is IEnumerable<string> list ? list : throw Invalid($"it has no list {key}");

    private static double[] Numbers(IReadOnlyDictionary<string, object> metadata, string key, int count)
    {
        var numbers = metadata.TryGetValue(Keys + key, out var value) && value is Array list
            ? list.Cast<object>().Select(number => Convert.ToDouble(number, CultureInfo.InvariantCulture)).ToArray()
            : throw Invalid($"it has no list {key}");
        return numbers.Length == count ? numbers : throw Invalid($"{key} has {numbers.Length} entries, and there are {count} tokens");
    }

    private static bool Flag(IReadOnlyDictionary<string, object> metadata, string key, bool otherwise) =>
        metadata.TryGetValue(Keys + key, out var value) && value is bool flag ? flag : otherwise;

    private static PeftException Invalid(string what) => new("GgufTokenizerInvalid", $"The GGUF file's tokenizer can't be used: {what}.");
}
