namespace Peft.Tokenization.Patterns;

/// <summary>What an instruction does.</summary>
internal enum PatternCode
{
    /// <summary>The pattern, or a part that runs on its own, matched.</summary>
    Match,

    /// <summary>One code point of <see cref="PatternInstruction.Set"/>.</summary>
    Set,

    /// <summary>The letters <see cref="PatternInstruction.Folded"/> after case folding.</summary>
    Folded,

    /// <summary>Goes on at A, and at B if that fails.</summary>
    Split,

    /// <summary>Goes on at A.</summary>
    Jump,

    /// <summary>As many code points of a set as there are, at least A and at most B, giving back one by one.</summary>
    LoopGreedy,

    /// <summary>As few as possible.</summary>
    LoopLazy,

    /// <summary>As many as there are, giving none back.</summary>
    LoopPossessive,

    /// <summary>Holds where assertion A holds.</summary>
    Assert,

    /// <summary>The part at A matches from here, or doesn't (B = 1); goes on behind it.</summary>
    LookAhead,

    /// <summary>The part at A matches and ends here after going back B code points; negative where C = 1.</summary>
    LookBehind,

    /// <summary>The part at A, once.</summary>
    Atomic,

    /// <summary>One grapheme cluster.</summary>
    Grapheme,

    /// <summary>Remembers the position in register A.</summary>
    Mark,

    /// <summary>Goes on at B where nothing was consumed since register A was set.</summary>
    Progress,
}

/// <summary>An instruction of a compiled pattern.</summary>
internal sealed class PatternInstruction
{
    public PatternCode Code { get; init; }

    public int A { get; set; }

    public int B { get; set; }

    public int C { get; set; }

    public CodePointSet? Set { get; init; }

    public int[]? Folded { get; init; }
}

/// <summary>A compiled pattern.</summary>
internal sealed class PatternProgram
{
    private const int Longest = 20_000;
    private readonly List<PatternInstruction> _code = [];
    private readonly List<(PatternInstruction From, PatternNode Part)> _parts = [];
    private readonly string _source;

    private PatternProgram(string source) => _source = source;

    /// <summary>The instructions.</summary>
    public PatternInstruction[] Code { get; private set; } = [];

    /// <summary>How many registers there are.</summary>
    public int Registers { get; private set; }

    /// <summary>What a match has to start with, or null where that isn't known.</summary>
    public CodePointSet? First { get; private set; }

    /// <summary>Compiles a pattern.</summary>
    public static PatternProgram Compile(string pattern)
    {
        var node = PatternParser.Parse(pattern);
        var program = new PatternProgram(pattern);
        program.Emit(node);
        program.Add(PatternCode.Match);
        for (var i = 0; i < program._parts.Count; i++)
        {
            var (from, part) = program._parts[i];
            from.A = program._code.Count;
            program.Emit(part);
            program.Add(PatternCode.Match);
        }

        program.Code = [.. program._code];
        program.First = node.Length.Least > 0 && FirstOf(node) is { } ranges ? CodePointSet.Union(ranges) : null;
        return program;
    }

    /// <summary>What a node can start with; null where that isn't known, or where it can match nothing.</summary>
    private static IEnumerable<(int Start, int End)>? FirstOf(PatternNode node)
    {
        switch (node)
        {
            case SetNode set:
                return set.Set.Ranges;
            case AtomicNode atomic:
                return FirstOf(atomic.Inner);
            case RepeatNode repeat:
                return repeat.Most == 0 ? null : FirstOf(repeat.Inner);
            case AlternativeNode alternatives:
                var all = alternatives.Choices.ConvertAll(choice => choice.Length.Least > 0 ? FirstOf(choice) : null);
                return all.Contains(null) ? null : all.SelectMany(ranges => ranges!);
            case SequenceNode sequence:
                var first = new List<(int Start, int End)>();
                foreach (var part in sequence.Parts)
                {
                    if (part is LookNode or AssertNode)
                    {
                        continue;
                    }

                    if (FirstOf(part) is not { } ranges)
                    {
                        return null;
                    }

                    first.AddRange(ranges);
                    if (part.Length.Least > 0)
                    {
                        return first;
                    }
                }

                return null;
            default:
                return null;
        }
    }

    private PatternInstruction Add(PatternCode code, int a = 0, int b = 0, int c = 0, CodePointSet? set = null, int[]? folded = null)
    {
        if (_code.Count >= Longest)
        {
            throw new NotSupportedByPeftException("TokenizerPatternNotSupported", $"The tokenizer's pattern {_source} is too large once its repetitions are written out.");
        }

        var instruction = new PatternInstruction { Code = code, A = a, B = b, C = c, Set = set, Folded = folded };
        _code.Add(instruction);
        return instruction;
    }

