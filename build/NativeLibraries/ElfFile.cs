using System.Buffers.Binary;
using System.Text;

namespace Peft.Build;

/// <summary>A version that an ELF file asks of a library it needs: one <c>Elf64_Vernaux</c> entry of its <c>.gnu.version_r</c>.</summary>
/// <param name="Library">The library's file name, such as <c>libstdc++.so.6</c>.</param>
/// <param name="Version">The version's name, such as <c>GLIBCXX_3.4.32</c>.</param>
/// <param name="Index">What <c>.gnu.version</c> says of a symbol that is bound to this version.</param>
/// <param name="IsWeak">Whether the loader only warns where the library lacks the version.</param>
/// <param name="FlagsOffset">Where the entry's 16 flag bits lie in the file.</param>
internal sealed record VersionNeed(string Library, string Version, int Index, bool IsWeak, int FlagsOffset);

/// <summary>
/// The symbol versions of a 64-bit little-endian ELF file, which a loader checks before it takes a library: those it needs of others,
/// those it defines, and the symbols that are bound to each.
/// </summary>
/// <remarks>Layout: System V ABI, chapter 4, and the GNU extensions described in the Linux Standard Base, "Symbol Versioning".</remarks>
internal sealed class ElfFile
{
    private const uint DynamicSymbols = 11;
    private const uint VersionDefinitions = 0x6ffffffd;
    private const uint VersionNeeds = 0x6ffffffe;
    private const uint SymbolVersions = 0x6fffffff;
    private const ushort WeakFlag = 2;
    private const int HiddenBit = 0x8000;
    private const int SymbolLength = 24;

    private readonly byte[] _bytes;
    private readonly List<Section> _sections = [];

    private ElfFile(byte[] bytes)
    {
        _bytes = bytes;
        var start = checked((int)Long(40));
        _ = _bytes.AsSpan(start, Short(58) * Short(60));
        for (var i = 0; i < Short(60); i++)
        {
            var at = start + (i * Short(58));
            _sections.Add(new Section(Word(at + 4), checked((int)Long(at + 24)), checked((int)Long(at + 32)), checked((int)Word(at + 40)), checked((int)Word(at + 44))));
        }

        Needs = [.. ReadNeeds()];
        Definitions = ReadDefinitions().ToHashSet(StringComparer.Ordinal);
        Symbols = [.. ReadSymbols()];
    }

    /// <summary>Every version that this file asks for.</summary>
    public IReadOnlyList<VersionNeed> Needs { get; }

    /// <summary>The names of the versions that this file has.</summary>
    public IReadOnlySet<string> Definitions { get; }

    /// <summary>The dynamic symbols with the index of the version each is bound to; 0 and 1 stand for none.</summary>
    public IReadOnlyList<(string Name, int Version)> Symbols { get; }

    /// <summary>Reads a file.</summary>
    /// <exception cref="InvalidDataException">It is no 64-bit little-endian ELF file, or ends before its own tables do.</exception>
    public static ElfFile Read(string path)
    {
        var bytes = File.ReadAllBytes(path);
        if (bytes is not [0x7f, (byte)'E', (byte)'L', (byte)'F', 2, 1, ..] || bytes.Length < 64)
        {
            throw new InvalidDataException($"{Path.GetFileName(path)} is no 64-bit little-endian ELF file.");
        }

        try
        {
            return new ElfFile(bytes);
        }
        catch (Exception error) when (error is ArgumentException or IndexOutOfRangeException or OverflowException)
        {
            throw new InvalidDataException($"{Path.GetFileName(path)} ends before its own tables do.", error);
        }
    }

    /// <summary>Writes a copy in which needs are weak.</summary>
    /// <param name="path">The copy, which appears whole; a file of that name is replaced, not written into, for it may be a hard link.</param>
    /// <param name="needs">Some of <see cref="Needs"/>.</param>
    public void Write(string path, IEnumerable<VersionNeed> needs)
    {
        var copy = _bytes.ToArray();
        foreach (var need in needs)
        {
            BinaryPrimitives.WriteUInt16LittleEndian(copy.AsSpan(need.FlagsOffset), (ushort)(Short(need.FlagsOffset) | WeakFlag));
        }

        var temporary = $"{path}.{Environment.ProcessId}.tmp";
        File.WriteAllBytes(temporary, copy);
        File.Move(temporary, path, overwrite: true);
    }

    private IEnumerable<VersionNeed> ReadNeeds()
    {
        foreach (var section in _sections.Where(section => section.Type == VersionNeeds))
        {
            foreach (var need in Chain(section.Offset, section.Info, next: 12))
            {
                var library = Text(section, Word(need + 4));
                foreach (var auxiliary in Chain(need + checked((int)Word(need + 8)), Short(need + 2), next: 12))
                {
                    yield return new VersionNeed(
                        library, Text(section, Word(auxiliary + 8)), Short(auxiliary + 6), (Short(auxiliary + 4) & WeakFlag) != 0, auxiliary + 4);
                }
            }
        }
    }

    private IEnumerable<string> ReadDefinitions() =>
        from section in _sections
        where section.Type == VersionDefinitions
        from definition in Chain(section.Offset, section.Info, next: 16)
        select Text(section, Word(definition + checked((int)Word(definition + 12))));

    private IEnumerable<(string Name, int Version)> ReadSymbols()
    {
        var symbols = _sections.Find(section => section.Type == DynamicSymbols);
        var versions = _sections.Find(section => section.Type == SymbolVersions);
        if (symbols is null || versions is null)
        {
            yield break;
        }

        for (var i = 0; i < symbols.Length / SymbolLength; i++)
        {
            yield return (Text(symbols, Word(symbols.Offset + (i * SymbolLength))), Short(versions.Offset + (2 * i)) & ~HiddenBit);
        }
    }

    /// <summary>The offsets of entries each of which says, <paramref name="next"/> bytes in, how far the following one is.</summary>
    private IEnumerable<int> Chain(int offset, int count, int next)
    {
        for (var i = 0; i < count; i++)
        {
            yield return offset;
            offset += checked((int)Word(offset + next));
        }
    }

    private string Text(Section user, uint offset)
    {
        var bytes = _bytes.AsSpan(checked(_sections[user.Link].Offset + (int)offset));
        return Encoding.UTF8.GetString(bytes[..bytes.IndexOf((byte)0)]);
    }

    private ushort Short(int offset) => BinaryPrimitives.ReadUInt16LittleEndian(_bytes.AsSpan(offset));

    private uint Word(int offset) => BinaryPrimitives.ReadUInt32LittleEndian(_bytes.AsSpan(offset));

    private ulong Long(int offset) => BinaryPrimitives.ReadUInt64LittleEndian(_bytes.AsSpan(offset));

    private sealed record Section(uint Type, int Offset, int Length, int Link, int Info);
}
