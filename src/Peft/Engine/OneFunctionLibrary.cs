using System.Buffers.Binary;
using System.Text;

namespace Peft.Engine;

/// <summary>
/// A shared library for x86-64 Linux that exports one function which returns a constant: the least that the loader takes (System V
/// ABI, chapters 4 and 5). Made here so that no compiler is needed and no binary file lies about.
/// </summary>
internal static class OneFunctionLibrary
{
    private const int Header = 64;
    private const int ProgramHeader = 56;
    private const int ProgramHeaders = 4;
    private const int Symbol = 24;
    private const int DynamicEntry = 16;
    private const int DynamicEntries = 6;
    private const ulong Page = 0x1000;

    /// <summary>The library's bytes.</summary>
    /// <param name="function">Name of the function, <c>int function(void)</c>.</param>
    /// <param name="result">What it returns.</param>
    public static byte[] Make(string function, int result)
    {
        var name = Encoding.ASCII.GetBytes(function);
        var symbols = Header + (ProgramHeaders * ProgramHeader);
        var hash = symbols + (2 * Symbol);
        var strings = hash + (6 * 4);
        var stringsSize = name.Length + 2;
        var code = Align(strings + stringsSize, 16);
        var dynamic = Align(code + 6, 16);
        var size = dynamic + (DynamicEntries * DynamicEntry);
        var image = new byte[size];

        WriteHeader(image);

        // Everything is mapped once, to read and to run; the loader writes into the dynamic section, so that page is mapped a second time, writable.
        WriteProgramHeader(image, 0, type: 1, flags: 5, offset: 0, address: 0, size: (ulong)size);
        WriteProgramHeader(image, 1, type: 1, flags: 6, offset: 0, address: Page, size: (ulong)size);
        WriteProgramHeader(image, 2, type: 2, flags: 6, offset: (ulong)dynamic, address: Page + (ulong)dynamic, size: DynamicEntries * DynamicEntry);

        // PT_GNU_STACK: without it the loader would want an executable stack.
        WriteProgramHeader(image, 3, type: 0x6474E551, flags: 6, offset: 0, address: 0, size: 0);

        // The second symbol (the first stands for none): a global function in section 1, any that isn't "undefined".
        var symbol = image.AsSpan(symbols + Symbol, Symbol);
        BinaryPrimitives.WriteUInt32LittleEndian(symbol, 1);
        symbol[4] = 0x12;
        BinaryPrimitives.WriteUInt16LittleEndian(symbol[6..], 1);
        BinaryPrimitives.WriteUInt64LittleEndian(symbol[8..], (ulong)code);
        BinaryPrimitives.WriteUInt64LittleEndian(symbol[16..], 6);

        // A hash table of one bucket, whose chain holds the one symbol.
        uint[] table = [1, 2, 1, 0, 0, 0];
        for (var i = 0; i < table.Length; i++)
        {
            BinaryPrimitives.WriteUInt32LittleEndian(image.AsSpan(hash + (4 * i)), table[i]);
        }

        name.CopyTo(image, strings + 1);

        // mov eax, result; ret
        image[code] = 0xB8;
        BinaryPrimitives.WriteInt32LittleEndian(image.AsSpan(code + 1), result);
        image[code + 5] = 0xC3;

        // DT_HASH, DT_STRTAB, DT_SYMTAB, DT_STRSZ, DT_SYMENT, DT_NULL.
        (ulong Tag, ulong Value)[] entries =
            [(4, (ulong)hash), (5, (ulong)strings), (6, (ulong)symbols), (10, (ulong)stringsSize), (11, Symbol), (0, 0)];
        for (var i = 0; i < entries.Length; i++)
        {
            BinaryPrimitives.WriteUInt64LittleEndian(image.AsSpan(dynamic + (i * DynamicEntry)), entries[i].Tag);
            BinaryPrimitives.WriteUInt64LittleEndian(image.AsSpan(dynamic + (i * DynamicEntry) + 8), entries[i].Value);
        }

        return image;
    }

    private static void WriteHeader(byte[] image)
    {
        ReadOnlySpan<byte> identity = [0x7F, (byte)'E', (byte)'L', (byte)'F', 2, 1, 1];
        identity.CopyTo(image);
        var header = image.AsSpan();
        BinaryPrimitives.WriteUInt16LittleEndian(header[16..], 3);
        BinaryPrimitives.WriteUInt16LittleEndian(header[18..], 62);
        BinaryPrimitives.WriteUInt32LittleEndian(header[20..], 1);
        BinaryPrimitives.WriteUInt64LittleEndian(header[32..], Header);
        BinaryPrimitives.WriteUInt16LittleEndian(header[52..], Header);
        BinaryPrimitives.WriteUInt16LittleEndian(header[54..], ProgramHeader);
        BinaryPrimitives.WriteUInt16LittleEndian(header[56..], ProgramHeaders);
        BinaryPrimitives.WriteUInt16LittleEndian(header[58..], 64);
    }

    private static void WriteProgramHeader(byte[] image, int index, uint type, uint flags, ulong offset, ulong address, ulong size)
    {
        var header = image.AsSpan(Header + (index * ProgramHeader), ProgramHeader);
        BinaryPrimitives.WriteUInt32LittleEndian(header, type);
        BinaryPrimitives.WriteUInt32LittleEndian(header[4..], flags);
        BinaryPrimitives.WriteUInt64LittleEndian(header[8..], offset);
        BinaryPrimitives.WriteUInt64LittleEndian(header[16..], address);
        BinaryPrimitives.WriteUInt64LittleEndian(header[24..], address);
        BinaryPrimitives.WriteUInt64LittleEndian(header[32..], size);
        BinaryPrimitives.WriteUInt64LittleEndian(header[40..], size);
        BinaryPrimitives.WriteUInt64LittleEndian(header[48..], type == 1 ? Page : 8);
    }

    private static int Align(int offset, int to) => (offset + to - 1) / to * to;
}
