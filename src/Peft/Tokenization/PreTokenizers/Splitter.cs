using Peft.Tokenization.Text;

namespace Peft.Tokenization.PreTokenizers;

/// <summary>What becomes of the matches of a splitting pattern.</summary>
internal enum SplitBehavior
{
    Removed,
    Isolated,
    MergedWithPrevious,
    MergedWithNext,
    Contiguous,
}

/// <summary>Where a search stands.</summary>
internal struct MatchState
{
    /// <summary>Where the next search starts.</summary>
    public int Position;

    /// <summary>Where the last match ended, or -1.</summary>
    public int LastEnd;

    /// <summary>How many steps a pattern took on this text so far.</summary>
    public long Steps;

    /// <summary>A search that starts at the beginning.</summary>
    public static MatchState Start => new() { LastEnd = -1 };
}

/// <summary>Finds matches from left to right.</summary>
internal abstract class Matcher
{
    /// <summary>The next match, or false at the end.</summary>
    public abstract bool Next(ReadOnlySpan<char> text, ref MatchState state, out int start, out int end);
}

/// <summary>Matches single code points, each a match of its own.</summary>
internal sealed class CodePointMatcher(Func<int, bool> accept) : Matcher
{
    /// <inheritdoc/>
    public override bool Next(ReadOnlySpan<char> text, ref MatchState state, out int start, out int end)
    {
        for (var i = state.Position; i < text.Length;)
        {
            var codePoint = CodePoints.At(text, i, out var length);
            if (accept(codePoint))
            {
                (start, end) = (i, i + length);
                state.Position = end;
                return true;
            }

            i += length;
        }

        start = end = text.Length;
        return false;
    }
}

/// <summary>Matches a fixed string.</summary>
internal sealed class StringMatcher(string wanted) : Matcher
{
    /// <inheritdoc/>
    public override bool Next(ReadOnlySpan<char> text, ref MatchState state, out int start, out int end)
    {
        var found = wanted.Length == 0 ? -1 : text[state.Position..].IndexOf(wanted, StringComparison.Ordinal);
        (start, end) = found < 0 ? (text.Length, text.Length) : (state.Position + found, state.Position + found + wanted.Length);
        state.Position = end;
        return found >= 0;
    }
}

/// <summary>Cuts pieces at the matches of a pattern.</summary>
internal sealed class MatchSplitter(Matcher matcher, SplitBehavior behavior, bool invert = false) : PreTokenizer
{
    /// <inheritdoc/>
    public override void Split(in TextSpan given, ITextSpanSink next)
    {
        var piece = given.Spelled();
        if (behavior is SplitBehavior.Isolated or SplitBehavior.Removed)
        {
            SplitDirectly(piece, next);
            return;
        }

        var parts = Parts(piece.Span);
        foreach (var (start, end) in parts)
        {
            Emit(piece, start, end, next);
        }
    }

    private void SplitDirectly(in TextSpan piece, ITextSpanSink next)
    {
        var keepMatches = behavior == SplitBehavior.Isolated || invert;
        var keepRest = behavior == SplitBehavior.Isolated || !invert;
        var state = MatchState.Start;
        var last = 0;
        while (matcher.Next(piece.Span, ref state, out var start, out var end))
        {
            if (keepRest)
            {
                Emit(piece, last, start, next);
            }

            if (keepMatches)
            {
                Emit(piece, start, end, next);
            }

            last = end;
        }

        if (keepRest)
        {
            Emit(piece, last, piece.Length, next);
        }
    }

    /// <summary>The parts after merging matches with their neighbours.</summary>
    private List<(int Start, int End)> Parts(ReadOnlySpan<char> text)
    {
        var spans = new List<(int Start, int End, bool Match)>();
        var state = MatchState.Start;
        var last = 0;
        while (matcher.Next(text, ref state, out var start, out var end))
        {
            if (last != start)
            {
                spans.Add((last, start, invert));
            }

            spans.Add((start, end, !invert));
            last = end;
        }

        if (last != text.Length)
        {
            spans.Add((last, text.Length, invert));
        }

        return behavior == SplitBehavior.MergedWithNext ? MergeWithNext(spans) : MergeForward(spans);
    }

    private List<(int Start, int End)> MergeForward(List<(int Start, int End, bool Match)> spans)
    {
        var parts = new List<(int Start, int End)>(spans.Count);
        var previous = false;
        foreach (var (start, end, match) in spans)
        {
            var joins = behavior == SplitBehavior.Contiguous ? match == previous : match && !previous;
            if (joins && parts.Count > 0)
            {
                parts[^1] = (parts[^1].Start, end);
            }
            else
            {
                parts.Add((start, end));
            }

            previous = match;
        }

        return parts;
    }

    private static List<(int Start, int End)> MergeWithNext(List<(int Start, int End, bool Match)> spans)
    {
        var parts = new List<(int Start, int End)>(spans.Count);
        var previous = false;
        for (var i = spans.Count - 1; i >= 0; i--)
        {
            var (start, end, match) = spans[i];
            if (match && !previous && parts.Count > 0)
            {
                parts[^1] = (start, parts[^1].End);
            }
            else
            {
                parts.Add((start, end));
            }

            previous = match;
        }

        parts.Reverse();
        return parts;
    }
}
