using System.Text;
using System.Text.Json;
using Peft.Tokenization;

namespace Peft.Tests.Golden;

internal sealed partial class TokenizerCase
{
    /// <summary>What the peer makes of a GGUF file's vocabulary: ids, special tokens and chat template.</summary>
    public static void RunGguf(Tokenizer tokenizer, string folder)
    {
        var run = new TokenizerCase();
        var record = Load(Path.Combine(folder, "encodings.json"));
        run.Called(tokenizer, record);
        foreach (var token in record.GetProperty("special_tokens_map").EnumerateObject())
        {
            run.Same(token.Name, token.Value, () => tokenizer.Configuration.SpecialTokens[token.Name]);
        }

        run.Same("chat template", record.GetProperty("chat_template"), () => Json(tokenizer.ChatTemplates.Source("default")));
        run.Finish();
    }

    /// <summary>What calling the folder's tokenizer gives: ids with special tokens, offsets, decoded text.</summary>
    private void Called(Tokenizer tokenizer, JsonElement record)
    {
        foreach (var row in Rows(record, "strings"))
        {
            var text = row.GetProperty("text").GetString()!;
            Fields(Show(text), () => tokenizer.Encode(text), row, text);
            Same(Show(text) + " decoded", row.GetProperty("decoded"), () => tokenizer.Decode(Integers(row.GetProperty("ids"))));
        }
    }

    /// <summary>What SentencePiece itself gives; its offsets count UTF-8 bytes.</summary>
    private void SentencePiece(Tokenizer tokenizer, JsonElement record)
    {
        var model = (Peft.Tokenization.SentencePiece.SentencePieceModel)tokenizer.Pipeline.Model;
        Same("size", record.GetProperty("size"), () => Json(tokenizer.VocabularySize));
        foreach (var row in Rows(record, "strings"))
        {
            var text = row.GetProperty("text").GetString()!;
            var what = Show(text);
            Same(what + " normalized", row.GetProperty("normalized"), () => model.Normalize(text));
            var encoding = tokenizer.Encode(text);
            Same(what + " ids", row.GetProperty("ids"), () => Json(encoding.Ids));
            Same(what + " pieces", row.GetProperty("pieces"), () => Json(encoding.Tokens));
            Same(what + " byte offsets", row.GetProperty("byte_offsets"), () => Json(encoding.Offsets.SelectMany(o => new[] { Bytes(text, o.Start), Bytes(text, o.End) })));
            Same(what + " decoded", row.GetProperty("decoded"), () => tokenizer.Decode(Integers(row.GetProperty("ids"))));
        }

        foreach (var row in Rows(record, "sequences"))
        {
            Same($"decode {row.GetProperty("ids")}", row.GetProperty("decoded"), () => tokenizer.Decode(Integers(row.GetProperty("ids"))));
        }

        static int Bytes(string text, int end) => Encoding.UTF8.GetByteCount(text.AsSpan(0, end));
    }

    /// <summary>
    /// What the peer's class makes of the folder, but for the parts that it rebuilds otherwise than the file says: those run as written here.
    /// </summary>
    private void Auto(Tokenizer tokenizer, JsonElement record)
    {
        var configuration = tokenizer.Configuration;
        var rebuilt = record.TryGetProperty("differs_from_file", out var parts) ? parts.EnumerateObject().Select(part => part.Name).ToHashSet() : [];
        var otherIds = Rows(record, "ids_differ_from_file").Select(text => text.GetString()!).ToHashSet(StringComparer.Ordinal);
        foreach (var (name, token) in configuration.SpecialTokens)
        {
            if (record.GetProperty("special_tokens_map").TryGetProperty(name, out var wanted))
            {
                Same(name, wanted, () => token);
            }
        }

        // The peer writes 1e30 where there is no limit.
        if (record.GetProperty("model_max_length").TryGetInt32(out _) || configuration.ModelMaximumLength is not null)
        {
            Same("model_max_length", record.GetProperty("model_max_length"), () => Json(configuration.ModelMaximumLength));
        }

        Same("padding_side", record.GetProperty("padding_side"), () => configuration.PaddingSide == PaddingDirection.Left ? "left" : "right");
        Same("truncation_side", record.GetProperty("truncation_side"), () => configuration.TruncationSide == TruncationDirection.Left ? "left" : "right");
        foreach (var row in Rows(record, "calls"))
        {
            var text = row.GetProperty("text").GetString()!;
            if (otherIds.Contains(text) || rebuilt.Contains("post_processor") || rebuilt.Contains("added_tokens"))
            {
                continue;
            }

            var ids = Integers(row.GetProperty("input_ids"));
            Same($"call {Show(text)}", row.GetProperty("input_ids"), () => Json(tokenizer.EncodeIds(text)));
            if (rebuilt.Contains("decoder"))
            {
                continue;
            }

            var decoded = row.GetProperty("decoded");
            Same($"call {Show(text)} decoded", decoded, () => tokenizer.Decode(ids));
            Same($"call {Show(text)} clean", row.TryGetProperty("decoded_clean", out var clean) ? clean : decoded, () => tokenizer.Decode(ids, cleanUp: true));
            Same($"call {Show(text)} unclean", row.TryGetProperty("decoded_unclean", out var unclean) ? unclean : decoded, () => tokenizer.Decode(ids, cleanUp: false));
        }
    }
}
