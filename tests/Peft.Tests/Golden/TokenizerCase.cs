using System.Text;
using System.Text.Json;
using Peft.Tokenization;

namespace Peft.Tests.Golden;

/// <summary>Runs one case of the tokenizers' domain; what kind it is follows from the files it holds.</summary>
internal sealed partial class TokenizerCase
{
    private readonly StringBuilder _differences = new();
    private int _count;

    /// <summary>Runs a case and fails with the first differences.</summary>
    public static void Run(string folder)
    {
        var run = new TokenizerCase();
        var known = false;
        var tokenizerFile = Path.Combine(folder, "tokenizer.json");
        var encodings = Path.Combine(folder, "encodings.json");
        if (File.Exists(tokenizerFile) && File.Exists(encodings))
        {
            known = true;
            run.Encodings(Tokenizer.FromFile(tokenizerFile), Load(encodings));
        }

        var model = Directory.EnumerateFiles(folder, "*.model").FirstOrDefault();
        if (model is not null && File.Exists(encodings))
        {
            known = true;
            run.SentencePiece(Tokenizer.FromFile(model), Load(encodings));
        }
        else if (!File.Exists(tokenizerFile) && File.Exists(encodings))
        {
            known = true;
            run.Called(Tokenizer.FromFolder(folder), Load(encodings));
        }

        var auto = Path.Combine(folder, "auto.json");
        if (model is null && File.Exists(auto) && !Load(auto).TryGetProperty("error", out _))
        {
            run.Auto(Tokenizer.FromFolder(folder), Load(auto));
        }

        if (File.Exists(Path.Combine(folder, "normalizers.json")))
        {
            known = true;
            run.Components(folder);
        }

        if (File.Exists(Path.Combine(folder, "renderings.json")))
        {
            known = true;
            run.Templates(folder);
        }

        Assert.True(known, $"nobody knows how to run the case {folder}");
        run.Finish();
    }

    internal static JsonElement Load(string path) => JsonDocument.Parse(File.ReadAllBytes(path)).RootElement;

    private void Finish() => Assert.True(_count == 0, $"{_count} differences:\n{_differences}");

    private void Encodings(Tokenizer tokenizer, JsonElement record)
    {
        foreach (var row in Rows(record, "strings"))
        {
            String(tokenizer, row);
        }

        foreach (var row in Rows(record, "pairs"))
        {
            var (a, b) = (row.GetProperty("a").GetString()!, row.GetProperty("b").GetString()!);
            Fields($"pair {Show(a)} {Show(b)}", () => tokenizer.Encode(a, b), row, a, b);
        }

        foreach (var row in Rows(record, "pretokenized"))
        {
            var words = row.GetProperty("words").EnumerateArray().Select(word => word.GetString()!).ToArray();
            Fields("words", () => tokenizer.EncodeWords(words), row, words);
        }

        foreach (var row in Rows(record, "sequences"))
        {
            var ids = Integers(row.GetProperty("ids"));
            Same($"decode {row.GetProperty("ids")}", row.GetProperty("decoded"), () => tokenizer.Decode(ids));
            Same($"decode with special {row.GetProperty("ids")}", row.GetProperty("decoded_with_special"), () => tokenizer.Decode(ids, skipSpecialTokens: false));
        }

        foreach (var row in Rows(record, "streams"))
        {
            Stream(tokenizer, row);
        }
    }

    private void String(Tokenizer tokenizer, JsonElement row)
    {
        var text = row.GetProperty("text").GetString()!;
        var what = Show(text);
        Fields(what, () => tokenizer.Encode(text, addSpecialTokens: false), row, text);
        var marked = row;
        if (row.TryGetProperty("special", out var special))
        {
            marked = special;
            Fields(what + " with special tokens", () => tokenizer.Encode(text), special, text);
        }

        var ids = Integers(marked.GetProperty("ids"));
        Same(what + " ids alone", Json(ids), () => Json(tokenizer.EncodeIds(text)));
        if (row.TryGetProperty("decoded", out var decoded))
        {
            Same(what + " decoded", decoded, () => tokenizer.Decode(ids));
            Same(what + " decoded with special", row.TryGetProperty("decoded_with_special", out var kept) ? kept : decoded,
                () => tokenizer.Decode(ids, skipSpecialTokens: false));
        }
    }

