namespace Peft.Tokenization.Patterns;

/// <summary>A set of code points: a bitmap for the basic plane and sorted ranges beyond it.</summary>
internal sealed class CodePointSet
{
    /// <summary>One more than the last code point.</summary>
    public const int End = 0x110000;

    private readonly ulong[] _basic = new ulong[0x10000 / 64];
    private readonly int[] _starts;
    private readonly int[] _ends;

    /// <summary>A set of ranges, each with its end left out, in order and apart.</summary>
    public CodePointSet(IReadOnlyList<(int Start, int End)> ranges)
    {
        Ranges = ranges;
        foreach (var (start, end) in ranges)
        {
            for (var i = start; i < Math.Min(end, 0x10000); i++)
            {
                _basic[i >> 6] |= 1UL << (i & 63);
            }
        }

        var beyond = ranges.Where(range => range.End > 0x10000).ToList();
        _starts = [.. beyond.Select(range => Math.Max(range.Start, 0x10000))];
        _ends = [.. beyond.Select(range => range.End)];
    }

    /// <summary>The ranges, each with its end left out, in order and apart.</summary>
    public IReadOnlyList<(int Start, int End)> Ranges { get; }

    /// <summary>A set of single code points.</summary>
    public static CodePointSet Of(params IEnumerable<int> codePoints) => Union(codePoints.Select(codePoint => (codePoint, codePoint + 1)));

    /// <summary>A set of ranges in any order.</summary>
    public static CodePointSet Union(IEnumerable<(int Start, int End)> ranges)
    {
        var merged = new List<(int Start, int End)>();
        foreach (var (start, end) in ranges.OrderBy(range => range.Start))
        {
            if (merged.Count > 0 && start <= merged[^1].End)
            {
                merged[^1] = (merged[^1].Start, Math.Max(merged[^1].End, end));
            }
            else
            {
                merged.Add((start, end));
            }
        }

        return new CodePointSet(merged);
    }

    /// <summary>The code points that a test accepts.</summary>
    public static CodePointSet Where(Func<int, bool> accept)
    {
        var ranges = new List<(int Start, int End)>();
        var start = -1;
        for (var i = 0; i < End; i++)
        {
            if (accept(i))
            {
                start = start < 0 ? i : start;
            }
            else if (start >= 0)
            {
                ranges.Add((start, i));
                start = -1;
            }
        }

        if (start >= 0)
        {
            ranges.Add((start, End));
        }

        return new CodePointSet(ranges);
    }

    /// <summary>Everything else.</summary>
    public CodePointSet Complement()
    {
        var ranges = new List<(int Start, int End)>();
        var at = 0;
        foreach (var (start, end) in Ranges)
        {
            if (at < start)
            {
                ranges.Add((at, start));
            }

            at = end;
        }

        if (at < End)
        {
            ranges.Add((at, End));
        }

        return new CodePointSet(ranges);
    }

    /// <summary>What both sets have.</summary>
    public CodePointSet Intersect(CodePointSet other) => Union(Complement().Ranges.Concat(other.Complement().Ranges)).Complement();

    /// <summary>The set with every code point that differs from one of its own in case only.</summary>
    public CodePointSet IgnoringCase()
    {
        var more = new List<(int Start, int End)>(Ranges);
        foreach (var (start, end) in Ranges)
        {
            // What has no case can't add anything, and no script with case is this large.
            for (var i = start; i < Math.Min(end, 0x1F000); i++)
            {
                more.AddRange(Text.CaseFolding.Equivalents(i).Where(other => other < start || other >= end).Select(other => (other, other + 1)));
            }
        }

        return Union(more);
    }

    /// <summary>Whether the set has a code point.</summary>
    public bool Contains(int codePoint)
    {
        if (codePoint < 0x10000)
        {
            return (_basic[codePoint >> 6] & (1UL << (codePoint & 63))) != 0;
        }

        var at = Array.BinarySearch(_starts, codePoint);
        at = at < 0 ? ~at - 1 : at;
        return at >= 0 && codePoint < _ends[at];
    }
}
