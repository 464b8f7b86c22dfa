using Peft.Tokenization.Text;

namespace Peft.Tokenization.Patterns;

/// <summary>Reads patterns in the syntax of Oniguruma (that of Ruby), which tokenizer files are written in.</summary>
internal sealed partial class PatternParser
{
    private const int Deepest = 100;
    private const int MostRepeats = 1000;
    private readonly int[] _pattern;
    private readonly string _source;
    private int _at;
    private int _depth;

    private PatternParser(string pattern)
    {
        _source = pattern;
        var codePoints = new List<int>(pattern.Length);
        for (var i = 0; i < pattern.Length;)
        {
            codePoints.Add(CodePoints.At(pattern, i, out var length));
            i += length;
        }

        _pattern = [.. codePoints];
    }

    private bool AtEnd => _at >= _pattern.Length;

    /// <summary>Parses a pattern.</summary>
    /// <exception cref="PeftException">The pattern is broken, or uses what isn't supported (back references).</exception>
    public static PatternNode Parse(string pattern)
    {
        var parser = new PatternParser(pattern);
        var node = parser.Alternatives(default);
        return parser.AtEnd ? node : throw parser.Error("there is a closing bracket without an opening one");
    }

    private PatternNode Alternatives(Modes modes)
    {
        if (++_depth > Deepest)
        {
            throw Error($"it is nested more than {Deepest} levels deep");
        }

        var choices = new List<PatternNode>();
        do
        {
            choices.Add(Sequence(ref modes));
        }
        while (Skip('|'));

        _depth--;
        return choices.Count == 1 ? choices[0] : new AlternativeNode(choices);
    }

    private PatternNode Sequence(ref Modes modes)
    {
        var parts = new List<PatternNode>();
        var literal = new List<int>();
        while (!AtEnd && _pattern[_at] is not ('|' or ')'))
        {
            if (modes.Extended && SkipExtended())
            {
                continue;
            }

            var start = _at;
            var node = Atom(ref modes);
            if (node is null)
            {
                continue;
            }

            var repeated = Repeats(node);
            if (ReferenceEquals(repeated, node) && node is FoldedNode folded && start < _at)
            {
                literal.AddRange(folded.Folded);
                continue;
            }

            Flush();
            parts.Add(repeated);
        }

        Flush();
        return parts.Count == 1 ? parts[0] : new SequenceNode(parts);

        // Neighbouring letters fold together, since one character can fold to several.
        void Flush()
        {
            if (literal.Count > 0)
            {
                parts.Add(new FoldedNode([.. literal]));
                literal.Clear();
            }
        }
    }

    private bool SkipExtended()
    {
        if (_pattern[_at] is ' ' or '\t' or '\n' or '\r' or '\f' or '\v')
        {
            _at++;
            return true;
        }

        if (_pattern[_at] != '#')
        {
            return false;
        }

        while (!AtEnd && _pattern[_at] != '\n')
        {
            _at++;
        }

        return true;
    }

    private PatternNode? Atom(ref Modes modes)
    {
        var codePoint = _pattern[_at++];
        switch (codePoint)
        {
            case '.':
                return new SetNode(modes.DotAll ? Any() : CodePointSet.Of('\n').Complement());
            case '^':
                return new AssertNode(PatternAssertion.LineStart);
            case '$':
                return new AssertNode(PatternAssertion.LineEnd);
            case '(':
                return Group(ref modes);
            case '[':
                return new SetNode(Class(modes.IgnoreCase));
            case '\\':
                return Escape(modes);
            case '*' or '+' or '?':
                throw Error("there is nothing to repeat");
            default:
                return Literal(codePoint, modes);
        }
    }

    private static PatternNode Literal(int codePoint, Modes modes) => modes.IgnoreCase
        ? new FoldedNode([.. CaseFolding.Fold(codePoint)])
        : new SetNode(CodePointSet.Of(codePoint));

