using ICSharpCode.SharpZipLib;
using ICSharpCode.SharpZipLib.GZip;
using ZstdSharp;

namespace Peft.Files;

/// <summary>A file that is read as it is, or unpacked where its first bytes say that it is compressed by gzip (RFC 1952) or Zstandard (RFC 8878).</summary>
internal sealed class CompressedFile : IDisposable
{
    private static readonly string[] s_extensions = [".gz", ".zst", ".zstd"];

    private CompressedFile(Stream stored, Stream content)
    {
        Stored = stored;
        Content = content;
    }

    /// <summary>The bytes on the disk, by whose position a reader knows how far it is.</summary>
    public Stream Stored { get; }

    /// <summary>What is in it.</summary>
    public Stream Content { get; }

    /// <summary>Opens a file.</summary>
    /// <param name="path">The file.</param>
    public static CompressedFile Open(string path)
    {
        var stored = File.OpenRead(path);
        try
        {
            return new CompressedFile(stored, Unpacked(stored));
        }
        catch
        {
            stored.Dispose();
            throw;
        }
    }

    /// <summary>What a stream holds, unpacked where it is compressed.</summary>
    /// <param name="stored">A stream that can go back to its start.</param>
    /// <remarks>.NET's own gzip takes a file that is cut off for a shorter one.</remarks>
    public static Stream Unpacked(Stream stored)
    {
        Span<byte> start = stackalloc byte[4];
        var count = stored.ReadAtLeast(start, start.Length, throwOnEndOfStream: false);
        stored.Position = 0;
        return start[..count] switch
        {
            [0x1F, 0x8B, ..] => new UnpackedStream(new GZipInputStream(stored)),
            [0x28, 0xB5, 0x2F, 0xFD] => new UnpackedStream(new DecompressionStream(stored)),
            _ => stored,
        };
    }

    /// <summary>Whether an error says that a compressed file is damaged or cut off.</summary>
    public static bool IsDamage(Exception error) => error is SharpZipBaseException or ZstdException or InvalidDataException or EndOfStreamException;

    /// <summary>A path without the ending that says how its file is compressed.</summary>
    public static string PlainName(string path) =>
        Array.Find(s_extensions, extension => path.EndsWith(extension, StringComparison.OrdinalIgnoreCase)) is { } found ? path[..^found.Length] : path;

    /// <inheritdoc/>
    public void Dispose()
    {
        Content.Dispose();
        Stored.Dispose();
    }
}
