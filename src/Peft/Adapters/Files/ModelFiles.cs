using System.Text.Json.Nodes;
using Peft.Adapters.Model;
using Peft.Models;
using Peft.Tensors;
using Peft.Tensors.Gguf;
using Peft.Tokenization;
using static TorchSharp.torch;

namespace Peft.Adapters.Files;

/// <summary>A model's folder: the base with what belongs to it, its tokenizer first of all.</summary>
internal static class ModelFiles
{
    /// <summary>Saves the base as it is now, its configuration, generation defaults and tokenizer.</summary>
    /// <param name="model">The model.</param>
    /// <param name="folder">The folder; made when it isn't there.</param>
    /// <param name="dataType">Type to save in; null for each weight's own.</param>
    /// <param name="maxShardBytes">Maximum size of a file of weights, in bytes.</param>
    /// <param name="onProgress">Sees the bytes of weights that are written, and how many there are.</param>
    /// <param name="cancellation">Looked at after each tensor.</param>
    /// <returns>Paths of the model's files.</returns>
    public static IReadOnlyList<string> Save(
        PeftModel model, string folder, ScalarType? dataType, long maxShardBytes, Action<long, long>? onProgress, CancellationToken cancellation)
    {
        if (File.Exists(folder) && !model.Base.IsSavedAsFile(folder))
        {
            throw new PeftException("NotAFolder", $"'{folder}' is a file; a model is saved into a folder.") { Target = folder, RecommendedAction = "Give the path of a folder." };
        }

        if (model.IsStructureOnly)
        {
            throw new PeftException("WeightsNotLoaded", $"'{model.Name}' can't be saved: only its structure was loaded.") { Target = folder };
        }

        KeepEndOfText(model);

        // A tokenizer that lies there is another model's, unless the model came from there.
        var isOwnFolder = model.Path is { } path && string.Equals(Path.GetFullPath(path), Path.GetFullPath(folder), StringComparison.Ordinal);
        var companions = model.Tokenizer is { } tokenizer ? new CompanionFiles(tokenizer.Files, Tokenizer.FilesIn(folder))
            : isOwnFolder ? null
            : new CompanionFiles([], Tokenizer.FilesIn(folder));
        return model.Base.SaveTo(folder, companions, dataType, maxShardBytes, onProgress, cancellation);
    }

    /// <summary>The tokenizer of a folder or file, or null.</summary>
    /// <exception cref="PeftException">A tokenizer file is broken.</exception>
    public static Tokenizer? FindTokenizer(string path)
    {
        try
        {
            if (Directory.Exists(path))
            {
                return Tokenizer.FromFolder(path);
            }

            using var file = GgufFile.Open(path);
            return Tokenizer.FromGguf(file.Metadata);
        }
        catch (PeftException error) when (error.ErrorId == "TokenizerNotFound")
        {
            // A model without a tokenizer is whole: it takes and gives token ids.
            return null;
        }
    }

    /// <summary>What ends a text here ends it for whoever reads the saved folder, too: its generation_config.json names the tokenizer's own token where none of the files did.</summary>
    private static void KeepEndOfText(PeftModel model)
    {
        var ids = model.EndOfTextIds;
        if (model.Tokenizer?.EosTokenId is { } own && ids is [var first, _, ..] && first == own
            && (model.GenerationDefaults is null || !new ModelConfig(model.GenerationDefaults).TokenIds("eos_token_id").Contains(own)))
        {
            (model.Base.GenerationConfig ??= [])["eos_token_id"] = new JsonArray([.. ids.Select(static id => JsonValue.Create(id))]);
        }
    }
}