    private PatternNode? Group(ref Modes modes)
    {
        if (!Skip('?'))
        {
            return Closed(Alternatives(modes));
        }

        if (Skip(':'))
        {
            return Closed(Alternatives(modes));
        }

        if (Skip('='))
        {
            return Closed(new LookNode(Alternatives(modes), Behind: false, Negative: false));
        }

        if (Skip('!'))
        {
            return Closed(new LookNode(Alternatives(modes), Behind: false, Negative: true));
        }

        if (Skip('>'))
        {
            return Closed(new AtomicNode(Alternatives(modes)));
        }

        if (Skip('#'))
        {
            while (!AtEnd && _pattern[_at] != ')')
            {
                _at++;
            }

            _ = Closed(new SequenceNode([]));
            return null;
        }

        if (Skip('<'))
        {
            if (Skip('='))
            {
                return Closed(new LookNode(Alternatives(modes), Behind: true, Negative: false));
            }

            if (Skip('!'))
            {
                return Closed(new LookNode(Alternatives(modes), Behind: true, Negative: true));
            }

            while (!AtEnd && _pattern[_at] != '>')
            {
                _at++;
            }

            return Skip('>') ? Closed(Alternatives(modes)) : throw Error("a group's name isn't closed");
        }

        return Options(ref modes);
    }

    /// <summary><c>(?i)</c> for the rest of the group, or <c>(?i:...)</c> for a group of its own.</summary>
    private PatternNode? Options(ref Modes modes)
    {
        var (changed, on) = (modes, true);
        while (!AtEnd)
        {
            switch (_pattern[_at++])
            {
                case '-':
                    on = false;
                    break;
                case 'i':
                    changed = changed with { IgnoreCase = on };
                    break;
                case 'm':
                    changed = changed with { DotAll = on };
                    break;
                case 'x':
                    changed = changed with { Extended = on };
                    break;
                case ')':
                    modes = changed;
                    return null;
                case ':':
                    return Closed(Alternatives(changed));
                default:
                    throw Error("a group starts with something unknown");
            }
        }

        throw Error("a bracket isn't closed");
    }

    private PatternNode Closed(PatternNode node) => Skip(')') ? node : throw Error("a bracket isn't closed");

    private PatternNode Repeats(PatternNode node)
    {
        while (!AtEnd && TryRepeat(out var least, out var most, out var interval))
        {
            var kind = Skip('?') ? RepeatKind.Lazy : !interval && Skip('+') ? RepeatKind.Possessive : RepeatKind.Greedy;
            node = new RepeatNode(node, least, most, kind);
        }

        return node;
    }

    private bool TryRepeat(out int least, out int most, out bool interval)
    {
        (least, most, interval) = (0, int.MaxValue, false);
        switch (_pattern[_at])
        {
            case '*':
                break;
            case '+':
                least = 1;
                break;
            case '?':
                most = 1;
                break;
            case '{':
                interval = true;
                return TryInterval(out least, out most);
            default:
                return false;
        }

        _at++;
        return true;
    }

    /// <summary><c>{n}</c>, <c>{n,}</c>, <c>{,m}</c> or <c>{n,m}</c>; anything else is a plain bracket.</summary>
    private bool TryInterval(out int least, out int most)
    {
        var start = _at++;
        var first = Number();
        var second = first;
        if (Skip(','))
        {
            second = Number();
            (least, most) = (first ?? 0, second ?? int.MaxValue);
            if (first is null && second is null)
            {
                _at = start;
                return false;
            }
        }
        else
        {
            (least, most) = (first ?? 0, first ?? 0);
        }

        if ((first ?? second) is null || !Skip('}'))
        {
            _at = start;
            return false;
        }

        if (least > MostRepeats || (most != int.MaxValue && most > MostRepeats))
        {
            throw Error($"it repeats something more than {MostRepeats} times");
        }

        (least, most) = least > most ? (most, least) : (least, most);
        return true;
    }

    private int? Number()
    {
        int? value = null;
        while (!AtEnd && _pattern[_at] is >= '0' and <= '9')
        {
            value = Math.Min(((value ?? 0) * 10) + _pattern[_at++] - '0', 1_000_000);
        }

        return value;
    }

    private static CodePointSet Any() => new([(0, CodePointSet.End)]);

    private bool Skip(char wanted)
    {
        var found = !AtEnd && _pattern[_at] == wanted;
        _at += found ? 1 : 0;
        return found;
    }

    private PeftException Error(string what) => new("TokenizerPatternInvalid", $"The tokenizer's pattern {_source} can't be read: {what} (at {_at}).");

    private NotSupportedByPeftException NotSupported(string what) =>
        new("TokenizerPatternNotSupported", $"The tokenizer's pattern {_source} has {what}, which isn't supported.");

    private readonly record struct Modes(bool IgnoreCase, bool DotAll, bool Extended);
}
