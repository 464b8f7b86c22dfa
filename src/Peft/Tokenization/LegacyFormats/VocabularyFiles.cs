using System.Text.Json.Nodes;
using Peft.Tokenization.PreTokenizers;

namespace Peft.Tokenization.LegacyFormats;

/// <summary>
/// Makes the content of a tokenizer.json of the files that came before it: <c>vocab.json</c> with <c>merges.txt</c>, or <c>vocab.txt</c>.
/// What they don't say follows from the tokenizer's class.
/// </summary>
internal static class VocabularyFiles
{
    private const string ClipPattern = @"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

    /// <summary>The special tokens that a class has where its configuration doesn't name them.</summary>
    public static IReadOnlyDictionary<string, string> DefaultTokens(string? tokenizerClass, bool wordPieces) => Family(tokenizerClass, wordPieces) switch
    {
        "bert" => Tokens("unk_token", "[UNK]", "sep_token", "[SEP]", "pad_token", "[PAD]", "cls_token", "[CLS]", "mask_token", "[MASK]"),
        "roberta" => Tokens("bos_token", "<s>", "eos_token", "</s>", "unk_token", "<unk>", "sep_token", "</s>", "pad_token", "<pad>", "cls_token", "<s>", "mask_token", "<mask>"),
        "clip" => Tokens("bos_token", "<|startoftext|>", "eos_token", "<|endoftext|>", "unk_token", "<|endoftext|>", "pad_token", "<|endoftext|>"),
        "qwen2" => Tokens("eos_token", "<|endoftext|>", "unk_token", "<|endoftext|>", "pad_token", "<|endoftext|>"),
        _ => Tokens("bos_token", "<|endoftext|>", "eos_token", "<|endoftext|>", "unk_token", "<|endoftext|>"),
    };

    /// <summary>A byte-level tokenizer of <c>vocab.json</c> and <c>merges.txt</c>.</summary>
    public static JsonObject BytePair(JsonObject vocabulary, IEnumerable<string> merges, TokenizerConfiguration configuration)
    {
        var family = Family(configuration.TokenizerClass, wordPieces: false);
        var prefix = Flag(configuration, "add_prefix_space");
        var model = new JsonObject
        {
            ["type"] = "BPE",
            ["continuing_subword_prefix"] = "",
            ["end_of_word_suffix"] = family == "clip" ? "</w>" : "",
            ["unk_token"] = family == "clip" ? configuration.UnkToken : null,
            ["merges"] = new JsonArray([.. merges.Select(merge => (JsonNode)merge)]),
        };
        var result = new JsonObject
        {
            ["decoder"] = new JsonObject { ["type"] = "ByteLevel" },
            ["pre_tokenizer"] = ByteLevel(prefix, usePattern: true),
        };
        switch (family)
        {
            case "qwen2":
                result["normalizer"] = new JsonObject { ["type"] = "NFC" };
                result["pre_tokenizer"] = SplitThenBytes(Gpt4Scanner.SingleDigits);
                break;
            case "clip":
                result["normalizer"] = Sequence("normalizers", new JsonObject { ["type"] = "NFC" }, Replace(@"\s+", " "), new JsonObject { ["type"] = "Lowercase" });
                result["pre_tokenizer"] = Sequence("pretokenizers", Split(ClipPattern, "Removed", invert: true), ByteLevel(false, usePattern: true));
                break;
        }

        result["post_processor"] = family is "roberta" or "clip"
            ? new JsonObject
            {
                ["type"] = "RobertaProcessing",
                ["sep"] = Pair(vocabulary, configuration, family == "clip" ? "eos_token" : "sep_token"),
                ["cls"] = Pair(vocabulary, configuration, family == "clip" ? "bos_token" : "cls_token"),
                ["trim_offsets"] = family == "roberta",
                ["add_prefix_space"] = prefix,
            }
            : Template(vocabulary, configuration, Flag(configuration, "add_bos_token"), Flag(configuration, "add_eos_token"));
        model["vocab"] = vocabulary;
        result["model"] = model;
        return result;
    }

    /// <summary>A BERT tokenizer of the lines of <c>vocab.txt</c>.</summary>
    public static JsonObject WordPiece(IReadOnlyList<string> lines, TokenizerConfiguration configuration)
    {
        var vocabulary = new JsonObject();
        for (var id = 0; id < lines.Count; id++)
        {
            vocabulary[lines[id]] = id;
        }

        var strip = configuration.Root is { } root && root.TryGetProperty("strip_accents", out var value) ? JsonNode.Parse(value.GetRawText()) : null;
        JsonArray Parts(bool pair) => pair
            ? [Special("[CLS]", 0), Part("A", 0), Special("[SEP]", 0), Part("B", 1), Special("[SEP]", 1)]
            : [Special("[CLS]", 0), Part("A", 0), Special("[SEP]", 0)];
        return new JsonObject
        {
            ["normalizer"] = new JsonObject
            {
                ["type"] = "BertNormalizer",
                ["clean_text"] = true,
                ["handle_chinese_chars"] = Flag(configuration, "tokenize_chinese_chars", otherwise: true),
                ["strip_accents"] = strip,
                ["lowercase"] = Flag(configuration, "do_lower_case", otherwise: true),
            },
            ["pre_tokenizer"] = new JsonObject { ["type"] = "BertPreTokenizer" },
            ["decoder"] = new JsonObject { ["type"] = "WordPiece", ["prefix"] = "##", ["cleanup"] = true },
            ["post_processor"] = new JsonObject
            {
                ["type"] = "TemplateProcessing",
                ["single"] = Parts(pair: false),
                ["pair"] = Parts(pair: true),
                ["special_tokens"] = new JsonObject
                {
                    ["[CLS]"] = SpecialIds(vocabulary, "[CLS]", configuration.SpecialTokens.GetValueOrDefault("cls_token")),
                    ["[SEP]"] = SpecialIds(vocabulary, "[SEP]", configuration.SpecialTokens.GetValueOrDefault("sep_token")),
                },
            },
            ["model"] = new JsonObject
            {
                ["type"] = "WordPiece",
                ["unk_token"] = configuration.UnkToken ?? "[UNK]",
                ["continuing_subword_prefix"] = "##",
                ["max_input_chars_per_word"] = 100,
                ["vocab"] = vocabulary,
            },
        };
    }

