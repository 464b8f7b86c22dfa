using System.Text.Json.Nodes;

namespace Peft.Tests.Tokenization;

/// <summary>Details that random tokenizer files brought up; every expected value is what tokenizers 0.23.3 gives.</summary>
public class PeerDetailTests
{
    [Theory]
    [InlineData("NFC", "e\u0301\uFFFE", "é\uFFFE")]
    [InlineData("NFKD", "\uFFFEﬁ", "\uFFFEfi")]
    [InlineData("NFKC", "\u32FF\uA7F2", "\u32FF\uA7F2")]
    [InlineData("NFD", "\U00011938", "\U00011938")]
    [InlineData("NFD", "a\u0315\u08CA", "a\u0315\u08CA")]
    [InlineData("Lowercase", "\u1C89\uA7CB\uA7DC\U00010D50\U00016EA0", "\u1C8A\u0264\u019B\U00010D70\U00016EBB")]
    [InlineData("StripAccents", "a\u0301\u07FD\u1CF2", "a\u07FD")]
    public void NormalizersUseThePeersTablesOfCharacters(string type, string text, string expected) =>
        Assert.Equal(expected, Normalized(new JsonObject { ["type"] = type }, text));

    [Fact]
    public void BertKeepsFormatCharactersAndMarksThatItsTablesDoNotKnow()
    {
        var bert = new JsonObject { ["type"] = "BertNormalizer", ["clean_text"] = true, ["strip_accents"] = true, ["lowercase"] = false };

        Assert.Equal("a\u0890\u07FDe", Normalized(bert, "a\u0890\u200D\u07FDé"));
    }

    [Theory]
    [InlineData("""{"type": "Punctuation", "behavior": "Isolated"}""", "a\u166Db\u061Dc", "0 1 2")]
    [InlineData("""{"type": "BertPreTokenizer"}""", "a\U0001144Bb!", "0 4")]
    [InlineData("""{"type": "Digits", "individual_digits": true}""", "a\U00011DE0b", "0 1 3")]
    [InlineData("""{"type": "UnicodeScripts"}""", "\U0001D7D9\u061C", "0")]
    [InlineData("""{"type": "UnicodeScripts"}""", "\u0588\u0589\u058A\u0952\u0953\u0955", "1 2 3 4")]
    [InlineData("""{"type": "Split", "pattern": {"String": ""}, "behavior": "Isolated"}""", "ab", "0 1")]
    [InlineData("""{"type": "Split", "pattern": {"Regex": "[^\\W_]+"}, "behavior": "Isolated"}""", "ab²c", "0 2 3")]
    [InlineData("""{"type": "Split", "pattern": {"Regex": "\\w+"}, "behavior": "Isolated"}""", "ab²c!", "0 4")]
    [InlineData("""{"type": "Split", "pattern": {"Regex": "[[:lower:]]"}, "behavior": "Isolated"}""", "\u10FCA", "0 1")]
    public void PreTokenizersCutWhereThePeerCuts(string preTokenizer, string text, string starts)
    {
        var json = WordLevel();
        json["pre_tokenizer"] = JsonNode.Parse(preTokenizer);

        Assert.Equal(starts, string.Join(' ', TestTokenizers.FromJson(json).Encode(text).Offsets.Select(offset => offset.Start)));
    }

    [Theory]
    [InlineData("a  b", "1 3 2", "0-1 1-3 3-4")]
    [InlineData("<m>  b", "4 2", "0-5 5-6")]
    public void SpacesThatATokenTookAreNotReadAgain(string text, string ids, string offsets)
    {
        var json = WordLevel("a", "b");
        json["added_tokens"] = new JsonArray(Added(3, "  ", "lstrip"), Added(4, "<m>", "rstrip"));

        var encoding = TestTokenizers.FromJson(json).Encode(text);

        Assert.Equal(ids, string.Join(' ', encoding.Ids));
        Assert.Equal(offsets, string.Join(' ', encoding.Offsets.Select(offset => $"{offset.Start}-{offset.End}")));
    }

