using System.Globalization;
using System.Text;
using System.Text.Json.Nodes;
using Peft.Files;

namespace Peft.Tokenization.AddedTokens;

/// <summary>A tokenizer's files with further added tokens in them, as Hugging Face's packages write and read these.</summary>
internal static class AddedTokenFiles
{
    private const string Whole = "tokenizer.json";
    private const string Settings = "tokenizer_config.json";
    private const string List = "added_tokens.json";
    private const string Decoder = "added_tokens_decoder";

    /// <summary>The files with the tokens.</summary>
    /// <param name="files">The files.</param>
    /// <param name="tokens">Tokens with the ids behind all that there are.</param>
    public static TokenizerFiles With(TokenizerFiles files, IReadOnlyList<AddedToken> tokens)
    {
        var contents = new Dictionary<string, byte[]>(files.Contents, StringComparer.Ordinal);
        if (contents.TryGetValue(Whole, out var whole))
        {
            var document = Read(whole, Whole);
            var added = document["added_tokens"] as JsonArray ?? [];
            document["added_tokens"] = added;
            foreach (var token in tokens)
            {
                var entry = Flags(token);
                entry.Insert(0, "id", token.Id);
                added.Add((JsonNode)entry);
            }

            contents[Whole] = Bytes(document);
        }

        if (contents.TryGetValue(List, out var list))
        {
            var document = Read(list, List);
            foreach (var token in tokens)
            {
                document[token.Content] = token.Id;
            }

            contents[List] = Bytes(document);
        }

        // Without a tokenizer.json the configuration is what says it.
        var settings = contents.TryGetValue(Settings, out var bytes) ? Read(bytes, Settings) : [];
        if (settings[Decoder] is JsonObject || whole is null)
        {
            var decoder = settings[Decoder] as JsonObject ?? [];
            settings[Decoder] = decoder;
            foreach (var token in tokens)
            {
                decoder[token.Id.ToString(CultureInfo.InvariantCulture)] = Flags(token);
            }

            contents[Settings] = Bytes(settings);
        }

        return new TokenizerFiles(contents);
    }

    private static JsonObject Flags(AddedToken token) => new()
    {
        ["content"] = token.Content,
        ["single_word"] = token.SingleWord,
        ["lstrip"] = token.StripLeft,
        ["rstrip"] = token.StripRight,
        ["normalized"] = token.Normalized,
        ["special"] = token.Special,
    };

    private static JsonObject Read(byte[] bytes, string name) => JsonFile.Node(JsonFile.Parse(bytes, name)) as JsonObject
        ?? throw new PeftException("JsonNotAnObject", $"'{name}' of the tokenizer is no JSON object.") { Target = name };

    private static byte[] Bytes(JsonObject document) => Encoding.UTF8.GetBytes(document.ToJsonString(JsonFile.WriteOptions));
}