    /// <summary>The lines of a merges file, without its version line.</summary>
    public static IEnumerable<string> MergeLines(string text) => Lines(text).Where(line => line.Length > 0 && !line.StartsWith("#version", StringComparison.Ordinal));

    /// <summary>The lines of a text, whatever ends them.</summary>
    public static IEnumerable<string> Lines(string text)
    {
        var lines = text.Split('\n');
        var count = lines[^1].Length == 0 ? lines.Length - 1 : lines.Length;
        return lines.Take(count).Select(line => line.EndsWith('\r') ? line[..^1] : line);
    }

    /// <summary>A Split on each pattern, then bytes.</summary>
    public static JsonObject SplitThenBytes(params IEnumerable<string> patterns) =>
        Sequence("pretokenizers", [.. patterns.Select(static pattern => Split(pattern, "Isolated", invert: false)), ByteLevel(false, usePattern: false)]);

    /// <summary>The ByteLevel pre-tokenizer.</summary>
    public static JsonObject ByteLevel(bool prefix, bool usePattern) =>
        new() { ["type"] = "ByteLevel", ["add_prefix_space"] = prefix, ["trim_offsets"] = true, ["use_regex"] = usePattern };

    /// <summary>A template that adds the begin and end tokens where they are asked for.</summary>
    public static JsonObject Template(JsonObject vocabulary, TokenizerConfiguration configuration, bool begin, bool end)
    {
        var specials = new JsonObject();
        var (bos, eos) = (begin ? configuration.BosToken : null, end ? configuration.EosToken : null);
        foreach (var token in new[] { bos, eos })
        {
            if (token is not null && !specials.ContainsKey(token))
            {
                specials[token] = SpecialIds(vocabulary, token, token);
            }
        }

        JsonArray Around(string sequence, int type)
        {
            var parts = new JsonArray();
            if (bos is not null)
            {
                parts.Add(Special(bos, type));
            }

            parts.Add(Part(sequence, type));
            if (eos is not null)
            {
                parts.Add(Special(eos, type));
            }

            return parts;
        }

        return new JsonObject
        {
            ["type"] = "TemplateProcessing",
            ["single"] = Around("A", 0),
            ["pair"] = new JsonArray([.. Around("A", 0).Concat(Around("B", 1)).Select(part => part!.DeepClone())]),
            ["special_tokens"] = specials,
        };
    }

    /// <summary>A list of components.</summary>
    public static JsonObject Sequence(string name, params JsonNode[] parts) => new() { ["type"] = "Sequence", [name] = new JsonArray(parts) };

    /// <summary>A flag of tokenizer_config.json.</summary>
    public static bool Flag(TokenizerConfiguration configuration, string name, bool otherwise = false) =>
        configuration.Root is { } root ? new JsonFields(root, "tokenizer_config.json").Boolean(name, otherwise) : otherwise;

    private static string Family(string? tokenizerClass, bool wordPieces)
    {
        var name = (tokenizerClass ?? "").Replace("TokenizerFast", "", StringComparison.Ordinal).Replace("Tokenizer", "", StringComparison.Ordinal);
        return wordPieces ? "bert" : name switch
        {
            "Roberta" or "Bart" or "Longformer" or "LED" or "MPNet" => "roberta",
            "CLIP" => "clip",
            "Qwen2" or "Qwen2VL" => "qwen2",
            _ => "gpt2",
        };
    }

    private static Dictionary<string, string> Tokens(params string[] pairs) =>
        pairs.Chunk(2).ToDictionary(pair => pair[0], pair => pair[1], StringComparer.Ordinal);

    private static JsonObject Split(string pattern, string behavior, bool invert) =>
        new() { ["type"] = "Split", ["pattern"] = new JsonObject { ["Regex"] = pattern }, ["behavior"] = behavior, ["invert"] = invert };

    private static JsonObject Replace(string pattern, string content) =>
        new() { ["type"] = "Replace", ["pattern"] = new JsonObject { ["Regex"] = pattern }, ["content"] = content };

    private static JsonObject Part(string id, int type) => new() { ["Sequence"] = new JsonObject { ["id"] = id, ["type_id"] = type } };

    private static JsonObject Special(string id, int type) => new() { ["SpecialToken"] = new JsonObject { ["id"] = id, ["type_id"] = type } };

    private static JsonObject SpecialIds(JsonObject vocabulary, string name, string? token) => new()
    {
        ["id"] = name,
        ["ids"] = new JsonArray(Id(vocabulary, token ?? name)),
        ["tokens"] = new JsonArray(token ?? name),
    };

    private static JsonArray Pair(JsonObject vocabulary, TokenizerConfiguration configuration, string name)
    {
        var token = configuration.SpecialTokens[name];
        return [token, Id(vocabulary, token)];
    }

    private static int Id(JsonObject vocabulary, string token) => vocabulary[token]?.GetValue<int>()
        ?? throw new PeftException("TokenizerFileInvalid", $"The tokenizer's vocabulary lacks its special token \"{token}\".");
}
