using System.Reflection.PortableExecutable;

namespace Peft.Build;

/// <summary>The libraries that a Windows library asks its loader for.</summary>
/// <remarks>Layout: Microsoft's PE Format, "The .idata Section" and "Delay-Load Import Tables".</remarks>
internal static class PeFile
{
    private const int ImportLength = 20;
    private const int ImportName = 12;
    private const int DelayedLength = 32;
    private const int DelayedName = 4;

    /// <summary>The names, as the file spells them: what it can't be loaded without, and then what it looks for when first used.</summary>
    /// <exception cref="InvalidDataException">It has no header of a Windows library.</exception>
    public static (IReadOnlyList<string> Needed, IReadOnlyList<string> Delayed) Imports(string path)
    {
        using var reader = new PEReader(File.OpenRead(path));
        var header = reader.PEHeaders.PEHeader ?? throw new InvalidDataException($"{Path.GetFileName(path)} is no library of Windows.");
        return (
            [.. Names(reader, header.ImportTableDirectory, ImportLength, ImportName)],
            [.. Names(reader, header.DelayImportTableDirectory, DelayedLength, DelayedName)]);
    }

    /// <summary>The names of a table's entries, the last of which is zero.</summary>
    private static IEnumerable<string> Names(PEReader reader, DirectoryEntry directory, int length, int nameOffset)
    {
        for (var offset = 0; directory.RelativeVirtualAddress != 0; offset += length)
        {
            var entry = reader.GetSectionData(directory.RelativeVirtualAddress + offset).GetReader(0, length);
            entry.Offset = nameOffset;
            var name = entry.ReadInt32();
            if (name == 0)
            {
                yield break;
            }

            var text = reader.GetSectionData(name).GetReader();
            yield return text.ReadUTF8(Math.Max(text.IndexOf(0), 0));
        }
    }
}
