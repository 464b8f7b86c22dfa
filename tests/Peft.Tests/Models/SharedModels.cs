using Peft.Tests.Golden;

namespace Peft.Tests.Models;

/// <summary>Models that lie beside the checkout or under <c>$PEFT_SHARED</c>; tests that need one are skipped where it isn't there.</summary>
internal static class SharedModels
{
    /// <summary>The model's folder; skips the test where it is missing.</summary>
    public static string Folder(string name)
    {
        var root = Environment.GetEnvironmentVariable("PEFT_SHARED") ?? Path.Combine(GoldenCases.Repository, "..", "shared");
        var folder = Path.Combine(root, "models", name);
        Skip.IfNot(File.Exists(Path.Combine(folder, "reference.json")), $"The reference model '{name}' is neither beside the checkout nor under PEFT_SHARED.");
        return folder;
    }
}
