using Peft.Tests.Golden;
using TorchSharp;

namespace Peft.Tests.Faults;

/// <summary>What trials of damaged files share: each works, or ends in an error of ours, in bounded memory.</summary>
internal static class ReaderTrial
{
    /// <summary>Larger files aren't tried.</summary>
    public const long LargestFile = 1 << 20;

    private const long MostBytes = 3L << 30;

    /// <summary>The golden cases' files of some names that are small enough, in a fixed order.</summary>
    public static IEnumerable<string> Files(params string[] patterns) => patterns
        .SelectMany(static pattern => Directory.EnumerateFiles(GoldenCases.Root, pattern, SearchOption.AllDirectories))
        .Where(static path => new FileInfo(path).Length is > 0 and < LargestFile).Order(StringComparer.Ordinal);

    /// <summary>Runs a trial in a new folder, which goes with it.</summary>
    public static void InFolder(TemporaryFolder parent, Action<string> trial)
    {
        var folder = Directory.CreateDirectory(parent["trial-" + Guid.NewGuid().ToString("N")]).FullName;
        trial(folder);
        Directory.Delete(folder, recursive: true);
    }

    /// <summary>Copies a folder, one of its files damaged.</summary>
    /// <param name="source">The sound folder.</param>
    /// <param name="target">A folder.</param>
    /// <param name="random">Chooses the file and its faults.</param>
    /// <param name="isRead">Whether a file is one that is read; null for all.</param>
    public static void CopyDamaged(string source, string target, Random random, Func<string, bool>? isRead = null)
    {
        var files = Directory.GetFiles(source, "*", SearchOption.AllDirectories).Order(StringComparer.Ordinal).ToArray();
        var read = files.Where(path => isRead?.Invoke(path) ?? true).ToArray();
        var damaged = read[random.Next(read.Length)];
        foreach (var file in files)
        {
            var copy = Path.Combine(target, Path.GetRelativePath(source, file));
            Directory.CreateDirectory(Path.GetDirectoryName(copy)!);
            var bytes = File.ReadAllBytes(file);
            File.WriteAllBytes(copy, file == damaged ? Damage.Of(file, bytes, random) : bytes);
        }
    }

    /// <summary>Runs something that may end in an error of ours.</summary>
    public static void Bounded(Action trial)
    {
        var before = GC.GetTotalAllocatedBytes();
        using (torch.NewDisposeScope())
        {
            try
            {
                trial();
            }
            catch (PeftException)
            {
                // Refused, as it should be.
            }
        }

        Assert.InRange(GC.GetTotalAllocatedBytes() - before, 0, MostBytes);
    }
}
