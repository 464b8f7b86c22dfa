using Peft.Adapters.Model;
using Peft.Files;
using Peft.Models.Gguf;
using Peft.Tensors.Gguf;
using Peft.Tokenization.LegacyFormats;

namespace Peft.Adapters.Files;

/// <summary>A model as one GGUF file with everything that llama.cpp and what is built on it need, and an Ollama Modelfile beside it.</summary>
internal static class GgufFiles
{
    private const string ModelfileName = "Modelfile";

    /// <summary>Saves the base as it is now.</summary>
    /// <param name="model">The model.</param>
    /// <param name="path">The <c>.gguf</c> file.</param>
    /// <param name="typeName">How weights are stored: see <see cref="GgufTypes"/>.</param>
    /// <param name="onProgress">Sees the bytes of weights that are written, and how many there are.</param>
    /// <param name="onMessage">Hears what the file can't say.</param>
    /// <param name="cancellation">Looked at before each tensor.</param>
    /// <param name="importance">By how much errors count in each column of a weight, by its path; null where nothing is known of it.</param>
    /// <returns>Paths of the files written.</returns>
    public static IReadOnlyList<string> Save(PeftModel model, string path, string typeName, Action<long, long>? onProgress, Action<string>? onMessage, IReadOnlyDictionary<string, float[]>? importance, CancellationToken cancellation)
    {
        if (model.IsStructureOnly)
        {
            throw new PeftException("WeightsNotLoaded", $"'{model.Name}' can't be saved: only its structure was loaded.") { Target = path };
        }

        // Everything that can be refused is, before the first byte.
        var types = GgufTypes.Named(typeName);
        var tree = new GgufTree(model.Base);
        var metadata = GgufExport.Metadata(tree, model.Base, model.Name, types);
        var tensors = GgufExport.Tensors(tree, model.Base, metadata, types, importance);
        foreach (var message in GgufExport.Differences(tree).Concat(GgufExport.Replacements(tensors)))
        {
            onMessage?.Invoke(message);
        }

        if (model.Tokenizer is { } tokenizer)
        {
            metadata.AddRange(GgufVocabularyWriter.Metadata(tokenizer, model.Base.Backbone.TokenEmbeddings!.Weight.Shape[0], tree.Map.Architecture, onMessage));
        }
        else
        {
            metadata.Add(("tokenizer.ggml.model", "no_vocab"));
            onMessage?.Invoke("The model has no tokenizer, so the file has none: llama.cpp can't read texts with it.");
        }

        var folder = Path.GetDirectoryName(Path.GetFullPath(path))!;
        AtomicFile.MakeFolder(folder);
        GgufWriter.Write(path, metadata, tensors, onProgress, cancellation);
        var modelfile = Path.Combine(folder, ModelfileName);
        if (File.Exists(modelfile) && !IsOurs(modelfile))
        {
            onMessage?.Invoke($"'{modelfile}' has lines of its own and stays as it is; for this file it says FROM ./{Path.GetFileName(path)}.");
            return [path];
        }

        AtomicFile.WriteText(modelfile, $"FROM ./{Path.GetFileName(path)}\n" + (model.Tokenizer?.EosToken is { } end ? $"PARAMETER stop \"{end}\"\n" : ""));
        return [path, modelfile];
    }

    /// <summary>Whether a Modelfile has no other lines than those that are written here.</summary>
    private static bool IsOurs(string modelfile) => File.ReadAllLines(modelfile) is [var from, .. var rest]
        && from.StartsWith("FROM ./", StringComparison.Ordinal) && from.EndsWith(".gguf", StringComparison.Ordinal)
        && rest.Length <= 1 && Array.TrueForAll(rest, static line => line.StartsWith("PARAMETER stop \"", StringComparison.Ordinal));
}