    [Fact]
    public void DroppedCharactersMoveTheOffsetsOfBytePieces()
    {
        var json = BytePieces("<0xC3>", "<0xA9>", "a");

        var encoding = TestTokenizers.FromJson(json).Encode("éऀa");

        Assert.Equal([0, 1, 2], encoding.Ids);
        Assert.Equal([(0, 1), (0, 1), (1, 2)], encoding.Offsets);
    }

    [Fact]
    public void BytePiecesOvertakeAnUnknownTokenThatWaits()
    {
        var json = BytePieces("<0xC3>", "<0xA9>", "a", "<unk>");
        json["model"]!["unk_token"] = "<unk>";

        var encoding = TestTokenizers.FromJson(json).Encode("ऀéa");

        Assert.Equal([0, 1, 3, 2], encoding.Ids);
        Assert.Equal([(0, 1), (0, 1), (0, 2), (2, 3)], encoding.Offsets);
    }

    [Fact]
    public void NewTokensAreNumberedFromTheSizeOfAVocabularyWithGaps()
    {
        var json = WordLevel();
        json["model"]!["vocab"] = new JsonObject { ["<unk>"] = 0, ["b"] = 10 };
        json["added_tokens"] = new JsonArray(Added(10, "b"), Added(11, "x"), Added(12, "y"));
        var tokenizer = TestTokenizers.FromJson(json);

        Assert.Equal([10, 2, 3], new[] { "b", "x", "y" }.Select(token => tokenizer.TokenId(token)!.Value));
    }

    [Fact]
    public void RobertaGivesTypeZeroToTheOverflowOfPairsToo()
    {
        var json = WordLevel("a", "b");
        json["pre_tokenizer"] = new JsonObject { ["type"] = "WhitespaceSplit" };
        json["post_processor"] = new JsonObject { ["type"] = "RobertaProcessing", ["sep"] = new JsonArray("a", 1), ["cls"] = new JsonArray("b", 2), ["trim_offsets"] = false };
        json["truncation"] = new JsonObject { ["max_length"] = 6, ["strategy"] = "OnlySecond", ["stride"] = 0, ["direction"] = "Right" };

        var encoding = TestTokenizers.FromJson(json).Encode("a", "b b a");

        Assert.Equal(["2 1 1 1 2 1", "2 1 1 1 1 1"], encoding.Overflowing.Select(part => string.Join(' ', part.Ids)));
        Assert.All(encoding.Overflowing.SelectMany(part => part.TypeIds), type => Assert.Equal(0, type));
    }

    [Theory]
    [InlineData("""{"type": "BPEDecoder", "suffix": ""}""", " a  b b")]
    [InlineData("""{"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "", "cleanup": true}""", " a  b ")]
    public void AnEmptyStringIsReplacedAroundEveryCharacter(string decoder, string expected)
    {
        var json = WordLevel("a", "b");
        json["decoder"] = JsonNode.Parse(decoder);

        Assert.Equal(expected, TestTokenizers.FromJson(json).Decode([1, 2, 2]));
    }

    private static string Normalized(JsonObject normalizer, string text)
    {
        var json = TestTokenizers.BytesJson();
        json["normalizer"] = normalizer.DeepClone();
        var tokenizer = TestTokenizers.FromJson(json);
        return tokenizer.Decode(tokenizer.EncodeIds(text));
    }

    private static JsonObject Added(int id, string content, string? flag = null)
    {
        var token = new JsonObject { ["id"] = id, ["content"] = content, ["normalized"] = false, ["special"] = false };
        if (flag is not null)
        {
            token[flag] = true;
        }

        return token;
    }

    private static JsonObject WordLevel(params string[] tokens)
    {
        var vocabulary = new JsonObject { ["<unk>"] = 0 };
        foreach (var token in tokens)
        {
            vocabulary[token] = vocabulary.Count;
        }

        return new JsonObject { ["model"] = new JsonObject { ["type"] = "WordLevel", ["unk_token"] = "<unk>", ["vocab"] = vocabulary } };
    }

    private static JsonObject BytePieces(params string[] tokens)
    {
        var vocabulary = new JsonObject();
        foreach (var token in tokens)
        {
            vocabulary[token] = vocabulary.Count;
        }

        return new JsonObject { ["model"] = new JsonObject { ["type"] = "BPE", ["byte_fallback"] = true, ["vocab"] = vocabulary, ["merges"] = new JsonArray() } };
    }
}
