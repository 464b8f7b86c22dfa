using System.Globalization;
using Peft.Tokenization.PreTokenizers;

namespace Peft.Tokenization.Tiktoken;

/// <summary>What an encoding of tiktoken has beside its ranks, and what the tokenizer classes that models bring as code of their own add to one.</summary>
internal sealed record TiktokenEncoding
{
    /// <summary>The token that ends a text in all of them.</summary>
    public const string EndOfText = "<|endoftext|>";

    private const string Contraction = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?";
    private const string O200k =
        @"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+" + Contraction
        + @"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*" + Contraction
        + @"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

    /// <summary>The tokens for code that came with StarCoder.</summary>
    private static readonly string[] s_code =
    [
        "<issue_start>", "<issue_comment>", "<issue_closed>", "<jupyter_start>", "<jupyter_text>", "<jupyter_code>", "<jupyter_output>",
        "<empty_output>", "<commit_before>", "<commit_msg>", "<commit_after>", "<reponame>",
    ];

    /// <summary>Encodings by the name that their files have, without <c>.tiktoken</c>.</summary>
    private static readonly Dictionary<string, TiktokenEncoding> s_byName = new(StringComparer.OrdinalIgnoreCase)
    {
        ["gpt2"] = new() { Placed = [(EndOfText, 50256)] },
        ["r50k_base"] = new() { Placed = [(EndOfText, 50256)] },
        ["p50k_base"] = new() { Placed = [(EndOfText, 50256)] },
        ["cl100k_base"] = new()
        {
            Pattern = Gpt4Scanner.ThreeDigits,
            Placed = [(EndOfText, 100257), ("<|fim_prefix|>", 100258), ("<|fim_middle|>", 100259), ("<|fim_suffix|>", 100260), ("<|endofprompt|>", 100276)],
        },
        ["o200k_base"] = new() { Pattern = O200k, Placed = [(EndOfText, 199999), ("<|endofprompt|>", 200018)] },
        ["qwen"] = new()
        {
            Pattern = Gpt4Scanner.SingleDigits,
            Composes = true,
            Behind = [EndOfText, "<|im_start|>", "<|im_end|>", .. Counted("<|extra_{0}|>", 0, 205)],
        },
        ["arcade100k"] = new()
        {
            Pattern = Gpt4Scanner.SingleDigits,
            Composes = true,
            Placed = [(EndOfText, 100257)],
            Behind =
            [
                "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<gh_stars>", "<filename>", .. s_code,
                "<|endofprompt|>", "<|im_start|>", "<|im_end|>", "<|pause|>", .. Counted("<|reg{0}|>", 0, 8), "<|extra0|>",
            ],
        },
    };

    /// <summary>Classes that come as code with a model and add to an encoding of OpenAI's, which they fetch by name.</summary>
    private static readonly Dictionary<string, TiktokenEncoding> s_byClass = new(StringComparer.OrdinalIgnoreCase)
    {
        ["XgenTokenizer"] = Salesforce([]),
        ["CodeGen25Tokenizer"] = Salesforce([.. Counted("<dummy_{0}>", 0, 4), "<sep>", "<eom>", .. Counted("<mask_{0}>", 1, 881).Reverse()]),
    };

    /// <summary>Names of the files whose encoding is known.</summary>
    public static IReadOnlyCollection<string> Names => s_byName.Keys;

    /// <summary>What splits a text before its bytes are joined. Default: GPT-2's pattern.</summary>
    public string Pattern { get; init; } = Gpt2Scanner.Pattern;

    /// <summary>Whether texts are composed first (Unicode's form C).</summary>
    public bool Composes { get; init; }

    /// <summary>The ranks that its code fetches by name instead of reading a file; null where a file has them.</summary>
    public string? RanksOf { get; init; }

    /// <summary>Tokens that join the ranks behind the others, in place of those that spell the same.</summary>
    public IReadOnlyList<string> Further { get; init; } = [];

    /// <summary>Tokens that are found in the text before it is split, with ids of their own.</summary>
    public IReadOnlyList<(string Text, int Id)> Placed { get; init; } = [];

    /// <summary>Tokens of the same kind whose ids count on behind all others.</summary>
    public IReadOnlyList<string> Behind { get; init; } = [];

    /// <summary>Whether decoding leaves all of these tokens out, and not only those with a name, as its own code does.</summary>
    public bool SkipsAll { get; init; } = true;

    /// <summary>The encoding of a class that needs no file, or null.</summary>
    /// <param name="className">The class, as tokenizer_config.json names it.</param>
    /// <param name="extends">False where the class is told to add nothing to OpenAI's encoding.</param>
    public static TiktokenEncoding? OfClass(string? className, bool extends) =>
        className is null || !s_byClass.TryGetValue(className, out var encoding) ? null
        : extends ? encoding
        : s_byName[encoding.RanksOf!] with { RanksOf = encoding.RanksOf };

    /// <summary>The encoding whose ranks a file of this name holds, or null.</summary>
    public static TiktokenEncoding? OfFile(string name) => s_byName.GetValueOrDefault(Path.GetFileNameWithoutExtension(name));

    /// <summary>GPT-2's ranks with longer runs of spaces and tabs, and tokens that fill a gap in code (XGen 2023, CodeGen 2.5).</summary>
    private static TiktokenEncoding Salesforce(IEnumerable<string> more) => new()
    {
        RanksOf = "gpt2",
        Further = [.. Runs(' ', 31), .. Runs('\t', 9)],
        SkipsAll = false,
        Placed = [(EndOfText, 50256)],
        Behind = ["<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>", "<filename>", "<gh_stars>", .. s_code, .. more],
    };

    private static IEnumerable<string> Runs(char character, int longest) => Enumerable.Range(0, longest - 1).Select(i => new string(character, longest - i));

    private static IEnumerable<string> Counted(string format, int first, int count) =>
        Enumerable.Range(first, count).Select(i => string.Format(CultureInfo.InvariantCulture, format, i));
}
