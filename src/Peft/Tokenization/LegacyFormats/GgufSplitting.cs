using System.Text.Json.Nodes;
using Peft.Tokenization.PreTokenizers;

namespace Peft.Tokenization.LegacyFormats;

/// <summary>How a byte-level vocabulary in a GGUF file cuts texts before it merges, which <c>tokenizer.ggml.pre</c> names.</summary>
/// <param name="Names">llama.cpp's names for it; the first is the one that is written.</param>
/// <param name="Patterns">The patterns, each of which cuts what the ones before left, as the models' own tokenizers have them.</param>
internal sealed record GgufSplitting(string[] Names, params string[] Patterns)
{
    private const string Contraction = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
    private const string Digit = @"\p{N}";
    private const string ThreeDigits = @"\p{N}{1,3}";
    private const string Blanks = @"|\s*[\r\n]+|\s+(?!\S)|\s+";
    private const string Marked = @"[!""#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+";
    private const string Ideographs = "[一-龥\u0800-一가-\uD7FF]+";
    private const string Kana = "[一-龥぀-ゟ゠-ヿ]+";

    // Cased letters, but for a few scripts.
    private const string DeepseekLetters =
        @"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗ\x{1F59}\x{1F5B}\x{1F5D}\x{1F5F}-\x{1F7D}ᾀ-ᾴᾶ-ᾼ\x{1FBE}ῂ-ῄῆ-ῌῐ-\x{1FD3}ῖ-\x{1FDB}ῠ-Ῥῲ-ῴῶ-ῼ"
        + @"ℂℇℊ-ℓℕℙ-ℝℤ\x{2126}ℨ\x{212A}-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+";

    /// <summary>Whether a word that is a token is taken for it, however its letters would merge.</summary>
    public bool IgnoresMerges { get; init; }

    /// <summary>Whether texts begin with the first token where the file doesn't say.</summary>
    public bool Begins { get; init; }

