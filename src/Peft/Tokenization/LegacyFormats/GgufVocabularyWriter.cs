using System.Text.Json.Nodes;

namespace Peft.Tokenization.LegacyFormats;

/// <summary>A tokenizer as the metadata of a GGUF file states it: the way back of <see cref="GgufVocabulary"/>.</summary>
internal static class GgufVocabularyWriter
{
    private const string Keys = "tokenizer.ggml.";
    private const string Gemma4 = "gemma4";

    // llama.cpp's numbers for kinds of tokens.
    private const int Normal = 1, Unknown = 2, Control = 3, UserDefined = 4, Unused = 5, Byte = 6;

    /// <summary>The metadata.</summary>
    /// <param name="tokenizer">A tokenizer with a vocabulary of merges, byte-level or with a mark for blanks.</param>
    /// <param name="size">Rows of the model's embedding; ids without a token are filled up.</param>
    /// <param name="architecture">The model's, as llama.cpp calls it: there is one whose vocabulary of whole characters merges by its merges and not by scores.</param>
    /// <param name="onMessage">Hears what the file can't say.</param>
    /// <exception cref="NotSupportedByPeftException"><c>GgufTokenizerNotSupported</c>.</exception>
    public static List<(string Key, object Value)> Metadata(Tokenizer tokenizer, long size, string architecture, Action<string>? onMessage)
    {
        var document = Document(tokenizer);
        var model = (document["model"] as JsonObject)!;
        var isByteLevel = GgufSplitting.Parts(document["pre_tokenizer"]).Any(static part => (string?)part["type"] == "ByteLevel");
        if ((string?)model["type"] != "BPE" || (!isByteLevel && (bool?)model["byte_fallback"] != true))
        {
            throw new NotSupportedByPeftException("GgufTokenizerNotSupported", $"A tokenizer of the kind {(string?)model["type"]} is not written as GGUF.")
            {
                RecommendedAction = "Byte-level BPE and SentencePiece's BPE are. Export the model as safetensors.",
            };
        }

        string[] merges = [.. (model["merges"] as JsonArray ?? []).Select(static merge => merge is JsonArray pair ? $"{(string)pair[0]!} {(string)pair[1]!}" : (string)merge!)];
        var (tokens, types) = Tokens(tokenizer, (int)size);
        var hasMerges = isByteLevel || architecture == Gemma4;
        List<(string, object)> metadata =
        [
            (Keys + "model", isByteLevel ? "gpt2" : hasMerges ? Gemma4 : "llama"),
            (Keys + "pre", isByteLevel ? Splitting(document, onMessage) : hasMerges ? Gemma4 : "default"),
            (Keys + "tokens", tokens),
            (Keys + "token_type", types),
        ];
        if (hasMerges)
        {
            metadata.Add((Keys + "merges", merges));
        }
        else
        {
            metadata.Add((Keys + "scores", Scores(tokens, merges)));
            metadata.Add((Keys + "add_space_prefix", GgufSplitting.Parts(document["pre_tokenizer"]).Concat(GgufSplitting.Parts(document["normalizer"])).Any(static part => (string?)part["type"] is "Prepend" || (string?)part["prepend_scheme"] is "first" or "always")));
        }

        AddTokens(metadata, tokenizer);
        if (tokenizer.ChatTemplates.Source("default") is { } template)
        {
            metadata.Add(("tokenizer.chat_template", template));
        }

        return metadata;
    }

    private static JsonObject Document(Tokenizer tokenizer) =>
        tokenizer.FileContent("tokenizer.json") is { } content && JsonNode.Parse(content) is JsonObject document
            ? document
            : throw new NotSupportedByPeftException("GgufTokenizerNotSupported", "The tokenizer has no tokenizer.json to be written as GGUF.");

    private static (string[] Tokens, int[] Types) Tokens(Tokenizer tokenizer, int size)
    {
        var vocabulary = tokenizer.Vocabulary();
        size = Math.Max(size, vocabulary.Values.DefaultIfEmpty(-1).Max() + 1);
        var tokens = Enumerable.Range(0, size).Select(static id => FormattableString.Invariant($"[PAD{id}]")).ToArray();
        var types = Enumerable.Repeat(Unused, size).ToArray();
        foreach (var (token, id) in vocabulary)
        {
            tokens[id] = token;
            types[id] = token == tokenizer.UnkToken ? Unknown : token.Length == 6 && token.StartsWith("<0x", StringComparison.Ordinal) ? Byte : Normal;
        }

        foreach (var added in tokenizer.AddedTokens)
        {
            types[added.Id] = added.Content == tokenizer.UnkToken ? Unknown : added.Special ? Control : UserDefined;
        }

        return (tokens, types);
    }

    /// <summary>What is merged earlier has the better score.</summary>
    private static float[] Scores(string[] tokens, string[] merges)
    {
        var ranks = new Dictionary<string, int>(StringComparer.Ordinal);
        for (var rank = 0; rank < merges.Length; rank++)
        {
            ranks.TryAdd(merges[rank].Replace(" ", "", StringComparison.Ordinal), rank);
        }

        return [.. tokens.Select(token => (float)-(ranks.TryGetValue(token, out var rank) ? rank : merges.Length))];
    }

    /// <summary>llama.cpp's name for how texts are cut before they are merged.</summary>
    private static string Splitting(JsonObject document, Action<string>? onMessage)
    {
        if (GgufSplitting.Of(document) is { } splitting)
        {
            return splitting.Names[0];
        }

        onMessage?.Invoke("The tokenizer cuts texts by a pattern that llama.cpp has no name for that Peft knows: the file says 'default', and some texts may give other tokens there.");
        return "default";
    }

    private static void AddTokens(List<(string, object)> metadata, Tokenizer tokenizer)
    {
        foreach (var (key, id) in new[]
        {
            ("bos_token_id", tokenizer.BosTokenId), ("eos_token_id", tokenizer.EosTokenId), ("unknown_token_id", tokenizer.UnkTokenId), ("padding_token_id", tokenizer.PadTokenId),
        })
        {
            if (id is { } known)
            {
                metadata.Add((Keys + key, (uint)known));
            }
        }

        var probe = tokenizer.EncodeIds("a");
        metadata.Add((Keys + "add_bos_token", probe.Length > 0 && probe[0] == tokenizer.BosTokenId));
        metadata.Add((Keys + "add_eos_token", probe.Length > 1 && probe[^1] == tokenizer.EosTokenId));
    }
}
