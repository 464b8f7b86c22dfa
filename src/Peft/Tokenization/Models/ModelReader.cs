using System.Text.Json;

namespace Peft.Tokenization.Models;

/// <summary>Reads the <c>model</c> part of tokenizer.json.</summary>
internal static class ModelReader
{
    /// <summary>Reads a model; one without a type is recognised by its fields.</summary>
    public static TokenModel Read(JsonFields fields)
    {
        var type = fields.OptionalString("type") ?? Guess(fields);
        return type switch
        {
            "BPE" => BytePair(fields),
            "WordPiece" => WordPiece(fields),
            "WordLevel" => new WordLevelModel(Vocabulary(fields), fields.OptionalString("unk_token") ?? "<unk>"),
            "Unigram" => Unigram(fields),
            _ => throw new NotSupportedByPeftException("TokenizerComponentNotSupported", $"{fields.Path} has the type \"{type}\", which isn't known."),
        };
    }

    private static string Guess(JsonFields fields)
    {
        if (fields.Has("merges", out _))
        {
            return "BPE";
        }

        if (fields.Has("vocab", out var vocabulary) && vocabulary.ValueKind == JsonValueKind.Array)
        {
            return "Unigram";
        }

        return fields.Has("max_input_chars_per_word", out _) || fields.Has("continuing_subword_prefix", out _) ? "WordPiece" : "WordLevel";
    }

    private static Dictionary<string, int> Vocabulary(JsonFields fields)
    {
        var path = fields.Path + ".vocab";
        if (!fields.Has("vocab", out var element) || element.ValueKind != JsonValueKind.Object)
        {
            throw JsonFields.Wrong(path, "an object of tokens and ids", element);
        }

        var vocabulary = new Dictionary<string, int>(StringComparer.Ordinal);
        foreach (var entry in element.EnumerateObject())
        {
            string name;
            try
            {
                name = entry.Name;
            }
            catch (InvalidOperationException error)
            {
                throw new PeftException("TokenizerFileInvalid", $"{path} holds a token with half a surrogate pair.", error);
            }

            vocabulary[name] = entry.Value.ValueKind == JsonValueKind.Number && entry.Value.TryGetInt32(out var id)
                ? id
                : throw JsonFields.Wrong($"{path}[\"{name}\"]", "a token id", entry.Value);
        }

        return vocabulary;
    }

    private static BytePairModel BytePair(JsonFields fields)
    {
        var merges = new List<(string Left, string Right)>();
        var path = fields.Path + ".merges";
        foreach (var element in fields.List("merges"))
        {
            merges.Add(Merge(element, $"{path}[{merges.Count}]"));
        }

        var dropout = fields.Number("dropout", 0);
        return new BytePairModel(Vocabulary(fields), merges, new BytePairOptions
        {
            UnknownToken = fields.OptionalString("unk_token"),
            ContinuingPrefix = fields.OptionalString("continuing_subword_prefix"),
            EndOfWordSuffix = fields.OptionalString("end_of_word_suffix"),
            FuseUnknown = fields.Boolean("fuse_unk", false),
            ByteFallback = fields.Boolean("byte_fallback", false),
            IgnoreMerges = fields.Boolean("ignore_merges", false),
            Dropout = dropout is >= 0 and <= 1 ? dropout : throw new PeftException("TokenizerFileInvalid", $"{fields.Path}.dropout is {dropout}, which isn't between 0 and 1."),
        });
    }

    /// <summary>A merge, either a pair or both tokens in one string with a space between them.</summary>
    private static (string Left, string Right) Merge(JsonElement element, string path)
    {
        if (element.ValueKind == JsonValueKind.Array)
        {
            return element.GetArrayLength() == 2
                ? (JsonFields.Text(element[0], path), JsonFields.Text(element[1], path))
                : throw JsonFields.Wrong(path, "a pair of tokens", element);
        }

        var text = JsonFields.Text(element, path);
        var space = text.IndexOf(' ', StringComparison.Ordinal);
        return space > 0 && space < text.Length - 1 && text.IndexOf(' ', space + 1) < 0
            ? (text[..space], text[(space + 1)..])
            : throw new PeftException("TokenizerFileInvalid", $"{path} should be two tokens with a space between them, and is \"{text}\".");
    }

    private static WordPieceModel WordPiece(JsonFields fields) => new(
        Vocabulary(fields),
        fields.OptionalString("unk_token") ?? "[UNK]",
        fields.OptionalString("continuing_subword_prefix") ?? "##",
        fields.Integer("max_input_chars_per_word", 100));

    private static UnigramModel Unigram(JsonFields fields)
    {
        var pieces = new List<(string Text, double Score)>();
        foreach (var element in fields.List("vocab"))
        {
            var path = $"{fields.Path}.vocab[{pieces.Count}]";
            pieces.Add(element.ValueKind == JsonValueKind.Array && element.GetArrayLength() == 2 && element[1].ValueKind == JsonValueKind.Number
                ? (JsonFields.Text(element[0], path), element[1].GetDouble())
                : throw JsonFields.Wrong(path, "a pair of token and score", element));
        }

        var unknown = fields.OptionalInteger("unk_id");
        if (unknown is { } id && (id < 0 || id >= pieces.Count))
        {
            throw new PeftException("TokenizerFileInvalid", $"{fields.Path}.unk_id is {id}, and the vocabulary has {pieces.Count} entries.");
        }

        return new UnigramModel(pieces, unknown, fields.Boolean("byte_fallback", false));
    }
}
