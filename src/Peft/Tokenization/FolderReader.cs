using System.Text.Json;
using Peft.Tokenization.ChatTemplates;

namespace Peft.Tokenization;

/// <summary>Makes a tokenizer of the files of a model folder.</summary>
internal static class FolderReader
{
    /// <summary>Reads the files of a folder.</summary>
    public static Tokenizer Read(string folder, TokenizerFiles files)
    {
        var configuration = ConfigurationReader.Read(folder, files.Contents);
        if (files.Contents.TryGetValue("tokenizer.json", out var json))
        {
            var path = Path.Combine(folder, "tokenizer.json");
            using var document = JsonFields.Parse(json, path);
            var pipeline = TokenizerPipeline.Read(document.RootElement, path, configuration.AddedTokens);
            return new Tokenizer(pipeline with { Truncation = null, Padding = null }, configuration, files);
        }

        throw new PeftException("TokenizerNotFound", $"{folder} holds no tokenizer (tokenizer.json, tokenizer.model, vocab.json with merges.txt, or vocab.txt).")
        {
            Target = folder,
        };
    }

    /// <summary>Reads one file.</summary>
    public static Tokenizer ReadSingle(string path, byte[] bytes)
    {
        if (Path.GetExtension(path) == ".json")
        {
            using var document = JsonFields.Parse(bytes, path);
            var files = new TokenizerFiles(new Dictionary<string, byte[]>(StringComparer.Ordinal) { ["tokenizer.json"] = bytes });
            return new Tokenizer(TokenizerPipeline.Read(document.RootElement, path), new TokenizerConfiguration(), files);
        }

        throw new NotSupportedByPeftException("TokenizerFormatNotSupported", $"{path} isn't a tokenizer file of a known kind.");
    }
}
