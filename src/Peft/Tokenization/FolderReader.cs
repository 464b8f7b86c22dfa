using System.Text.Json;
using System.Text.Json.Nodes;
using Peft.Files;
using Peft.Tokenization.LegacyFormats;
using Peft.Tokenization.SentencePiece;
using Peft.Tokenization.Tiktoken;

namespace Peft.Tokenization;

/// <summary>Makes a tokenizer of the files of a model folder.</summary>
internal static class FolderReader
{
    private static readonly string[] s_sentencePieceNames = ["tokenizer.model", "spiece.model", "sentencepiece.bpe.model"];

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

        if (TiktokenReader.Read(folder, configuration, files) is { } tiktoken)
        {
            return tiktoken;
        }

        if (Array.Find(s_sentencePieceNames, files.Contents.ContainsKey) is { } name)
        {
            var path = Path.Combine(folder, name);
            return SentencePieceReader.Read(SentencePieceFile.Read(files.Contents[name], path), path, configuration, files);
        }

        if (files.Contents.TryGetValue("vocab.json", out var vocabulary) && files.Contents.TryGetValue("merges.txt", out var merges))
        {
            var path = Path.Combine(folder, "vocab.json");
            configuration = configuration.WithDefaultTokens(VocabularyFiles.DefaultTokens(configuration.TokenizerClass, wordPieces: false));
            return Built(VocabularyFiles.BytePair(ParseVocabulary(vocabulary, path), VocabularyFiles.MergeLines(Decode(merges)), configuration), path, configuration, files);
        }

        if (files.Contents.TryGetValue("vocab.txt", out var words))
        {
            configuration = configuration.WithDefaultTokens(VocabularyFiles.DefaultTokens(configuration.TokenizerClass, wordPieces: true));
            return Built(VocabularyFiles.WordPiece([.. VocabularyFiles.Lines(Decode(words))], configuration), Path.Combine(folder, "vocab.txt"), configuration, files);
        }

        var code = configuration.Classes is [.., var own] && files.Contents.Keys.Any(IsCode) ? $" Its own is {own}, code that isn't run, and none that is built in." : "";
        throw new PeftException("TokenizerNotFound", $"{folder} holds no tokenizer (tokenizer.json, tokenizer.model, vocab.json with merges.txt, vocab.txt or .tiktoken).{code}")
        {
            Target = folder,
        };
    }

    /// <summary>Whether a file is code that a tokenizer brings along: it is carried, and never run.</summary>
    public static bool IsCode(string name) => name.StartsWith("tokenization_", StringComparison.Ordinal) && name.EndsWith(".py", StringComparison.Ordinal);

    /// <summary>Reads one file.</summary>
    public static Tokenizer ReadSingle(string path, byte[] bytes)
    {
        var files = new TokenizerFiles(new Dictionary<string, byte[]>(StringComparer.Ordinal) { [Path.GetFileName(path)] = bytes });
        switch (Path.GetExtension(path))
        {
            case ".json":
                using (var document = JsonFields.Parse(bytes, path))
                {
                    return new Tokenizer(TokenizerPipeline.Read(document.RootElement, path), new TokenizerConfiguration(), files);
                }

            case ".model":
                return SentencePieceReader.ReadPlain(SentencePieceFile.Read(bytes, path), path, files);
            case ".tiktoken":
                return TiktokenReader.ReadFile(path, bytes, new TokenizerConfiguration(), files);
            case ".txt":
                var configuration = new TokenizerConfiguration().WithDefaultTokens(VocabularyFiles.DefaultTokens(null, wordPieces: true));
                return Built(VocabularyFiles.WordPiece([.. VocabularyFiles.Lines(Decode(bytes))], configuration), path, configuration, files);
            default:
                throw new NotSupportedByPeftException("TokenizerFormatNotSupported", $"{path} isn't a tokenizer file of a known kind.") { Target = path };
        }
    }

    /// <summary>Makes a tokenizer of a GGUF file's metadata.</summary>
    public static Tokenizer ReadGguf(IReadOnlyDictionary<string, object> metadata)
    {
        if (GgufVocabulary.IsMissing(metadata))
        {
            throw new PeftException("TokenizerNotFound", "The GGUF file holds no tokenizer.")
            {
                RecommendedAction = "Work with token ids, or use a file that was converted with its tokenizer.",
            };
        }

        var configuration = GgufVocabulary.Configuration(metadata);
        var tokenizer = GgufVocabulary.Build(metadata, configuration);
        var files = new TokenizerFiles(new Dictionary<string, byte[]>(StringComparer.Ordinal)
        {
            ["tokenizer.json"] = JsonSerializer.SerializeToUtf8Bytes(tokenizer, JsonFile.WriteOptions),
            ["tokenizer_config.json"] = JsonSerializer.SerializeToUtf8Bytes(GgufVocabulary.Document(configuration), JsonFile.WriteOptions),
        });
        return Built(tokenizer, "the GGUF file's tokenizer", configuration, files);
    }

    private static Tokenizer Built(JsonObject tokenizer, string path, TokenizerConfiguration configuration, TokenizerFiles files)
    {
        using var document = JsonDocument.Parse(tokenizer.ToJsonString());
        return new Tokenizer(TokenizerPipeline.Read(document.RootElement, path, configuration.AddedTokens), configuration, files);
    }

    private static JsonObject ParseVocabulary(byte[] bytes, string path)
    {
        using var document = JsonFields.Parse(bytes, path);
        var fields = new JsonFields(document.RootElement, path);
        var vocabulary = new JsonObject();
        foreach (var entry in fields.Element.EnumerateObject())
        {
            vocabulary[entry.Name] = entry.Value.ValueKind == JsonValueKind.Number && entry.Value.TryGetInt32(out var id)
                ? id
                : throw JsonFields.Wrong($"{path}[\"{entry.Name}\"]", "a token id", entry.Value);
        }

        return vocabulary;
    }

    private static string Decode(byte[] bytes) => System.Text.Encoding.UTF8.GetString(bytes.AsSpan().StartsWith("\uFEFF"u8) ? bytes.AsSpan(3) : bytes);
}
