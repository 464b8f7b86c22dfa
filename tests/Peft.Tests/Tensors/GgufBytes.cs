using System.Text;

namespace Peft.Tests.Tensors;

/// <summary>Writes GGUF files, sound or not.</summary>
internal sealed class GgufBytes
{
    private readonly List<byte> _values = [];
    private readonly List<byte> _tensors = [];
    private ulong _valueCount;
    private ulong _tensorCount;

    public string Magic { get; set; } = "GGUF";

    public uint Version { get; set; } = 3;

    public ulong? TensorCount { get; set; }

    public ulong? ValueCount { get; set; }

    public byte[] Data { get; set; } = [];

    public void Value(string key, uint type, byte[] value)
    {
        _valueCount++;
        _values.AddRange([.. String(key), .. BitConverter.GetBytes(type), .. value]);
    }

    public void Number(string key, uint value) => Value(key, 4, BitConverter.GetBytes(value));

    public void Text(string key, string value) => Value(key, 8, String(value));

    public void Texts(string key, params string[] values) =>
        Value(key, 9, [.. BitConverter.GetBytes(8u), .. BitConverter.GetBytes((ulong)values.Length), .. values.SelectMany(String)]);

    public void Nested(string key, int depth) =>
        Value(key, 9, [.. Enumerable.Repeat((byte[])[.. BitConverter.GetBytes(9u), .. BitConverter.GetBytes(1ul)], depth).SelectMany(bytes => bytes), .. new byte[64]]);

    public void Tensor(string name, uint type, ulong offset, params ulong[] shape)
    {
        _tensorCount++;
        _tensors.AddRange([.. String(name), .. BitConverter.GetBytes((uint)shape.Length), .. shape.SelectMany(BitConverter.GetBytes), .. BitConverter.GetBytes(type), .. BitConverter.GetBytes(offset)]);
    }

    public byte[] Bytes()
    {
        byte[] header =
        [
            .. Encoding.ASCII.GetBytes(Magic), .. BitConverter.GetBytes(Version),
            .. BitConverter.GetBytes(TensorCount ?? _tensorCount), .. BitConverter.GetBytes(ValueCount ?? _valueCount), .. _values, .. _tensors,
        ];
        return [.. header, .. new byte[(32 - (header.Length % 32)) % 32], .. Data];
    }

    private static byte[] String(string text) => [.. BitConverter.GetBytes((ulong)Encoding.UTF8.GetByteCount(text)), .. Encoding.UTF8.GetBytes(text)];
}
