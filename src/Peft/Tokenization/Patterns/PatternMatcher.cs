using System.Globalization;
using Peft.Tokenization.PreTokenizers;
using Peft.Tokenization.Text;

namespace Peft.Tokenization.Patterns;

/// <summary>
/// Matches a pattern in Oniguruma's syntax by backtracking over code points. .NET's own engine works on UTF-16 units, so that its classes
/// see halves of characters beyond the basic plane, and lacks possessive quantifiers, class intersections and full case folding.
/// </summary>
internal sealed class PatternMatcher : Matcher
{
    private readonly PatternProgram _program;
    private readonly string _source;
    private readonly PatternInstruction? _leadingLoop;

    private PatternMatcher(string pattern)
    {
        _source = pattern;
        _program = PatternProgram.Compile(pattern);
        var first = _program.Code[0];
        _leadingLoop = first.Code is PatternCode.LoopGreedy or PatternCode.LoopLazy && first is { A: <= 1, B: int.MaxValue } ? first : null;
    }

    /// <summary>A matcher for a pattern; a hand-written one where there is one.</summary>
    public static Matcher Make(string pattern, string path)
    {
        try
        {
            return pattern == Gpt2Scanner.Pattern ? Gpt2Scanner.Instance : Gpt4Scanner.For(pattern) ?? (Matcher)new PatternMatcher(pattern);
        }
        catch (NotSupportedByPeftException error)
        {
            throw new NotSupportedByPeftException(error.ErrorId, $"{path}: {error.Message}", error) { RecommendedAction = error.RecommendedAction };
        }
        catch (PeftException error)
        {
            throw new PeftException(error.ErrorId, $"{path}: {error.Message}", error) { RecommendedAction = error.RecommendedAction };
        }
    }

    /// <summary>A matcher that never takes a hand-written scanner.</summary>
    internal static PatternMatcher Compile(string pattern) => new(pattern);

    /// <inheritdoc/>
    public override bool Next(ReadOnlySpan<char> text, ref MatchState state, out int start, out int end)
    {
        // An empty match right behind the last one doesn't count; the search goes on one code point later.
        while (state.Position <= text.Length)
        {
            if (!Search(text, ref state, out start, out end))
            {
                state.Position = text.Length + 1;
                break;
            }

            if (start == end && end == state.LastEnd)
            {
                var length = 1;
                if (state.Position < text.Length)
                {
                    CodePoints.At(text, state.Position, out length);
                }

                state.Position += length;
                continue;
            }

            state.Position = end;
            state.LastEnd = end;
            return true;
        }

        start = end = text.Length;
        return false;
    }

    private bool Search(ReadOnlySpan<char> text, ref MatchState state, out int start, out int end)
    {
        var machine = new PatternMachine(_program, text, state.Position, _source, state.Steps);
        for (start = state.Position; start <= text.Length;)
        {
            if (_program.First is { } first)
            {
                while (start < text.Length && !first.Contains(CodePoints.At(text, start, out var skipped)))
                {
                    start += skipped;
                }

                if (start == text.Length)
                {
                    break;
                }
            }

            end = machine.Run(0, start);
            state.Steps = machine.Steps;
            if (end >= 0)
            {
                return true;
            }

            if (start == text.Length)
            {
                break;
            }

            start = NextStart(text, start);
        }

        start = end = -1;
        return false;
    }

    /// <summary>
    /// Where to try next. A pattern that starts with a run of a set and failed at its beginning fails inside that run too, since every end of
    /// the run was tried already; without this a long run of blanks would take quadratic time.
    /// </summary>
    private int NextStart(ReadOnlySpan<char> text, int start)
    {
        CodePoints.At(text, start, out var length);
        var next = start + length;
        if (_leadingLoop is { Set: { } set } && set.Contains(CodePoints.At(text, start, out _)))
        {
            while (next < text.Length && set.Contains(CodePoints.At(text, next, out length)))
            {
                next += length;
            }
        }

        return next;
    }
}

