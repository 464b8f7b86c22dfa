using System.Security.Cryptography;
using System.Text;
using Peft.Files;

namespace Peft.Training.Checkpoints;

/// <summary>
/// The SHA-256 of every file in a checkpoint, as <c>sha256sum</c> writes and checks them. The list is written last, so a folder without it is no
/// checkpoint, and one whose files it doesn't fit is damaged; so is one of whose own files it leaves any out.
/// </summary>
internal static class Checksums
{
    /// <summary>The list's name in a checkpoint.</summary>
    public const string FileName = "SHA256SUMS";

    /// <summary>Writes the list of the files that are there.</summary>
    public static void Write(string folder) => AtomicFile.WriteText(
        Path.Combine(folder, FileName),
        string.Concat(Directory.GetFiles(folder).Order(StringComparer.Ordinal).Select(static path => $"{Of(path)}  {Path.GetFileName(path)}\n")));

    /// <summary>What is wrong with a folder's files, or null.</summary>
    public static string? Problem(string folder)
    {
        try
        {
            var list = Path.Combine(folder, FileName);
            if (!File.Exists(list))
            {
                return $"it has no {FileName}, so it isn't complete";
            }

            var text = File.ReadAllText(list, Encoding.UTF8);
            string[] lines = [.. text.Split('\n').SkipLast(1)];
            return text.Length == 0 ? $"{FileName} is empty"
                : lines.Select(line => ProblemOf(folder, line)).FirstOrDefault(static problem => problem is not null) ?? (IsWhole(folder, text, lines) ? null : $"{FileName} is damaged");
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            return error.Message;
        }
    }

    /// <summary>Whether a list is as it was written: no line is lost, doubled or out of its place.</summary>
    private static bool IsWhole(string folder, string text, string[] lines)
    {
        string[] names = [.. lines.Select(static line => line.Split("  ", 2)[1])];
        return text.EndsWith('\n') && names.SequenceEqual(names.Order(StringComparer.Ordinal).Distinct())
            && CheckpointStore.Files.All(name => name == FileName || names.Contains(name) || !File.Exists(Path.Combine(folder, name)));
    }

    private static string? ProblemOf(string folder, string line)
    {
        if (line.Split("  ", 2) is not [var sum, var name] || name.Length == 0 || name != Path.GetFileName(name))
        {
            return $"{FileName} is damaged";
        }

        var path = Path.Combine(folder, name);
        return !File.Exists(path) ? $"{name} is missing" : Of(path) != sum ? $"{name} isn't what was written" : null;
    }

    private static string Of(string path)
    {
        using var stream = File.OpenRead(path);
        return Convert.ToHexStringLower(SHA256.HashData(stream));
    }
}
