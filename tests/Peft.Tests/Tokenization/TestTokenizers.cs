using System.Text.Json.Nodes;
using Peft.Tokenization;

namespace Peft.Tests.Tokenization;

/// <summary>Small tokenizers for tests.</summary>
internal static class TestTokenizers
{
    /// <summary>A byte-level tokenizer with a few merges and one special token.</summary>
    public static Tokenizer Bytes() => FromJson(BytesJson());

    /// <summary>The content of <see cref="Bytes"/>.</summary>
    public static JsonObject BytesJson()
    {
        var vocabulary = new JsonObject();
        for (var b = 0; b < 256; b++)
        {
            vocabulary[Character(b)] = b;
        }

        string[][] merges = [["l", "l"], ["e", "ll"], ["\u0120", "w"], ["H", "ell"], ["o", "r"], ["\u0120w", "or"]];
        foreach (var merge in merges)
        {
            vocabulary[merge[0] + merge[1]] = vocabulary.Count;
        }

        return new JsonObject
        {
            ["added_tokens"] = new JsonArray(new JsonObject { ["id"] = vocabulary.Count, ["content"] = "<|end|>", ["special"] = true, ["normalized"] = false }),
            ["pre_tokenizer"] = new JsonObject { ["type"] = "ByteLevel", ["add_prefix_space"] = false },
            ["decoder"] = new JsonObject { ["type"] = "ByteLevel" },
            ["model"] = new JsonObject { ["type"] = "BPE", ["vocab"] = vocabulary, ["merges"] = new JsonArray([.. merges.Select(merge => (JsonNode)new JsonArray(merge[0], merge[1]))]) },
        };
    }

    /// <summary>Reads a tokenizer from a file of this content.</summary>
    public static Tokenizer FromJson(JsonNode json) => FromText(json.ToJsonString());

    /// <summary>Reads a tokenizer from a file of this text.</summary>
    public static Tokenizer FromText(string json, string extension = ".json") => FromBytes(System.Text.Encoding.UTF8.GetBytes(json), extension);

    /// <summary>Reads a tokenizer from a file of these bytes.</summary>
    public static Tokenizer FromBytes(byte[] bytes, string extension)
    {
        var path = Path.Combine(Path.GetTempPath(), "peft-" + Guid.NewGuid().ToString("N") + extension);
        File.WriteAllBytes(path, bytes);
        try
        {
            return Tokenizer.FromFile(path);
        }
        finally
        {
            File.Delete(path);
        }
    }

    private static string Character(int value) => Peft.Tokenization.Text.ByteLevelAlphabet.Character((byte)value).ToString();
}
