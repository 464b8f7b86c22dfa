using System.Buffers;
using System.Text.Json;

namespace Peft.Hub;

/// <summary>A file of a repository, as the hub lists it.</summary>
/// <param name="Path">Its path in the repository, with <c>/</c>.</param>
/// <param name="Size">Its length in bytes.</param>
/// <param name="Hash">SHA-256 of its bytes where it is kept by LFS, else what git calls it (SHA-1), in lower-case hexadecimal digits.</param>
public sealed record HubFile(string Path, long Size, string Hash)
{
    private const int ShaOne = 40, ShaTwo = 64;

    // What Windows forbids in a name is refused everywhere: a cache may be shared.
    private static readonly SearchValues<char> s_forbidden = SearchValues.Create("\\:*?\"<>|");

    /// <summary>Whether the hash is SHA-256 of the bytes; else it is SHA-1 of git's blob.</summary>
    internal bool IsLargeFile => Hash.Length == ShaTwo;

    /// <summary>Reads a file's entry in the hub's answer.</summary>
    /// <exception cref="PeftException"><c>HubAnswerInvalid</c>.</exception>
    internal static HubFile Read(JsonElement entry)
    {
        var path = entry.GetProperty("rfilename").GetString() ?? string.Empty;
        var isLarge = entry.TryGetProperty("lfs", out var lfs) && lfs.ValueKind == JsonValueKind.Object;
        var source = isLarge ? lfs : entry;
        var hash = source.TryGetProperty(isLarge ? "sha256" : "blobId", out var text) ? text.GetString() : null;
        var size = source.TryGetProperty("size", out var number) && number.TryGetInt64(out var length) ? length : -1;
        return !IsInside(path) ? throw Invalid($"it lists a file whose name leads out of the folder: '{path}'")
            : size < 0 || hash is not { Length: ShaOne or ShaTwo } || !IsHash(hash) ? throw Invalid($"it lists '{path}' without a size and a hash")
            : new HubFile(path, size, hash);
    }

    /// <summary>Whether a text is made of the digits of a hash.</summary>
    internal static bool IsHash(string text) => text.All(char.IsAsciiHexDigitLower);

    /// <summary>The error of an answer that makes no sense.</summary>
    internal static PeftException Invalid(string what, Exception? error = null) => new("HubAnswerInvalid", $"The hub's answer can't be used: {what}.", error)
    {
        RecommendedAction = "Try again later. Where HF_ENDPOINT names another hub, see that it is one.",
    };

    private static bool IsInside(string path) => path.Split('/').All(static part =>
        part.Length > 0 && part[^1] is not (' ' or '.') && !part.AsSpan().ContainsAny(s_forbidden) && !part.Any(char.IsControl));
}
