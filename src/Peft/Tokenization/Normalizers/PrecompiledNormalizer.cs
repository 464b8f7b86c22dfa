using System.Buffers.Binary;
using System.Globalization;
using Peft.Tokenization.Text;

namespace Peft.Tokenization.Normalizers;

/// <summary>
/// SentencePiece's compiled normalization rules: a double-array trie (Darts) of UTF-8 keys, whose values point into a block of
/// zero-terminated replacements.
/// </summary>
internal sealed class CharacterMap
{
    private readonly uint[] _units;
    private readonly byte[] _replacements;

    /// <summary>Reads the rules; an empty block has none.</summary>
    public CharacterMap(ReadOnlySpan<byte> data, string path)
    {
        if (data.IsEmpty)
        {
            (_units, _replacements) = ([], []);
            return;
        }

        var size = data.Length < 4 ? uint.MaxValue : BinaryPrimitives.ReadUInt32LittleEndian(data);
        if (size > data.Length - 4 || size % 4 != 0)
        {
            throw new PeftException("TokenizerFileInvalid", $"{path} has a normalization table whose size doesn't fit its data.");
        }

        _units = new uint[size / 4];
        for (var i = 0; i < _units.Length; i++)
        {
            _units[i] = BinaryPrimitives.ReadUInt32LittleEndian(data[(4 + (i * 4))..]);
        }

        _replacements = data[(4 + (int)size)..].ToArray();
    }

    /// <summary>Whether there is no rule.</summary>
    public bool IsEmpty => _units.Length == 0;

    /// <summary>The shortest, or longest, rule that a text starts with: its replacement and how many bytes it takes, or null.</summary>
    public string? Find(ReadOnlySpan<byte> text, bool longest, out int length)
    {
        length = 0;
        if (_units.Length == 0)
        {
            return null;
        }

        string? found = null;
        var position = Offset(_units[0]);
        for (var i = 0; i < text.Length && text[i] != 0; i++)
        {
            position ^= text[i];
            if (position >= _units.Length)
            {
                break;
            }

            var unit = _units[position];
            if ((unit & 0x800000FF) != text[i])
            {
                break;
            }

            position ^= Offset(unit);
            if (((unit >> 8) & 1) == 0)
            {
                continue;
            }

            if (position >= _units.Length)
            {
                break;
            }

            found = Replacement((int)(_units[position] & 0x7FFFFFFF));
            length = i + 1;
            if (!longest)
            {
                break;
            }
        }

        return found;
    }

    private static uint Offset(uint unit) => (unit >> 10) << (int)((unit & 0x200) >> 6);

    private string Replacement(int start)
    {
        if (start >= _replacements.Length)
        {
            return string.Empty;
        }

        var rest = _replacements.AsSpan(start);
        var end = rest.IndexOf((byte)0);
        return System.Text.Encoding.UTF8.GetString(end < 0 ? rest : rest[..end]);
    }
}

/// <summary>
/// SentencePiece's rules as the tokenizers library applies them: to whole grapheme clusters of fewer than six bytes, else code point by
/// code point, and by the shortest rule that fits.
/// </summary>
internal sealed class PrecompiledNormalizer(CharacterMap map) : Normalizer
{
    /// <inheritdoc/>
    public override void Normalize(NormalizedText text)
    {
        if (map.IsEmpty)
        {
            return;
        }

        var source = text.Text;
        var items = new List<(int CodePoint, int Change)>(source.Length);
        var changed = false;
        for (var i = 0; i < source.Length;)
        {
            var length = StringInfo.GetNextTextElementLength(source, i);
            var cluster = source.AsSpan(i, length);
            i += length;
            if (System.Text.Encoding.UTF8.GetByteCount(cluster) < 6 && Find(cluster) is { } whole)
            {
                Replace(items, CodePoints.Count(cluster), whole);
                text.CheckLength(items.Count);
                changed = true;
                continue;
            }

            for (var c = 0; c < cluster.Length;)
            {
                var codePoint = CodePoints.At(cluster, c, out var units);
                if (Find(cluster.Slice(c, units)) is { } part)
                {
                    Replace(items, 1, part);
                    text.CheckLength(items.Count);
                    changed = true;
                }
                else
                {
                    items.Add((codePoint, 0));
                }

                c += units;
            }
        }

        if (changed)
        {
            text.Transform(items);
        }
    }

    private string? Find(ReadOnlySpan<char> part)
    {
        Span<byte> bytes = stackalloc byte[16];
        return System.Text.Encoding.UTF8.TryGetBytes(part, bytes, out var count) ? map.Find(bytes[..count], longest: false, out _) : null;
    }

    /// <summary>New characters replace old ones one by one; what is more counts as inserted, what is less is swallowed by the last.</summary>
    private static void Replace(List<(int CodePoint, int Change)> items, int oldCount, string replacement)
    {
        var before = items.Count;
        for (var i = 0; i < replacement.Length;)
        {
            items.Add((CodePoints.At(replacement, i, out var length), 0));
            i += length;
        }

        var difference = items.Count - before - oldCount;
        for (var i = items.Count - 1; i >= 0 && difference > 0; i--, difference--)
        {
            items[i] = (items[i].CodePoint, 1);
        }

        if (difference < 0 && items.Count > 0)
        {
            items[^1] = (items[^1].CodePoint, items[^1].Change + difference);
        }
    }
}
