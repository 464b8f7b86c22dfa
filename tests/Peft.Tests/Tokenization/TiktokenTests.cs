using System.Text;
using Peft.Tokenization;

namespace Peft.Tests.Tokenization;

/// <summary>Encodings of tiktoken: files of ranks, and the tokenizers that models bring as code over them, which never runs.</summary>
public sealed class TiktokenTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    public static TheoryData<string> Texts { get; } =
    [
        "", " ", "Hello, wörld! 👍🏽 don't", "    if (x) {\n\t\treturn 12345;\n\n\n    }   ", new string(' ', 77) + "x", new string('\t', 23) + "\n" + new string(' ', 5),
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "𝔘nicode ½ 日本語 ｶﾀｶﾅ\u00A0\u3000é", "a\r\n \r\n\r\n b", "=====--------!!!!!!!!?????",
    ];

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void Special_tokens_are_found_and_words_that_are_tokens_are_taken_whole()
    {
        Write("cl100k_base.tiktoken", ["aa", "abcd"]);
        var tokenizer = Tokenizer.FromFolder(_folder.Path);
        Assert.Equal([257], tokenizer.EncodeIds("abcd"));
        Assert.Equal(['a', 'b', 'c'], tokenizer.EncodeIds("abc").Select(static id => (char)id));
        Assert.Equal([100257, 256, 100276], tokenizer.EncodeIds("<|endoftext|>aa<|endofprompt|>"));
        Assert.Equal("aa", tokenizer.Decode([100257, 256, 100276]));
        Assert.Equal(100257, tokenizer.EosTokenId);
    }

    [Fact]
    public void The_leftmost_of_the_neighbours_of_the_lowest_rank_join_first()
    {
        var random = new Random(4);
        for (var trial = 0; trial < 20; trial++)
        {
            string Word(int longest) => string.Concat(Enumerable.Range(0, random.Next(2, longest)).Select(_ => "ab"[random.Next(2)]));
            string[] tokens = [.. Enumerable.Range(0, 30).Select(_ => Word(7)).Distinct()];
            Write("cl100k_base.tiktoken", tokens);
            var tokenizer = Tokenizer.FromFolder(_folder.Path);
            var ranks = tokens.Select(static (token, i) => (token, i + 256)).Append(("a", 'a')).Append(("b", 'b')).ToDictionary(static entry => entry.Item1, static entry => entry.Item2);
            for (var i = 0; i < 20; i++)
            {
                var word = Word(40);
                Assert.Equal(Joined(word, ranks), tokenizer.EncodeIds(word));
            }
        }
    }

    [Theory]
    [MemberData(nameof(Texts))]
    public void A_text_comes_back_from_a_files_tokens(string text)
    {
        Write("qwen.tiktoken", ["  ", "ab", "Hel", "He", "é"]);
        var tokenizer = Tokenizer.FromFile(Path.Combine(_folder.Path, "qwen.tiktoken"));
        Assert.Equal(text, tokenizer.Decode(tokenizer.EncodeIds(text)));
        Assert.Equal(text.Length, tokenizer.Encode(text).Offsets.Select(static offset => offset.End).DefaultIfEmpty(0).Last());
    }

    [Fact]
    public void Special_tokens_of_Qwen_count_behind_the_ranks_and_texts_are_composed()
    {
        Write("qwen.tiktoken", ["é"]);
        File.WriteAllText(Path.Combine(_folder.Path, "tokenizer_config.json"), """{ "tokenizer_class": "QWenTokenizer", "auto_map": { "AutoTokenizer": ["tokenization_qwen.QWenTokenizer", null] } }""");
        var tokenizer = Tokenizer.FromFolder(_folder.Path);
        Assert.Equal([258, 256, 259, 257], tokenizer.EncodeIds("<|im_start|>e\u0301<|im_end|><|endoftext|>"));
        Assert.Equal(257 + 3 + 204, tokenizer.TokenId("<|extra_204|>"));
    }

    [Theory]
    [InlineData("QQ== 0\nQQ== 1\n")]
    [InlineData("QQ==\n")]
    [InlineData("Q 0\n")]
    [InlineData("QQ== x\n")]
    [InlineData("QQ== 1 2\n")]
    [InlineData("\n\n")]
    public void A_broken_file_says_so(string content)
    {
        var path = Path.Combine(_folder.Path, "cl100k_base.tiktoken");
        File.WriteAllText(path, content);
        Assert.Equal("TokenizerFileInvalid", Assert.Throws<PeftException>(() => Tokenizer.FromFile(path)).ErrorId);
    }

    [Fact]
    public void Ranks_of_an_unknown_encoding_are_refused_by_name()
    {
        Write("other.tiktoken", []);
        var error = Assert.Throws<NotSupportedByPeftException>(() => Tokenizer.FromFolder(_folder.Path));
        Assert.Contains("cl100k_base", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Code_that_is_not_built_in_is_named_and_not_run()
    {
        File.WriteAllText(Path.Combine(_folder.Path, "tokenizer_config.json"), """{ "auto_map": { "AutoTokenizer": "someone/else--tokenization_own.OwnTokenizer" } }""");
        File.WriteAllText(Path.Combine(_folder.Path, "tokenization_own.py"), "raise SystemExit");
        var error = Assert.Throws<PeftException>(() => Tokenizer.FromFolder(_folder.Path));
        Assert.Equal("TokenizerNotFound", error.ErrorId);
        Assert.Contains("OwnTokenizer, code that isn't run", error.Message, StringComparison.Ordinal);
    }
#if MICROSOFT_ML_TOKENIZERS

    /// <summary>Ids that the publisher's own code gives.</summary>
    [Theory]
    [InlineData("int add(int a, int b) { return a + b; }\nπ", new[] { 600, 751, 7, 600, 257, 11, 493, 275, 8, 1391, 1441, 257, 1343, 275, 26, 1782, 198, 46582 })]
    [InlineData("<fim_prefix>abc<fim_suffix>xyz<fim_middle>", new[] { 50295, 39305, 50297, 5431, 89, 50296 })]
    [InlineData("prefix<mask_1>suffix<|endoftext|><sep><mask_1>", new[] { 40290, 51199, 37333, 844, 50256, 50317, 51199 })]
    public void CodeGen_2_5_has_the_publishers_ids(string text, int[] ids)
    {
        var tokenizer = OfClass("CodeGen25Tokenizer");
        Assert.Equal(ids, tokenizer.EncodeIds(text));
        Assert.Equal(text, tokenizer.Decode(ids, skipSpecialTokens: false));
        Assert.Equal(50256, tokenizer.EosTokenId);
        Assert.Equal(50318, tokenizer.TokenId("<eom>"));
        Assert.Equal("<mask_881>", tokenizer.TokenText(50319));
    }

    [Theory]
    [MemberData(nameof(Texts))]
    public void Texts_come_back_from_CodeGens_and_XGens_tokens_and_runs_of_spaces_are_one(string text)
    {
        foreach (var name in new[] { "CodeGen25Tokenizer", "XgenTokenizer" })
        {
            var tokenizer = OfClass(name);
            Assert.Equal(text, tokenizer.Decode(tokenizer.EncodeIds(text)));

            // Runs of 31 spaces down to two; the last space is the word's.
            Assert.Equal([50257 + 31 - 7, 2124], tokenizer.EncodeIds("        x"));
        }
    }

    /// <summary>Theirs splits UTF-16 units, so that letters beyond the basic plane are left to the round trips.</summary>
    [Theory]
    [MemberData(nameof(Texts))]
    public void Without_its_additions_it_is_Microsofts_encoding(string text)
    {
        var theirs = Microsoft.ML.Tokenizers.TiktokenTokenizer.CreateForModel("gpt2");
        text = string.Concat(text.Where(static unit => !char.IsSurrogate(unit)));
        Assert.Equal(theirs.EncodeToIds(text), OfClass("XgenTokenizer", """, "add_special_tokens": false""").EncodeIds(text));
    }

    [Fact]
    public void The_end_of_the_text_is_added_where_the_configuration_asks_and_the_files_are_saved_as_they_were()
    {
        var tokenizer = OfClass("CodeGen25Tokenizer", """, "add_eos_token": true, "pad_token": "<pad>" """);
        Assert.Equal([64, 50256], tokenizer.EncodeIds("a"));
        Assert.Equal(51200, tokenizer.PadTokenId);
        File.WriteAllText(Path.Combine(_folder.Path, "tokenization_codegen25.py"), "raise SystemExit");
        var other = Path.Combine(_folder.Path, "other");
        Tokenizer.FromFolder(_folder.Path).Save(other);
        Assert.Equal([64, 50256], Tokenizer.FromFolder(other).EncodeIds("a"));
        Assert.Equal("raise SystemExit", File.ReadAllText(Path.Combine(other, "tokenization_codegen25.py")));
    }

    private Tokenizer OfClass(string name, string more = "")
    {
        File.WriteAllText(
            Path.Combine(_folder.Path, "tokenizer_config.json"),
            $$"""{ "tokenizer_class": "{{name}}", "eos_token": "<|endoftext|>", "auto_map": { "AutoTokenizer": ["tokenization.{{name}}", null] }{{more}} }""");
        return Tokenizer.FromFolder(_folder.Path);
    }
#endif

    private static int[] Joined(string word, Dictionary<string, int> ranks)
    {
        var parts = ranks.ContainsKey(word) ? [word] : word.Select(static character => character.ToString()).ToList();
        while (true)
        {
            var pairs = Enumerable.Range(0, parts.Count - 1).Where(i => ranks.ContainsKey(parts[i] + parts[i + 1])).ToList();
            if (pairs.Count == 0)
            {
                return [.. parts.Select(part => ranks[part])];
            }

            var best = pairs.MinBy(i => ranks[parts[i] + parts[i + 1]]);
            parts[best] += parts[best + 1];
            parts.RemoveAt(best + 1);
        }
    }

    /// <summary>A file with every byte and then some tokens.</summary>
    private void Write(string name, IEnumerable<string> tokens) => File.WriteAllLines(
        Path.Combine(_folder.Path, name),
        Enumerable.Range(0, 256).Select(static b => new[] { (byte)b }).Concat(tokens.Select(Encoding.UTF8.GetBytes)).Select(static (bytes, rank) => $"{Convert.ToBase64String(bytes)} {rank}"));
}
