using System.Formats.Tar;
using System.IO.Compression;
using System.IO.Enumeration;
using System.Security.Cryptography;

namespace Peft.Tests.Golden;

/// <summary>
/// Finds the golden cases: folders with a <c>case.json</c> under <c>$PEFT_GOLDEN</c>, or under the committed archives of
/// <c>tests/golden</c>, which are unpacked once into <c>artifacts/golden</c>, and the folders of <c>tests/golden/recorded</c>.
/// </summary>
/// <remarks>
/// <c>PEFT_GOLDEN</c> may hold any mix of domain folders (<c>families</c>, <c>adapters</c>, ...), be one of them, or lie inside one.
/// <c>PEFT_GOLDEN_PATTERN</c> keeps the cases whose path (<c>adapters/cases/lora_qv</c> or <c>cases/lora_qv</c>) matches the wildcard.
/// </remarks>
public static class GoldenCases
{
    private static readonly string[] s_domains =
        ["families", "adapters", "training", "initialisation", "quantisation", "tokenizers", "gguf", "diffusion"];

    private static readonly Lazy<string> s_root = new(FindRoot);

    /// <summary>The folder that holds the domain folders (or is one of them).</summary>
    public static string Root => s_root.Value;

    /// <summary>The root of the checkout.</summary>
    public static string Repository => RepositoryRoot.Folder;

    /// <summary>Every domain that exists.</summary>
    public static IReadOnlyList<string> Domains => s_domains;

    /// <summary>Whether a case that ends in <see cref="NotSupportedByPeftException"/> fails instead of being skipped.</summary>
    public static bool Strict => Environment.GetEnvironmentVariable("PEFT_GOLDEN_STRICT") == "1";

    /// <summary>The folder of a domain under <see cref="Root"/>, or null where it isn't there.</summary>
    public static string? DomainFolder(string domain)
    {
        var inside = Path.Combine(Root, domain);
        if (Directory.Exists(inside))
        {
            return inside;
        }

        for (var folder = new DirectoryInfo(Root); folder is not null; folder = folder.Parent)
        {
            if (folder.Name == domain)
            {
                return folder.FullName;
            }
        }

        return null;
    }

    /// <summary>The full path of something in a domain: a case that <see cref="Enumerate"/> gave, or a shared file.</summary>
    public static string PathOf(string domain, string relative) =>
        Path.Combine(DomainFolder(domain) ?? throw new DirectoryNotFoundException($"no golden domain {domain} under {Root}"), relative);

    /// <summary>
    /// The case folders of a domain, relative to the domain's folder, sorted, with <c>/</c>. Empty where the domain is missing.
    /// </summary>
    /// <param name="domain">One of <see cref="Domains"/>.</param>
    /// <param name="under">Keeps only the cases whose relative path starts so (<c>cases/</c>).</param>
    public static IEnumerable<string> Enumerate(string domain, string under = "")
    {
        if (DomainFolder(domain) is not { } folder)
        {
            return [];
        }

        var start = folder.StartsWith(Root, StringComparison.Ordinal) ? folder : Root;
        var pattern = Environment.GetEnvironmentVariable("PEFT_GOLDEN_PATTERN");
        return Directory.EnumerateFiles(start, "case.json", SearchOption.AllDirectories)
            .Select(file => Path.GetRelativePath(folder, Path.GetDirectoryName(file)!).Replace('\\', '/'))
            .Where(path => path.StartsWith(under, StringComparison.Ordinal) && Matches(domain, path, pattern))
            .Order(StringComparer.Ordinal);
    }

    /// <summary>The JSON files in a folder of a domain, by name without extension, sorted. Empty where the folder is missing.</summary>
    public static IEnumerable<string> Files(string domain, string folder)
    {
        var pattern = Environment.GetEnvironmentVariable("PEFT_GOLDEN_PATTERN");
        return DomainFolder(domain) is { } root && Directory.Exists(Path.Combine(root, folder))
            ? Directory.EnumerateFiles(Path.Combine(root, folder), "*.json")
                .Select(static file => Path.GetFileNameWithoutExtension(file))
                .Where(name => Matches(domain, $"{folder}/{name}", pattern))
                .Order(StringComparer.Ordinal)
            : [];
    }

