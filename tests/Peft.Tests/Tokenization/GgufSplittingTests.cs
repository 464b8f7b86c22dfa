using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using Peft.Tensors.Gguf;
using Peft.Tests.Peer;
using Peft.Tokenization;
using Peft.Tokenization.LegacyFormats;
using Peft.Tokenization.Text;

namespace Peft.Tests.Tokenization;

/// <summary>What <c>tokenizer.ggml.pre</c> names, held to llama.cpp: with a vocabulary that has every short part of a text, tokens are the words that it is cut into.</summary>
public sealed class GgufSplittingTests : IDisposable
{
    private const int Longest = 18;
    private const string CasedText = "CamelCase HTTPServer iPhone x_y";

    // Newer than the llama.cpp of the tests.
    private static readonly string[] s_newer = ["spark2_5", "hy_v4", "ufakzeka"];

    // Their classes of capitals and small letters it takes for all letters; the models' own tokenizers don't.
    private static readonly string[] s_caseless = ["youtu", "tiny_aya", "cohere2moe", "kimi-k2"];

    private static readonly string[] s_texts =
    [
        "It's what they'LL say: I'd've 'done' it", "12 345 6789 1234567 x1y22", "  two  blanks,\ttab\n\nlines \r\n end  ", CasedText,
        "a+b=c; (d) [e] {f} <g/> $5.00 `h`", "...!!! ?? /path/to //x\n\n/y\n", "\u65E5\u672C\u8A9E\u306E\u30C6\u30AD\u30B9\u30C8 \u4E2D\u6587123", "\uD55C\uAD6D\uC5B4 \uB9D0",
        "\u043F\u0440\u0438\u0432\u0435\u0442 \u043C\u0438\u0440, stra\u00DFe na\u00EFve", "\uD83D\uDE42\uD83D\uDE80 ok", "#tag @user .net !x -y", "\n", " \n x", "a  \n b   c",
    ];

    private readonly TemporaryFolder _folder = new();

    public static TheoryData<string> Names { get; } = [.. GgufSplitting.All.SelectMany(static splitting => splitting.Names)];

    public void Dispose() => _folder.Dispose();

    [Theory]
    [MemberData(nameof(Names))]
    public void Texts_are_cut_as_llama_cpp_cuts_them(string name)
    {
        if (!LlamaCpp.IsThere)
        {
            return;
        }

        var file = Path.Combine(_folder.Path, "vocabulary.gguf");
        GgufWriter.Write(file, ByteLevel(name), []);
        string[] texts = [.. s_texts.Where(text => text != CasedText || !s_caseless.Contains(name))];
        var theirs = LlamaCpp.TokensOf(file, texts);
        if (s_newer.Contains(name))
        {
            Assert.Null(theirs);
            return;
        }

        Alike(file, texts, theirs);
    }

    [Theory]
    [InlineData("spark2_5", "a \n\nb 12345", "a| \n|\n|b| |1|2|3|4|5")]
    [InlineData("hy_v4", "a \n\nb 12345", "a| \n\n|b| |123|45")]
    [InlineData("ufakzeka", "Ali'de 12", "Ali|'de| |1|2")]
    [InlineData("youtu", CasedText, "Camel|Case| HTTPServer| i|Phone| x|_y")]
    [InlineData("tiny_aya", "1234567 i'll", "1|234|567| i'll")]
    [InlineData("kimi-k2", "\u4E2D\u6587Hello World", "\u4E2D\u6587|Hello| World")]
    [InlineData("afmoe", "12345", "12|345")]
    public void Texts_are_cut_by_the_patterns_of_a_name(string name, string text, string words)
    {
        var file = Path.Combine(_folder.Path, "vocabulary.gguf");
        GgufWriter.Write(file, ByteLevel(name, [text]), []);
        using var read = GgufFile.Open(file);
        var tokenizer = Tokenizer.FromGguf(read.Metadata);
        Assert.Equal(words, Words(tokenizer, tokenizer.EncodeIds(text).Where(static id => id > 0)));
    }

    [Theory]
    [MemberData(nameof(Names))]
    public void What_is_read_is_written_under_a_name_that_cuts_alike(string name)
    {
        var splitting = GgufSplitting.Named(name);
        var written = GgufSplitting.Of(new JsonObject { ["pre_tokenizer"] = splitting.PreTokenizer(), ["model"] = new JsonObject { ["ignore_merges"] = splitting.IgnoresMerges } });
        Assert.Equal(splitting.Patterns, written?.Patterns);
        Assert.Equal(splitting.IgnoresMerges, written?.IgnoresMerges);
    }

