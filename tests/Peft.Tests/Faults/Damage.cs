namespace Peft.Tests.Faults;

/// <summary>What disks, networks and editors do to files.</summary>
internal static class Damage
{
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