    private void Emit(PatternNode node)
    {
        switch (node)
        {
            case SequenceNode sequence:
                sequence.Parts.ForEach(Emit);
                break;
            case AlternativeNode alternatives:
                Alternatives(alternatives.Choices);
                break;
            case SetNode set:
                Add(PatternCode.Set, set: set.Set);
                break;
            case FoldedNode folded:
                Add(PatternCode.Folded, folded: [.. folded.Folded]);
                break;
            case AssertNode assertion:
                Add(PatternCode.Assert, (int)assertion.Kind);
                break;
            case GraphemeNode:
                Add(PatternCode.Grapheme);
                break;
            case AtomicNode atomic:
                _parts.Add((Add(PatternCode.Atomic), atomic.Inner));
                break;
            case LookNode look:
                Look(look);
                break;
            case RepeatNode repeat:
                Repeat(repeat);
                break;
            default:
                throw new InvalidOperationException("no such node");
        }
    }

    private void Alternatives(List<PatternNode> choices)
    {
        var jumps = new List<PatternInstruction>();
        for (var i = 0; i < choices.Count; i++)
        {
            if (i == choices.Count - 1)
            {
                Emit(choices[i]);
                break;
            }

            var split = Add(PatternCode.Split);
            split.A = _code.Count;
            Emit(choices[i]);
            jumps.Add(Add(PatternCode.Jump));
            split.B = _code.Count;
        }

        jumps.ForEach(jump => jump.A = _code.Count);
    }

    private void Look(LookNode look)
    {
        if (!look.Behind)
        {
            _parts.Add((Add(PatternCode.LookAhead, b: look.Negative ? 1 : 0), look.Inner));
            return;
        }

        var choices = look.Inner is AlternativeNode alternatives ? alternatives.Choices : [look.Inner];
        if (choices.Exists(choice => choice.Length.Least != choice.Length.Most))
        {
            throw new NotSupportedByPeftException("TokenizerPatternNotSupported", $"The tokenizer's pattern {_source} looks behind over a length that varies, which isn't supported.");
        }

        if (look.Negative)
        {
            choices.ForEach(choice => _parts.Add((Add(PatternCode.LookBehind, b: choice.Length.Least, c: 1), choice)));
            return;
        }

        var jumps = new List<PatternInstruction>();
        for (var i = 0; i < choices.Count; i++)
        {
            var split = i < choices.Count - 1 ? Add(PatternCode.Split) : null;
            if (split is not null)
            {
                split.A = _code.Count;
            }

            _parts.Add((Add(PatternCode.LookBehind, b: choices[i].Length.Least), choices[i]));
            jumps.Add(Add(PatternCode.Jump));
            if (split is not null)
            {
                split.B = _code.Count;
            }
        }

        jumps.ForEach(jump => jump.A = _code.Count);
    }

    private void Repeat(RepeatNode repeat)
    {
        if (repeat.Inner is SetNode set)
        {
            var code = repeat.Kind switch
            {
                RepeatKind.Lazy => PatternCode.LoopLazy,
                RepeatKind.Possessive => PatternCode.LoopPossessive,
                _ => PatternCode.LoopGreedy,
            };
            Add(code, repeat.Least, repeat.Most, set: set.Set);
            return;
        }

        if (repeat.Kind == RepeatKind.Possessive)
        {
            _parts.Add((Add(PatternCode.Atomic), repeat with { Kind = RepeatKind.Greedy }));
            return;
        }

        for (var i = 0; i < repeat.Least; i++)
        {
            Emit(repeat.Inner);
        }

        if (repeat.Most == int.MaxValue)
        {
            Forever(repeat);
        }
        else
        {
            Optional(repeat, repeat.Most - repeat.Least);
        }
    }

    private void Forever(RepeatNode repeat)
    {
        var start = _code.Count;
        var split = Add(PatternCode.Split);
        var inner = _code.Count;
        var empty = repeat.Inner.Length.Least == 0;
        PatternInstruction? progress = null;
        if (empty)
        {
            Add(PatternCode.Mark, Registers);
            Emit(repeat.Inner);
            progress = Add(PatternCode.Progress, Registers);
            Registers++;
        }
        else
        {
            Emit(repeat.Inner);
        }

        Add(PatternCode.Jump, start);
        var end = _code.Count;
        (split.A, split.B) = repeat.Kind == RepeatKind.Lazy ? (end, inner) : (inner, end);
        if (progress is not null)
        {
            progress.B = end;
        }
    }

    private void Optional(RepeatNode repeat, int times)
    {
        var splits = new List<(PatternInstruction Split, int Inner)>();
        for (var i = 0; i < times; i++)
        {
            var split = Add(PatternCode.Split);
            splits.Add((split, _code.Count));
            Emit(repeat.Inner);
        }

        var end = _code.Count;
        foreach (var (split, inner) in splits)
        {
            (split.A, split.B) = repeat.Kind == RepeatKind.Lazy ? (end, inner) : (inner, end);
        }
    }
}