/// <summary>Runs a compiled pattern on a text.</summary>
internal ref struct PatternMachine
{
    [ThreadStatic]
    private static Frame[]? s_frames;

    private readonly PatternProgram _program;
    private readonly ReadOnlySpan<char> _text;
    private readonly int _searchStart;
    private readonly string _source;
    private readonly int[] _registers;
    private readonly long _mostSteps;
    private long _steps;
    private int _depth;

    /// <summary>A machine for one search; <paramref name="steps"/> were taken on this text already.</summary>
    public PatternMachine(PatternProgram program, ReadOnlySpan<char> text, int searchStart, string source, long steps)
    {
        _program = program;
        _text = text;
        _searchStart = searchStart;
        _source = source;
        _registers = program.Registers == 0 ? [] : new int[program.Registers];
        _steps = steps;
        _mostSteps = 50_000_000 + (1000L * text.Length);
        s_frames ??= new Frame[256];
    }

    /// <summary>How many steps were taken on the text.</summary>
    public readonly long Steps => _steps;

    /// <summary>Runs from an instruction and a position; where the match ends, or -1.</summary>
    public int Run(int instruction, int position)
    {
        var bottom = _depth;
        var at = position;
        while (true)
        {
            if (++_steps > _mostSteps)
            {
                throw new PeftException("TokenizerPatternTooSlow", $"The tokenizer's pattern {_source} takes too long on this text.");
            }

            var code = _program.Code[instruction];
            bool ok;
            switch (code.Code)
            {
                case PatternCode.Match:
                    _depth = bottom;
                    return at;
                case PatternCode.Set:
                    ok = Step(code.Set!, ref at);
                    instruction++;
                    break;
                case PatternCode.Folded:
                    ok = Folded(code.Folded!, ref at);
                    instruction++;
                    break;
                case PatternCode.Split:
                    Push(new Frame { Kind = FrameKind.Branch, Instruction = code.B, Position = at });
                    instruction = code.A;
                    ok = true;
                    break;
                case PatternCode.Jump:
                    instruction = code.A;
                    ok = true;
                    break;
                case PatternCode.LoopGreedy or PatternCode.LoopPossessive or PatternCode.LoopLazy:
                    ok = Loop(code, ref instruction, ref at);
                    break;
                case PatternCode.Mark:
                    Push(new Frame { Kind = FrameKind.Restore, Instruction = code.A, Position = _registers[code.A] });
                    _registers[code.A] = at;
                    instruction++;
                    ok = true;
                    break;
                case PatternCode.Progress:
                    instruction = _registers[code.A] == at ? code.B : instruction + 1;
                    ok = true;
                    break;
                default:
                    ok = Special(code, ref at);
                    instruction++;
                    break;
            }

            if (!ok && !Backtrack(bottom, ref instruction, ref at))
            {
                return -1;
            }
        }
    }

    private readonly bool Step(CodePointSet set, ref int at)
    {
        if (at >= _text.Length || !set.Contains(CodePoints.At(_text, at, out var length)))
        {
            return false;
        }

        at += length;
        return true;
    }

    /// <summary>Compares letters after case folding, whole characters at a time.</summary>
    private readonly bool Folded(int[] wanted, ref int at)
    {
        var (position, matched) = (at, 0);
        while (matched < wanted.Length)
        {
            if (position >= _text.Length)
            {
                return false;
            }

            var codePoint = CodePoints.At(_text, position, out var length);
            if (codePoint < 0x80)
            {
                if (wanted[matched] != (codePoint is >= 'A' and <= 'Z' ? codePoint | 0x20 : codePoint))
                {
                    return false;
                }

                matched++;
            }
            else
            {
                foreach (var part in CaseFolding.Fold(codePoint))
                {
                    if (matched >= wanted.Length || wanted[matched] != part)
                    {
                        return false;
                    }

                    matched++;
                }
            }

            position += length;
        }

        at = position;
        return true;
    }

    private bool Loop(PatternInstruction code, ref int instruction, ref int at)
    {
        var set = code.Set!;
        var count = 0;
        var most = code.Code == PatternCode.LoopLazy ? code.A : code.B;
        var (position, enough) = (at, code.A == 0 ? at : -1);
        while (count < most && position < _text.Length && set.Contains(CodePoints.At(_text, position, out var length)))
        {
            position += length;
            count++;
            enough = count == code.A ? position : enough;
        }

        _steps += count / 8;
        if (count < code.A)
        {
            return false;
        }

        at = position;
        instruction++;
        if (code.Code == PatternCode.LoopLazy)
        {
            Push(new Frame { Kind = FrameKind.Forward, Instruction = instruction, Position = at, Limit = code.B - count });
        }
        else if (code.Code == PatternCode.LoopGreedy && position > enough)
        {
            Push(new Frame { Kind = FrameKind.Back, Instruction = instruction, Position = position, Limit = enough });
        }

        return true;
    }

    private bool Special(PatternInstruction code, ref int at)
    {
        switch (code.Code)
        {
            case PatternCode.Assert:
                return Holds((PatternAssertion)code.A, at);
            case PatternCode.LookAhead:
                return Run(code.A, at) >= 0 == (code.B == 0);
            case PatternCode.LookBehind:
                var from = at;
                var steps = 0;
                for (; steps < code.B && from > 0; steps++)
                {
                    CodePoints.Before(_text, from, out var length);
                    from -= length;
                }

                var found = steps == code.B && Run(code.A, from) == at;
                return found == (code.C == 0);
            case PatternCode.Atomic:
                var end = Run(code.A, at);
                at = end < 0 ? at : end;
                return end >= 0;
            case PatternCode.Grapheme:
                if (at >= _text.Length)
                {
                    return false;
                }

                at += StringInfo.GetNextTextElementLength(_text[at..]);
                return true;
            default:
                throw new InvalidOperationException("no such instruction");
        }
    }

    private readonly bool Holds(PatternAssertion assertion, int at) => assertion switch
    {
        PatternAssertion.LineStart => at == 0 || (at < _text.Length && _text[at - 1] == '\n'),
        PatternAssertion.LineEnd => at == _text.Length || _text[at] == '\n',
        PatternAssertion.TextStart => at == 0,
        PatternAssertion.TextEnd => at == _text.Length,
        PatternAssertion.TextEndOrLastBreak => at == _text.Length || (at == _text.Length - 1 && _text[at] == '\n'),
        PatternAssertion.SearchStart => at == _searchStart,
        PatternAssertion.WordBoundary => IsWord(at) != IsWordBefore(at),
        _ => IsWord(at) == IsWordBefore(at),
    };

    private readonly bool IsWord(int at) => at < _text.Length && PatternProperties.Word.Contains(CodePoints.At(_text, at, out _));

    private readonly bool IsWordBefore(int at) => at > 0 && PatternProperties.Word.Contains(CodePoints.Before(_text, at, out _));

    private bool Backtrack(int bottom, ref int instruction, ref int at)
    {
        while (_depth > bottom)
        {
            ref var frame = ref s_frames![_depth - 1];
            switch (frame.Kind)
            {
                case FrameKind.Restore:
                    _registers[frame.Instruction] = frame.Position;
                    _depth--;
                    continue;
                case FrameKind.Branch:
                    (instruction, at) = (frame.Instruction, frame.Position);
                    _depth--;
                    return true;
                case FrameKind.Back:
                    CodePoints.Before(_text, frame.Position, out var back);
                    frame.Position -= back;
                    (instruction, at) = (frame.Instruction, frame.Position);
                    _depth -= frame.Position <= frame.Limit ? 1 : 0;
                    return true;
                default:
                    var set = _program.Code[frame.Instruction - 1].Set!;
                    if (frame.Limit <= 0 || frame.Position >= _text.Length || !set.Contains(CodePoints.At(_text, frame.Position, out var forward)))
                    {
                        _depth--;
                        continue;
                    }

                    frame.Position += forward;
                    frame.Limit--;
                    (instruction, at) = (frame.Instruction, frame.Position);
                    return true;
            }
        }

        return false;
    }

    private void Push(Frame frame)
    {
        if (_depth == s_frames!.Length)
        {
            if (_depth >= 1 << 24)
            {
                throw new PeftException("TokenizerPatternTooSlow", $"The tokenizer's pattern {_source} needs too much memory on this text.");
            }

            Array.Resize(ref s_frames, _depth * 2);
        }

        s_frames[_depth++] = frame;
    }

    private enum FrameKind
    {
        Branch,
        Back,
        Forward,
        Restore,
    }

    private struct Frame
    {
        public FrameKind Kind;
        public int Instruction;
        public int Position;
        public int Limit;
    }
}
