namespace Peft.Models;

/// <summary>What stands in a folder that a model is written to.</summary>
public static class ModelFolder
{
    private static readonly string[] s_weights = ["*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf", "*.index.json"];
    private static readonly string[] s_files = ["config.json", "generation_config.json"];

    /// <summary>Whether an adapter lies in a folder. transformers takes a folder with both for the adapter and its base, and would lay the adapter over the model beside it.</summary>
    /// <param name="folder">A folder, which need not be there.</param>
    public static bool HoldsAdapter(string folder) => File.Exists(Path.Combine(folder, Adapters.AdapterConfig.FileName));

    /// <summary>The name of a file that belongs to a model or its tokenizer and would be lost, or mixed with what is written; null where there is none.</summary>
    /// <param name="folder">A folder, which need not be there.</param>
    public static string? Holding(string folder) => !Directory.Exists(folder)
        ? null
        : s_files.FirstOrDefault(name => File.Exists(Path.Combine(folder, name)))
            ?? (Tokenization.Tokenizer.FilesIn(folder) is [var first, ..] ? first : null)
            ?? s_weights.SelectMany(pattern => Directory.EnumerateFiles(folder, pattern)).Select(Path.GetFileName).Order(StringComparer.Ordinal).FirstOrDefault();
}
