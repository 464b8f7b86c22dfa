using System.Runtime.InteropServices;

namespace Peft.Tokenization.Models;

/// <summary>
/// Remembers how recent words were cut. One slot a hash value, each written whole by a single reference, so that threads need no lock;
/// a lost entry is only worked out again.
/// </summary>
internal sealed class WordCache
{
    /// <summary>Longer words are not worth remembering.</summary>
    public const int LongestWord = 48;

    private readonly Entry?[] _slots = new Entry?[1 << 15];

    /// <summary>What a word was cut into, or null. <paramref name="slot"/> is where <see cref="Store"/> should put it.</summary>
    public Entry? Find(ReadOnlySpan<char> word, out int slot)
    {
        slot = (int)(Hash(word) >> (64 - 15));
        var entry = Volatile.Read(ref _slots[slot]);
        return entry is not null && word.SequenceEqual(entry.Word) ? entry : null;
    }

    /// <summary>Remembers a word.</summary>
    public void Store(int slot, Entry entry) => Volatile.Write(ref _slots[slot], entry);

    private static ulong Hash(ReadOnlySpan<char> word)
    {
        const ulong Factor = 0x9E3779B97F4A7C15;
        var hash = (ulong)word.Length * Factor;
        var groups = MemoryMarshal.Cast<char, ulong>(word);
        foreach (var group in groups)
        {
            hash = (hash ^ group) * Factor;
            hash ^= hash >> 32;
        }

        for (var i = groups.Length * 4; i < word.Length; i++)
        {
            hash = (hash ^ word[i]) * Factor;
            hash ^= hash >> 32;
        }

        return hash * Factor;
    }

    /// <summary>A word and its tokens.</summary>
    public sealed record Entry(string Word, int[] Ids, int[] Starts, int[] Ends);
}
