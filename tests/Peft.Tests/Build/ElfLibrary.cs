using System.Buffers.Binary;
using System.Text;

namespace Peft.Tests.Build;

/// <summary>Makes the smallest library that asks for versions: the sections a loader looks at when it checks them, and no code.</summary>
internal sealed class ElfLibrary
{
    private readonly List<(string Library, string Version, bool Weak)> _needs = [];
    private readonly List<(string Name, int Version)> _symbols = [("", 0)];
    private readonly List<string> _definitions = [];

    /// <summary>Asks for a version, to which symbols are bound.</summary>
    public ElfLibrary Asks(string library, string version, bool weak, params string[] boundSymbols)
    {
        _needs.Add((library, version, weak));
        _symbols.AddRange(boundSymbols.Select(name => (name, _needs.Count + 1)));
        return this;
    }

    public ElfLibrary Defines(string version)
    {
        _definitions.Add(version);
        return this;
    }

    public byte[] ToBytes()
    {
        using var text = new MemoryStream();
        text.WriteByte(0);
        uint Text(string word)
        {
            var at = (uint)text.Position;
            text.Write(Encoding.UTF8.GetBytes(word + '\0'));
            return word.Length == 0 ? 0 : at;
        }

        var needed = _needs.GroupBy(need => need.Library).ToList();
        byte[][] contents =
        [
            [],
            Concat(_symbols.Select(symbol => Entry(24, (0, Text(symbol.Name), 4)))),
            Concat(_symbols.Select(symbol => Entry(2, (0, (uint)symbol.Version, 2)))),
            Concat(needed.Select((library, i) => Concat(
            [
                Entry(16, (0, 1, 2), (2, (uint)library.Count(), 2), (4, Text(library.Key), 4), (8, 16, 4), (12, i + 1 == needed.Count ? 0 : 16 + (16 * (uint)library.Count()), 4)),
                .. library.Select((need, k) => Entry(
                    16, (4, need.Weak ? 2u : 0, 2), (6, (uint)_needs.IndexOf(need) + 2, 2), (8, Text(need.Version), 4), (12, k + 1 == library.Count() ? 0u : 16, 4))),
            ]))),
            Concat(_definitions.Select((version, i) => Concat(
                [Entry(20, (0, 1, 2), (6, 1, 2), (12, 20, 4), (16, i + 1 == _definitions.Count ? 0u : 28, 4)), Entry(8, (0, Text(version), 4))]))),
            [],
        ];
        uint[] types = [0, 11, 0x6fffffff, 0x6ffffffe, 0x6ffffffd, 3];
        uint[] counts = [0, 0, 0, (uint)needed.Count, (uint)_definitions.Count, 0];
        contents[^1] = text.ToArray();
        var offset = 64u;
        var headers = new List<byte[]>();
        for (var i = 0; i < contents.Length; i++)
        {
            headers.Add(Entry(64, (4, types[i], 4), (24, offset, 8), (32, (uint)contents[i].Length, 8), (40, 5, 4), (44, counts[i], 4)));
            offset += (uint)contents[i].Length;
        }

        var start = Entry(64, (0, 0x464c457f, 4), (4, 0x0102, 2), (40, offset, 8), (58, 64, 2), (60, (uint)contents.Length, 2));
        return Concat([start, .. contents, .. headers]);
    }

    private static byte[] Concat(IEnumerable<byte[]> parts) => [.. parts.SelectMany(part => part)];

    /// <summary>A structure of fields, each an offset, a value and a length of 2, 4 or 8 bytes.</summary>
    private static byte[] Entry(int length, params (int Offset, uint Value, int Length)[] fields)
    {
        var bytes = new byte[length];
        foreach (var (offset, value, size) in fields)
        {
            if (size == 2)
            {
                BinaryPrimitives.WriteUInt16LittleEndian(bytes.AsSpan(offset), (ushort)value);
            }
            else
            {
                BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(offset), value);
            }
        }

        return bytes;
    }
}
