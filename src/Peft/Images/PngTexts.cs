using System.Buffers.Binary;
using System.IO.Compression;
using System.Text;

namespace Peft.Images;

/// <summary>The texts of a PNG (its chunks tEXt, zTXt and iTXt), where picture generators keep their settings.</summary>
internal static class PngTexts
{
    // A text of some megabytes is a workflow; more is no text.
    private const int MaxText = 1 << 24;

    private static ReadOnlySpan<byte> Signature => [0x89, (byte)'P', (byte)'N', (byte)'G', 13, 10, 26, 10];

    /// <summary>The texts by keyword. A damaged file gives those in front of the damage.</summary>
    public static IReadOnlyDictionary<string, string> Read(ReadOnlySpan<byte> png)
    {
        var texts = new Dictionary<string, string>(StringComparer.Ordinal);
        if (!png.StartsWith(Signature))
        {
            return texts;
        }

        for (var rest = png[Signature.Length..]; rest.Length >= 12;)
        {
            var length = BinaryPrimitives.ReadUInt32BigEndian(rest);
            if (length > rest.Length - 12)
            {
                break;
            }

            var kind = Encoding.ASCII.GetString(rest.Slice(4, 4));
            var body = rest.Slice(8, (int)length);
            var end = body.IndexOf((byte)0);
            if (kind is "tEXt" or "zTXt" or "iTXt" && end > 0 && Text(kind, body[(end + 1)..]) is { } text)
            {
                texts[Encoding.Latin1.GetString(body[..end])] = text;
            }

            rest = rest[((int)length + 12)..];
        }

        return texts;
    }

    /// <summary>A PNG with texts behind its header: in Latin letters where these suffice, as Python's writers do, else in UTF-8.</summary>
    public static byte[] Add(byte[] png, IReadOnlyDictionary<string, string> texts)
    {
        // The header is the first chunk, of 13 bytes.
        var header = Signature.Length + 12 + 13;
        using var result = new MemoryStream();
        result.Write(png.AsSpan(0, header));
        foreach (var (keyword, text) in texts)
        {
            var isLatin = text.All(static letter => letter <= 'ÿ');
            WriteChunk(
                result,
                isLatin ? "tEXt" : "iTXt",
                [.. Encoding.Latin1.GetBytes(keyword), 0, .. isLatin ? Encoding.Latin1.GetBytes(text) : [0, 0, 0, 0, .. Encoding.UTF8.GetBytes(text)]]);
        }

        result.Write(png.AsSpan(header));
        return result.ToArray();
    }

    private static string? Text(string kind, ReadOnlySpan<byte> body)
    {
        if (kind == "tEXt")
        {
            return Encoding.Latin1.GetString(body);
        }

        if (kind == "zTXt")
        {
            return body.Length > 1 && Inflate(body[1..]) is { } latin ? Encoding.Latin1.GetString(latin) : null;
        }

        // Whether it is compressed, how, the language, and the keyword in it.
        if (body.Length < 4 || body[2..].IndexOf((byte)0) is not (>= 0 and var language))
        {
            return null;
        }

        var translated = body[(3 + language)..];
        var text = translated[(translated.IndexOf((byte)0) + 1)..];
        return body[0] == 0 ? Encoding.UTF8.GetString(text) : Inflate(text) is { } plain ? Encoding.UTF8.GetString(plain) : null;
    }

    private static byte[]? Inflate(ReadOnlySpan<byte> data)
    {
        try
        {
            using var stream = new ZLibStream(new MemoryStream(data.ToArray()), CompressionMode.Decompress);
            var buffer = new byte[MaxText];
            var read = stream.ReadAtLeast(buffer, MaxText, throwOnEndOfStream: false);
            return buffer[..read];
        }
        catch (InvalidDataException)
        {
            return null;
        }
    }

    private static void WriteChunk(Stream stream, string kind, ReadOnlySpan<byte> body)
    {
        byte[] named = [.. Encoding.ASCII.GetBytes(kind), .. body];
        Span<byte> number = stackalloc byte[4];
        BinaryPrimitives.WriteInt32BigEndian(number, body.Length);
        stream.Write(number);
        stream.Write(named);
        BinaryPrimitives.WriteUInt32BigEndian(number, Checksum(named));
        stream.Write(number);
    }

    // PNG's CRC-32.
    private static uint Checksum(ReadOnlySpan<byte> bytes)
    {
        var sum = uint.MaxValue;
        foreach (var value in bytes)
        {
            sum ^= value;
            for (var bit = 0; bit < 8; bit++)
            {
                sum = (sum >> 1) ^ (0xEDB88320 & (0 - (sum & 1)));
            }
        }

        return ~sum;
    }
}