    [Fact]
    public void Whole_characters_merge_by_merges_in_a_vocabulary_of_Gemma_4()
    {
        if (!LlamaCpp.IsThere)
        {
            return;
        }

        var file = Path.Combine(_folder.Path, "vocabulary.gguf");
        string[] characters = [.. s_texts.SelectMany(Marked).Distinct()];
        string[] symbols = [.. Enumerable.Range(0, 256).Select(static value => $"<0x{value:X2}>"), .. characters];
        GgufWriter.Write(file, Vocabulary("gemma4", "gemma4", symbols, Marked, [.. s_texts.SelectMany(static text => Regex.Split(text, "(\n+)"))]), []);
        string[] texts = [.. s_texts, "\u03A9mega \uD83E\uDD80\n\n\n"];
        Alike(file, texts, LlamaCpp.TokensOf(file, texts));

        // And so as it is written again.
        var again = Path.Combine(_folder.Path, "again.gguf");
        using var read = GgufFile.Open(file);
        var tokenizer = Tokenizer.FromGguf(read.Metadata);
        GgufWriter.Write(again, [("general.architecture", "gemma4"), .. GgufVocabularyWriter.Metadata(tokenizer, tokenizer.Vocabulary().Count, "gemma4", null)], []);
        using var written = GgufFile.Open(again);
        Assert.Equal("gemma4", written.Metadata["tokenizer.ggml.model"]);
        Alike(again, texts, LlamaCpp.TokensOf(again, texts));

        static string[] Marked(string text) => [.. text.Replace(' ', '\u2581').EnumerateRunes().Select(static rune => rune.ToString())];
    }

    [Fact]
    public void A_name_that_is_not_known_is_refused_with_it()
    {
        var file = Path.Combine(_folder.Path, "vocabulary.gguf");
        GgufWriter.Write(file, ByteLevel("nobody-knows"), []);
        using var read = GgufFile.Open(file);
        var error = Assert.Throws<NotSupportedByPeftException>(() => Tokenizer.FromGguf(read.Metadata));
        Assert.Equal("GgufTokenizerNotSupported", error.ErrorId);
        Assert.Contains("'nobody-knows'", error.Message, StringComparison.Ordinal);
    }

    private static void Alike(string file, string[] texts, int[][]? theirs)
    {
        using var read = GgufFile.Open(file);
        var tokenizer = Tokenizer.FromGguf(read.Metadata);
        Assert.NotNull(theirs);
        for (var i = 0; i < texts.Length; i++)
        {
            var ours = tokenizer.EncodeIds(texts[i]);
            Assert.True(ours.SequenceEqual(theirs[i]), $"{texts[i]}: {Words(tokenizer, ours)} here, {Words(tokenizer, theirs[i])} there");
        }
    }

    private static string Words(Tokenizer tokenizer, IEnumerable<int> ids) => string.Join('|', ids.Select(id => tokenizer.Decode([id])));

    private static List<(string Key, object Value)> ByteLevel(string name, string[]? texts = null) =>
        Vocabulary("gpt2", name, [.. Enumerable.Range(0, 256).Select(static value => ByteLevelAlphabet.Character((byte)value).ToString())],
            static text => [.. System.Text.Encoding.UTF8.GetBytes(text).Select(static value => ByteLevelAlphabet.Character(value).ToString())], texts ?? s_texts);

    /// <summary>Every part of the texts up to a length, with every way to merge it, the shortest first.</summary>
    private static List<(string Key, object Value)> Vocabulary(string model, string name, string[] symbols, Func<string, string[]> spell, string[] texts)
    {
        var parts = new HashSet<(int Length, string Text)>();
        var merges = new HashSet<(int Length, string Merge)>();
        foreach (var units in texts.Select(spell))
        {
            for (var length = 2; length <= Longest; length++)
            {
                for (var start = 0; start + length <= units.Length; start++)
                {
                    parts.Add((length, string.Concat(units[start..(start + length)])));
                    for (var cut = 1; cut < length; cut++)
                    {
                        merges.Add((length, $"{string.Concat(units[start..(start + cut)])} {string.Concat(units[(start + cut)..(start + length)])}"));
                    }
                }
            }
        }

        string[] tokens = ["<s>", .. symbols, .. parts.OrderBy(static part => part.Length).Select(static part => part.Text)];
        return
        [
            ("general.architecture", "llama"),
            ("tokenizer.ggml.model", model),
            ("tokenizer.ggml.pre", name),
            ("tokenizer.ggml.tokens", tokens),
            ("tokenizer.ggml.token_type", tokens.Select(static (_, id) => id == 0 ? 3 : 1).ToArray()),
            ("tokenizer.ggml.merges", merges.OrderBy(static merge => merge.Length).Select(static merge => merge.Merge).ToArray()),
            ("tokenizer.ggml.bos_token_id", 0u),
            ("tokenizer.ggml.eos_token_id", 0u),
        ];
    }
}
