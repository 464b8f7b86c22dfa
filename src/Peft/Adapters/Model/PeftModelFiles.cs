using System.Text.Json.Nodes;
using Peft.Models;
using Peft.Tensors;
using Peft.Tensors.Gguf;
using Peft.Tokenization;
using static TorchSharp.torch;

namespace Peft.Adapters.Model;

/// <content>Model folders.</content>
public sealed partial class PeftModel
{
    private Tokenizer? tokenizer;
    private bool tokenizerSought;

    /// <summary>The model's tokenizer, read when it is first asked for; null where the folder has none.</summary>
    /// <exception cref="PeftException">A tokenizer file is broken.</exception>
    public Tokenizer? Tokenizer
    {
        get
        {
            if (!tokenizerSought)
            {
                tokenizer = Path is null ? null : FindTokenizer(Path);
                tokenizerSought = true;
            }

            return tokenizer;
        }

        init
        {
            tokenizer = value;
            tokenizerSought = true;
        }
    }

    /// <summary>The model's tokenizer.</summary>
    /// <exception cref="PeftException"><c>TokenizerMissing</c>, or as <see cref="Tokenizer"/>.</exception>
    public Tokenizer RequiredTokenizer => Tokenizer ?? throw new PeftException("TokenizerMissing", $"'{Name}' has no tokenizer.")
    {
        Target = Name,
        RecommendedAction = "Put the tokenizer's files beside the weights and import the model again.",
    };

    /// <summary>What <c>generation_config.json</c> says, or null.</summary>
    public JsonObject? GenerationDefaults => Base.GenerationConfig;

    /// <summary>
    /// Ids that end a text: those of <c>generation_config.json</c>, else of <c>config.json</c>, with the tokenizer's own in front, for that is
    /// the one that training puts behind a text.
    /// </summary>
    public IReadOnlyList<int> EndOfTextIds
    {
        get
        {
            var published = GenerationDefaults is { } defaults && new ModelConfig(defaults).TokenIds("eos_token_id") is { Count: > 0 } generation
                ? generation
                : Config.TokenIds("eos_token_id");
            return Tokenizer?.EosTokenId is { } own && !published.Contains(own) ? [own, .. published] : published;
        }
    }

    /// <summary>Loads a model from a folder in Hugging Face's layout, or from a single file whose format holds everything.</summary>
    /// <param name="path">The folder or file.</param>
    /// <param name="options">How; null for the file's own types on the CPU.</param>
    /// <param name="name">What to call the model; null for the last part of the path.</param>
    /// <exception cref="PeftException">What is wrong with the files.</exception>
    /// <exception cref="NotSupportedByPeftException">A family or format without code.</exception>
    public static PeftModel Load(string path, LoadOptions? options = null, string? name = null)
    {
        using var noGradients = no_grad();
        var model = ModelLoader.Load(path, options);
        return new PeftModel(model, name ?? System.IO.Path.GetFileName(System.IO.Path.TrimEndingDirectorySeparator(System.IO.Path.GetFullPath(path))), path);
    }

    /// <summary>Saves the base as it is now, with what is merged into it, its configuration, generation defaults and tokenizer.</summary>
    /// <param name="folder">The folder; made when it isn't there.</param>
    /// <param name="dataType">Type to save in; null for each weight's own.</param>
    /// <param name="maxShardBytes">Maximum size of a file of weights, in bytes.</param>
    /// <param name="onProgress">Sees the bytes of weights that are written, and how many there are.</param>
    /// <param name="cancellation">Looked at after each tensor; what was in the folder stays as it was.</param>
    /// <returns>Paths of the model's files.</returns>
    /// <exception cref="PeftException"><c>NotAFolder</c>, <c>WeightsNotLoaded</c>, or what writing throws.</exception>
    public IReadOnlyList<string> Save(string folder, ScalarType? dataType = null, long maxShardBytes = ModelLoader.DefaultShardBytes, Action<long, long>? onProgress = null, CancellationToken cancellation = default)
    {
        using var held = Acquire("saving the model");
        if (File.Exists(folder))
        {
            throw new PeftException("NotAFolder", $"'{folder}' is a file; a model is saved into a folder.") { Target = folder, RecommendedAction = "Give the path of a folder." };
        }

        if (IsStructureOnly)
        {
            throw new PeftException("WeightsNotLoaded", $"'{Name}' can't be saved: only its structure was loaded.") { Target = folder };
        }

        KeepEndOfText();
        var companions = Tokenizer is null ? null : new CompanionFiles(Tokenizer.Files, Tokenizer.FilesIn(folder));
        return ModelLoader.Save(Base, folder, companions, dataType, maxShardBytes, onProgress, cancellation);
    }

    /// <summary>What ends a text here ends it for whoever reads the saved folder, too: its generation_config.json names the tokenizer's own token where none of the files did.</summary>
    private void KeepEndOfText()
    {
        var ids = EndOfTextIds;
        if (Tokenizer?.EosTokenId is { } own && ids is [var first, _, ..] && first == own
            && (GenerationDefaults is null || !new ModelConfig(GenerationDefaults).TokenIds("eos_token_id").Contains(own)))
        {
            (Base.GenerationConfig ??= [])["eos_token_id"] = new JsonArray([.. ids.Select(static id => JsonValue.Create(id))]);
        }
    }

    private static Tokenizer? FindTokenizer(string path)
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
}