    /// <summary>
    /// Runs one case: hands its full folder to <paramref name="body"/> and turns the product's own not-supported error into a skip.
    /// </summary>
    public static void Run(string domain, string path, Action<string> body)
    {
        ArgumentNullException.ThrowIfNull(body);
        try
        {
            body(PathOf(domain, path));
        }
        catch (NotSupportedByPeftException error) when (!Strict)
        {
            Skip.If(true, $"{domain}/{path}: {error.ErrorId}: {error.Message}");
        }
    }

    private static bool Matches(string domain, string path, string? pattern) =>
        string.IsNullOrEmpty(pattern)
        || FileSystemName.MatchesSimpleExpression(pattern, path, ignoreCase: false)
        || FileSystemName.MatchesSimpleExpression(pattern, domain + "/" + path, ignoreCase: false);

    private static string FindRoot()
    {
        var given = Environment.GetEnvironmentVariable("PEFT_GOLDEN");
        if (!string.IsNullOrEmpty(given))
        {
            return Directory.Exists(given)
                ? Path.TrimEndingDirectorySeparator(Path.GetFullPath(given))
                : throw new DirectoryNotFoundException($"PEFT_GOLDEN names no folder: {given}");
        }

        var root = Path.Combine(Repository, "artifacts", "golden");
        Directory.CreateDirectory(root);
        using var gate = Lock(Path.Combine(root, ".lock"));
        foreach (var domain in s_domains)
        {
            Unpack(Path.Combine(Repository, "tests", "golden", domain + ".tar.gz"), root, domain);
        }

        AddRecorded(Path.Combine(Repository, "tests", "golden", "recorded"), root);

        return root;
    }

    /// <summary>Cases that were recorded after the archives lie beside them as folders.</summary>
    private static void AddRecorded(string recorded, string root)
    {
        foreach (var file in Directory.Exists(recorded) ? Directory.GetFiles(recorded, "*", SearchOption.AllDirectories) : [])
        {
            var target = Path.Combine(root, Path.GetRelativePath(recorded, file));
            if (File.GetLastWriteTimeUtc(target) != File.GetLastWriteTimeUtc(file))
            {
                Directory.CreateDirectory(Path.GetDirectoryName(target)!);
                File.Copy(file, target, overwrite: true);
            }
        }
    }

    /// <summary>One test process at a time unpacks; the others wait for it.</summary>
    private static FileStream Lock(string path)
    {
        for (var waited = 0; ; waited++)
        {
            try
            {
                return new FileStream(path, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None);
            }
            catch (IOException) when (waited < 1200)
            {
                Thread.Sleep(50);
            }
        }
    }

    private static void Unpack(string archive, string root, string domain)
    {
        if (!File.Exists(archive))
        {
            return;
        }

        using var bytes = File.OpenRead(archive);
        var hash = Convert.ToHexString(SHA256.HashData(bytes));
        var mark = Path.Combine(root, domain + ".sha256");
        var target = Path.Combine(root, domain);
        if (Directory.Exists(target) && File.Exists(mark) && File.ReadAllText(mark) == hash)
        {
            return;
        }

        var fresh = Path.Combine(root, ".unpacking-" + Guid.NewGuid().ToString("N"));
        Directory.CreateDirectory(fresh);
        bytes.Position = 0;
        using (var plain = new GZipStream(bytes, CompressionMode.Decompress))
        {
            TarFile.ExtractToDirectory(plain, fresh, overwriteFiles: true);
        }

        if (Directory.Exists(target))
        {
            Directory.Delete(target, recursive: true);
        }

        Directory.Move(Path.Combine(fresh, domain), target);
        Directory.Delete(fresh, recursive: true);
        File.WriteAllText(mark, hash);
    }
}