    private void Fields(string what, Func<TokenEncoding> encode, JsonElement expected, params string[] texts)
    {
        TokenEncoding encoding;
        try
        {
            encoding = encode();
        }
        catch (Exception error) when (error is not NotSupportedByPeftException)
        {
            Report(what, "an encoding", error.ToString());
            return;
        }

        Check("ids", () => Json(encoding.Ids));
        Check("tokens", () => JsonSerializer.SerializeToElement(encoding.Tokens));
        Check("type_ids", () => Json(encoding.TypeIds));
        Check("special_tokens_mask", () => Json(encoding.SpecialTokensMask));
        Check("attention_mask", () => Json(encoding.AttentionMask));
        Check("word_ids", () => JsonSerializer.SerializeToElement(encoding.WordIds.Select(id => id < 0 ? (int?)null : id)));
        Check("sequence_ids", () => JsonSerializer.SerializeToElement(encoding.SequenceIds.Select(id => id < 0 ? (int?)null : id)));
        Check("offsets", () => Json(CodePoints(encoding, texts)));

        void Check(string name, Func<JsonElement> value)
        {
            if (expected.TryGetProperty(name, out var wanted))
            {
                Same($"{what}: {name}", wanted, value);
            }
        }
    }

    /// <summary>Flat offsets in code points: of the text of each token's sequence, or of its word where words were given.</summary>
    private static int[] CodePoints(TokenEncoding encoding, string[] texts)
    {
        var words = texts.Length > 2;
        var flat = new int[encoding.Count * 2];
        for (var i = 0; i < encoding.Count; i++)
        {
            var index = words ? encoding.WordIds[i] : encoding.SequenceIds[i];
            var text = index < 0 ? "" : texts[index];
            flat[2 * i] = Count(text, encoding.Offsets[i].Start);
            flat[(2 * i) + 1] = Count(text, encoding.Offsets[i].End);
        }

        return flat;

        static int Count(string text, int end) => text.AsSpan(0, end).ToString().EnumerateRunes().Count();
    }

    private void Stream(Tokenizer tokenizer, JsonElement row)
    {
        var decoder = tokenizer.CreateDecoder(row.GetProperty("skip_special_tokens").GetBoolean());
        var ids = Integers(row.GetProperty("ids"));
        var at = 0;
        foreach (var step in row.GetProperty("steps").EnumerateArray())
        {
            // Where the peer gives up, both an error and going on are acceptable.
            if (step.ValueKind == JsonValueKind.Object)
            {
                return;
            }

            var given = decoder.Append(ids[at]);
            Same($"stream {row.GetProperty("ids")} step {at}", step.ValueKind == JsonValueKind.Null ? Json("") : step, () => Json(given));
            at++;
        }
    }

    private static IEnumerable<JsonElement> Rows(JsonElement record, string name) =>
        record.TryGetProperty(name, out var rows) ? rows.EnumerateArray() : [];

    private static int[] Integers(JsonElement list) => [.. list.EnumerateArray().Select(item => item.GetInt32())];

    private static JsonElement Json<T>(T value) => JsonSerializer.SerializeToElement(value);

    private static string Show(string text) => JsonSerializer.Serialize(text.Length > 60 ? text[..60] : text);

    private void Same(string what, JsonElement wanted, Func<string> given) => Same(what, wanted, () => Json(given()));

    private void Same(string what, JsonElement wanted, Func<JsonElement> given)
    {
        JsonElement value;
        try
        {
            value = given();
        }
        catch (Exception error) when (error is not NotSupportedByPeftException)
        {
            Report(what, wanted.ToString(), error.ToString());
            return;
        }

        if (!JsonElement.DeepEquals(wanted, value))
        {
            Report(what, wanted.ToString(), value.ToString());
        }
    }

    private void Report(string what, string wanted, string given)
    {
        if (_count++ < 6)
        {
            _differences.AppendLine(what).Append("  wanted ").AppendLine(wanted).Append("  given  ").AppendLine(given);
        }
    }
}
