using System.Buffers.Binary;
using System.Text;

namespace Peft.Tensors.Gguf;

/// <summary>Reads the header of a GGUF file step by step; nothing is read beyond the end, and no count is believed that the file can't hold.</summary>
internal unsafe ref struct GgufCursor
{
    private readonly byte* _start;
    private readonly long _length;
    private readonly string _path;

    /// <summary>Starts at a position.</summary>
    /// <param name="start">The file's first byte.</param>
    /// <param name="length">The file's length.</param>
    /// <param name="position">Where to start.</param>
    /// <param name="path">The file, for messages.</param>
    public GgufCursor(byte* start, long length, long position, string path)
    {
        _start = start;
        _length = length;
        _path = path;
        Position = position;
    }

    /// <summary>Bytes from the start of the file.</summary>
    public long Position { get; private set; }

    /// <summary>Takes some bytes.</summary>
    /// <param name="count">How many.</param>
    /// <param name="what">What they are, for messages.</param>
    /// <returns>The bytes.</returns>
    /// <exception cref="PeftException"><c>GgufTruncated</c>.</exception>
    public ReadOnlySpan<byte> Take(int count, string what)
    {
        Demand((ulong)count, 1, what);
        var bytes = new ReadOnlySpan<byte>(_start + Position, count);
        Position += count;
        return bytes;
    }

    /// <summary>Makes sure that a number of things fits into the rest of the file.</summary>
    /// <param name="count">How many the file claims.</param>
    /// <param name="size">Bytes each takes at least.</param>
    /// <param name="what">What they are, for messages.</param>
    public readonly void Demand(ulong count, int size, string what)
    {
        if (count > (ulong)(_length - Position) / (ulong)size)
        {
            throw GgufFile.Damaged("GgufTruncated", _path, $"{what} at byte {Position} would reach beyond its end");
        }
    }

    /// <summary>Passes over some bytes.</summary>
    /// <param name="count">How many things.</param>
    /// <param name="size">Bytes each takes.</param>
    /// <param name="what">What they are, for messages.</param>
    public void Skip(ulong count, int size, string what)
    {
        Demand(count, size, what);
        Position += (long)count * size;
    }

    /// <summary>An unsigned 32-bit number.</summary>
    public uint UInt32(string what) => BinaryPrimitives.ReadUInt32LittleEndian(Take(4, what));

    /// <summary>An unsigned 64-bit number.</summary>
    public ulong UInt64(string what) => BinaryPrimitives.ReadUInt64LittleEndian(Take(8, what));

    /// <summary>A string: its length in bytes and its UTF-8 text.</summary>
    public string Text(string what) => Encoding.UTF8.GetString(Take(TextLength(what), what));

    /// <summary>Passes over a string.</summary>
    public void SkipText(string what)
    {
        var length = TextLength(what);
        Position += length;
    }

    private int TextLength(string what)
    {
        var length = UInt64(what);
        Demand(length, 1, what);
        return length <= int.MaxValue / 2 ? (int)length : throw GgufFile.Damaged("GgufStringTooLong", _path, $"{what} claims to be a string of {length} bytes");
    }
}