    /// <summary>All that there are; of two with the same patterns the first is written.</summary>
    public static IReadOnlyList<GgufSplitting> All { get; } =
    [
        new(["gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "exaone4", "gigachat", "a.x-4.0", "mellum", "modern-bert", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de"], Gpt2Scanner.Pattern),
        new(["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"], Digit, Gpt2Scanner.Pattern),
        new(["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"], Gpt4Scanner.ThreeDigits) { IgnoresMerges = true, Begins = true },
        new(["dbrx", "smaug-bpe", "glm4", "chatglm-bpe"], Gpt4Scanner.ThreeDigits),
        new(["qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "stablelm2", "hunyuan", "solar-open", "grok-2"], Gpt4Scanner.SingleDigits),
        new(["qwen35"], Contraction + @"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*" + Blanks),
        new(["minicpm5"], ThreeDigits, Words(@"\p{N}+")) { IgnoresMerges = true },
        new(["laguna"], @"[^\n]+|[\n]+", Gpt4Scanner.SingleDigits),
        new(["ufakzeka"], @"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*" + Blanks),
        new(["seed-coder"], Contraction + @"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+" + Blanks),
        new(["bailingmoe", "bailingmoe2", "llada-moe"], @"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"),
        new(["exaone-moe"], Contraction + @"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"),
        new(["jais-2"], Contraction + @"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}"),
        new(["tekken"], Cased("", Digit)) { IgnoresMerges = true, Begins = true },
        new(["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"], Cased(Contraction + "?", ThreeDigits)),
        new(["granite-embed-multi-97m"], Cased(Contraction + "?", ThreeDigits)) { IgnoresMerges = true },
        new(["tiny_aya", "cohere2moe"], @"\d{1,3}(?=(?:\d{3})*\b)", Cased(Contraction + "?", ThreeDigits)),
        new(["youtu"], "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+", Cased(Contraction + "?", Digit)) { IgnoresMerges = true },
        new(["kimi-k2"], @"\p{Han}+|" + Cased(Contraction + "?", ThreeDigits, @"&&[^\p{Han}]", slash: "")),
        new(["deepseek-llm"], "[\r\n]", DeepseekLetters, @"\s?[!-/:-~！-／：-～‘-‟　-。]+", @"\s+$", Ideographs, @"\p{N}+"),
        new(["deepseek-coder"], "[\r\n]", @"\s?\p{L}+", @"\s?\p{P}+", Ideographs, Digit),
        new(["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"], ThreeDigits, Kana, Marked + @"[\r\n]*" + Blanks),
        new(["spark2_5"], ThreeDigits, Kana, Marked + @"|[\r\n]|\s+(?!\S)|\s+", Digit),
        new(["afmoe"],
            @"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))",
            @"[一-\x{9FFF}㐀-\x{4DBF}\x{F900}-\x{FAFF}\x{3040}-ゟ゠-ヿ\x{FF65}-\x{FF9F}\x{2F00}-\x{2FDF}\x{0E00}-\x{0E7F}\x{0E80}-\x{0EFF}\x{1780}-\x{17FF}\x{1000}-\x{109F}\x{AA60}-\x{AA7F}\x{A9E0}-\x{A9FF}가-\x{D7AF}\x{1100}-\x{11FF}]+",
            Marked + @"[\r\n]*" + Blanks),
        new(["falcon"], @"[\p{P}\$\+<=>\^~\|`]+", Gpt2Scanner.Pattern, "[0-9][0-9][0-9]"),
        new(["bloom", "poro-chat", "gpt3-finnish"], @" ?[^(\s|[.,!?…。，、।۔،])]+"),
        new(["viking"], @" ?[^(\s|[.,!?…。，、।۔،])]+", Digit),
        new(["superbpe"], @"\p{N}+", @"(?=(\d{3})+(?!\d))"),
        new(["chameleon"], "<sentinel:[0-9]+>", "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", @"([\t\n]|    |  )", Digit, @"[\p{P}!-/:-@\[-`{-~]", Gpt2Scanner.Pattern) { Begins = true },
        new(["default"], @"[\p{P}\$\+<=>\^~\|]+", Gpt2Scanner.Pattern, @"\p{N}+", "[0-9][0-9][0-9]"),
    ];

    /// <summary>The one of a name.</summary>
    /// <param name="name">The name; null where a file has none, which older converters left out.</param>
    /// <exception cref="NotSupportedByPeftException"><c>GgufTokenizerNotSupported</c>.</exception>
    public static GgufSplitting Named(string? name) => All.FirstOrDefault(splitting => splitting.Names.Contains(name ?? "default"))
        ?? throw new NotSupportedByPeftException("GgufTokenizerNotSupported", $"The GGUF file's tokenizer cuts texts as '{name}' does (tokenizer.ggml.pre), which isn't known.")
        {
            Target = name,
            RecommendedAction = "Use the model's folder in Hugging Face's layout, whose tokenizer.json says how texts are cut.",
        };

    /// <summary>The one that a tokenizer.json has, or null.</summary>
    /// <param name="document">The content of the file.</param>
    public static GgufSplitting? Of(JsonObject document)
    {
        string?[] patterns = [.. Parts(document["pre_tokenizer"]).Select(Pattern).Where(static pattern => pattern != "")];
        var ignores = (bool?)document["model"]?["ignore_merges"] ?? false;
        return All.Where(splitting => splitting.Patterns.SequenceEqual(patterns)).OrderBy(splitting => splitting.IgnoresMerges != ignores).FirstOrDefault();
    }

    /// <summary>The pre_tokenizer of a tokenizer.json.</summary>
    public JsonObject PreTokenizer() => Patterns is [Gpt2Scanner.Pattern]
        ? VocabularyFiles.ByteLevel(false, usePattern: true)
        : VocabularyFiles.SplitThenBytes(Patterns);

    /// <summary>The pre-tokenizers or normalizers that a part of a tokenizer.json is made of.</summary>
    public static IEnumerable<JsonObject> Parts(JsonNode? node) => node switch
    {
        JsonObject sequence when (string?)sequence["type"] == "Sequence" => (sequence["pretokenizers"] ?? sequence["normalizers"] as JsonNode) is JsonArray list ? list.SelectMany(Parts) : [],
        JsonObject single => [single],
        _ => [],
    };

    /// <summary>The pattern of a pre-tokenizer; empty where it cuts nothing, null where it is none that llama.cpp has.</summary>
    private static string? Pattern(JsonObject part) => (string?)part["type"] switch
    {
        // What is removed but what matches keeps the matches, and all of a text matches.
        "Split" when (string?)part["behavior"] == "Isolated" || ((string?)part["behavior"] == "Removed" && (bool?)part["invert"] == true) => (string?)part["pattern"]?["Regex"],
        "Digits" => (bool?)part["individual_digits"] == true ? Digit : @"\p{N}+",
        "Punctuation" when (string?)part["behavior"] == "Contiguous" => @"[\p{P}\$\+<=>\^~\|`]+",
        "ByteLevel" when (bool?)part["add_prefix_space"] != true => (bool?)part["use_regex"] == false ? "" : Gpt2Scanner.Pattern,
        _ => null,
    };

    private static string Words(string digits) => Contraction + @"|[^\r\n\p{L}\p{N}]?\p{L}+|" + digits + @"| ?[^\s\p{L}\p{N}]+[\r\n]*" + Blanks;

    /// <summary>Words that end where small letters are followed by a capital.</summary>
    private static string Cased(string contraction, string digits, string without = "", string slash = "/")
    {
        var (large, small) = ($@"[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}{without}]", $@"[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}{without}]");
        return $@"[^\r\n\p{{L}}\p{{N}}]?{large}*{small}+{contraction}|[^\r\n\p{{L}}\p{{N}}]?{large}+{small}*{contraction}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n{slash}]*{Blanks}";
    }
}
