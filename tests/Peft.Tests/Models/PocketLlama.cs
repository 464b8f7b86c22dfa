using Peft.Tests.Golden;

namespace Peft.Tests.Models;

/// <summary>The embedded base model, and what transformers computes with it.</summary>
internal static class PocketLlama
{
    /// <summary>The model's folder.</summary>
    public static string Folder { get; } = Path.Combine(GoldenCases.Repository, "assets", "pocket-llama");

    /// <summary>The path of a reference file.</summary>
    public static string Reference(string name) => Path.Combine(GoldenCases.Repository, "tests", "references", "pocket-llama", name);
}
