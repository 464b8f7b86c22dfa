using Peft.Tests.Golden;

namespace Peft.Tests.Models;

/// <summary>Models that lie beside the checkout or under <c>$PEFT_SHARED</c>; tests that need one are skipped where it isn't there.</summary>
internal static class SharedModels
{
    /// <summary>The model's folder; skips the test where it is missing.</summary>
    public static string Folder(string name)
    {
        string[] roots =
        [
            Path.Combine(GoldenCases.Repository, "assets"),
            Path.Combine(Environment.GetEnvironmentVariable("PEFT_SHARED") ?? Path.Combine(GoldenCases.Repository, "..", "shared"), "models"),
        ];
        var folder = roots.Select(root => Path.Combine(root, name)).FirstOrDefault(static folder => File.Exists(Path.Combine(folder, "reference.json")));
        Skip.If(folder is null, $"The reference model '{name}' is neither in the checkout nor under PEFT_SHARED.");
        return folder!;
    }
}
