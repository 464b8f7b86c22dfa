namespace Peft.Build;

/// <summary>Removes what the other tasks made.</summary>
internal static class Clean
{
    private static readonly string[] s_made = ["bin", "artifacts"];
    private static readonly string[] s_projects = ["src", "tests", "samples", "benchmarks", "build/probe", "build/pester", "build/NativeLibraries", "build/gpu-check"];

    /// <summary>Outputs, artifacts and the remembered choice of engine; not the build program itself, which is running.</summary>
    public static void Everything()
    {
        var outputs = s_projects.Select(name => Checkout.At(name)).Where(Directory.Exists)
            .SelectMany(folder => Directory.EnumerateFiles(folder, "*.csproj", SearchOption.AllDirectories))
            .SelectMany(project => new[] { "bin", "obj" }.Select(name => Path.Combine(Path.GetDirectoryName(project)!, name)));
        foreach (var folder in s_made.Select(name => Checkout.At(name)).Concat(outputs).Where(Directory.Exists))
        {
            Directory.Delete(folder, recursive: true);
            Console.WriteLine($"Removed {Path.GetRelativePath(Checkout.Root, folder)}");
        }

        File.Delete(Checkout.At("TorchEngine.props"));
    }
}
