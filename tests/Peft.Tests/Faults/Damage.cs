using System.Buffers.Binary;
using System.IO.Compression;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace Peft.Tests.Faults;

/// <summary>What disks, networks and editors do to files.</summary>
internal static class Damage
{
    /// <summary>A damaged copy of a file: of its bytes, or of what its format lets through to the reader behind it (JSON's values, a header's entries, what is packed).</summary>
    /// <param name="name">The file's name, whose ending tells the format.</param>
    /// <param name="whole">The sound bytes.</param>
    /// <param name="random">Chooses the faults and their places.</param>
    /// <returns>The damaged bytes.</returns>
    public static byte[] Of(string name, byte[] whole, Random random) => Path.GetExtension(name) switch
    {
        ".json" => JsonDamage.Apply(whole, random),
        _ when random.Next(3) == 0 => Apply(whole, random),
        ".safetensors" => Header(whole, random),
        ".bin" or ".pt" or ".ckpt" when whole.AsSpan().StartsWith("PK"u8) => Archive(whole, random),
        ".gz" => Packed(whole, random),
        _ => Apply(whole, random),
    };

    /// <summary>A copy of a file's bytes with one to four faults: a flipped bit, a cut end, a piece doubled, left out, or overwritten by zeros.</summary>
    /// <param name="whole">The sound bytes.</param>
    /// <param name="random">Chooses the faults and their places.</param>
    /// <returns>The damaged bytes.</returns>
    public static byte[] Apply(byte[] whole, Random random)
    {
        var bytes = whole.ToArray();
        for (var faults = random.Next(1, 5); faults > 0 && bytes.Length > 0; faults--)
        {
            var (start, length) = Piece(bytes.Length, random);
            bytes = random.Next(5) switch
            {
                0 => Flip(bytes, start, random.Next(8)),
                1 => bytes[..start],
                2 => [.. bytes[..(start + length)], .. bytes[start..]],
                3 => [.. bytes[..start], .. bytes[(start + length)..]],
                _ => [.. bytes[..start], .. new byte[length], .. bytes[(start + length)..]],
            };
        }

        return bytes;
    }

    /// <summary>A safetensors file whose header is damaged and says its own length rightly.</summary>
    private static byte[] Header(byte[] whole, Random random)
    {
        if (whole.Length < 8 || BinaryPrimitives.ReadInt64LittleEndian(whole) is not (> 0 and var length) || length > whole.Length - 8)
        {
            return Apply(whole, random);
        }

        var header = whole[8..(int)(8 + length)];
        header = random.Next(2) == 0 ? JsonDamage.Apply(header, random) : Exchanged(header, random);
        var size = new byte[8];
        BinaryPrimitives.WriteInt64LittleEndian(size, header.Length);
        return [.. size, .. header, .. whole[(int)(8 + length)..]];
    }

    /// <summary>A header that is sound but another's: two tensors have each other's names, or one has another shape of as many elements.</summary>
    private static byte[] Exchanged(byte[] header, Random random)
    {
        var entries = JsonNode.Parse(header)!.AsObject();
        string[] names = [.. entries.Select(static entry => entry.Key).Where(static name => name != "__metadata__")];
        if (names.Length == 0)
        {
            return JsonDamage.Apply(header, random);
        }

        var (one, other) = (names[random.Next(names.Length)], names[random.Next(names.Length)]);
        if (random.Next(2) == 0)
        {
            var first = entries[one]!.DeepClone();
            entries[one] = entries[other]!.DeepClone();
            entries[other] = first;
        }
        else
        {
            long[] shape = [.. entries[one]!["shape"]!.AsArray().Select(static size => (long)size!)];
            long[] changed = random.Next(4) switch
            {
                0 => [shape.Aggregate(1L, static (product, size) => product * size)],
                1 => [1, .. shape],
                2 => [.. shape, 1],
                _ => [.. shape.Reverse()],
            };
            entries[one]!["shape"] = new JsonArray([.. changed.Select(static size => JsonValue.Create(size))]);
        }

        return JsonSerializer.SerializeToUtf8Bytes(entries);
    }

    /// <summary>A zip file with the right checksum over a damaged part.</summary>
    private static byte[] Archive(byte[] whole, Random random)
    {
        using var result = new MemoryStream();
        using (var source = new ZipArchive(new MemoryStream(whole)))
        using (var target = new ZipArchive(result, ZipArchiveMode.Create, leaveOpen: true))
        {
            var pickle = source.Entries.First(static entry => entry.Name == "data.pkl");
            var damaged = random.Next(4) == 0 ? source.Entries[random.Next(source.Entries.Count)] : pickle;
            foreach (var entry in source.Entries)
            {
                using var content = new MemoryStream();
                using (var from = entry.Open())
                {
                    from.CopyTo(content);
                }

                using var to = target.CreateEntry(entry.FullName, CompressionLevel.NoCompression).Open();
                to.Write(entry == damaged ? Apply(content.ToArray(), random) : content.ToArray());
            }
        }

        return result.ToArray();
    }

    /// <summary>A gzip file with the right checksum over damaged content.</summary>
    private static byte[] Packed(byte[] whole, Random random)
    {
        using var content = new MemoryStream();
        using (var from = new GZipStream(new MemoryStream(whole), CompressionMode.Decompress))
        {
            from.CopyTo(content);
        }

        using var result = new MemoryStream();
        using (var to = new GZipStream(result, CompressionMode.Compress, leaveOpen: true))
        {
            to.Write(Apply(content.ToArray(), random));
        }

        return result.ToArray();
    }

    /// <summary>Short pieces near the beginning come as often as any others, for headers are there.</summary>
    private static (int Start, int Length) Piece(int size, Random random)
    {
        var start = random.Next(random.Next(2) == 0 ? size : Math.Min(size, 200));
        return (start, random.Next(1, Math.Min(size - start, 64) + 1));
    }

    private static byte[] Flip(byte[] bytes, int index, int bit)
    {
        bytes[index] ^= (byte)(1 << bit);
        return bytes;
    }
}
