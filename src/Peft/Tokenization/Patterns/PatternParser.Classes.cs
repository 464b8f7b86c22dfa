using System.Globalization;

namespace Peft.Tokenization.Patterns;

internal sealed partial class PatternParser
{
    private static readonly PatternNode s_lineBreak = new AtomicNode(new AlternativeNode([
        new SequenceNode([new SetNode(CodePointSet.Of('\r')), new SetNode(CodePointSet.Of('\n'))]),
        new SetNode(CodePointSet.Of('\n', '\v', '\f', '\r', 0x85, 0x2028, 0x2029))]));

    /// <summary>What follows a backslash outside of a class.</summary>
    private PatternNode Escape(Modes modes)
    {
        if (AtEnd)
        {
            throw Error("it ends with a backslash");
        }

        var codePoint = _pattern[_at];
        var node = codePoint switch
        {
            'A' => new AssertNode(PatternAssertion.TextStart),
            'z' => new AssertNode(PatternAssertion.TextEnd),
            'Z' => new AssertNode(PatternAssertion.TextEndOrLastBreak),
            'b' => new AssertNode(PatternAssertion.WordBoundary),
            'B' => new AssertNode(PatternAssertion.NoWordBoundary),
            'G' => new AssertNode(PatternAssertion.SearchStart),
            'R' => s_lineBreak,
            'X' => new GraphemeNode(),
            'N' => new SetNode(CodePointSet.Of('\n').Complement()),
            'O' => new SetNode(Any()),
            'K' or 'k' or 'g' or (>= '1' and <= '9') => throw NotSupported("a reference to what matched before"),
            _ => null,
        };
        if (node is not null)
        {
            _at++;
            return node;
        }

        return ClassEscape(PatternProperties.Word) is { } set ? new SetNode(set) : Literal(CharacterEscape(), modes);
    }

    /// <summary>An escape that stands for a set, or null.</summary>
    /// <param name="word">What <c>\w</c> is: in brackets it hasn't the superscript digits and fractions that it has outside.</param>
    private CodePointSet? ClassEscape(CodePointSet word)
    {
        var set = _pattern[_at] switch
        {
            'd' => PatternProperties.Digit,
            'D' => PatternProperties.Digit.Complement(),
            'w' => word,
            'W' => word.Complement(),
            's' => PatternProperties.Space,
            'S' => PatternProperties.Space.Complement(),
            'h' => PatternProperties.HexDigit,
            'H' => PatternProperties.HexDigit.Complement(),
            _ => null,
        };
        if (set is not null)
        {
            _at++;
            return set;
        }

        return _pattern[_at] is 'p' or 'P' && _at + 1 < _pattern.Length && _pattern[_at + 1] == '{' ? Property() : null;
    }

    private CodePointSet Property()
    {
        var negative = _pattern[_at] == 'P';
        _at += 2;
        if (Skip('^'))
        {
            negative = !negative;
        }

        var name = Until('}');
        var set = PatternProperties.Find(name) ?? throw NotSupported($"the property {name}");
        return negative ? set.Complement() : set;
    }

    private string Until(char close)
    {
        var start = _at;
        while (!AtEnd && _pattern[_at] != close)
        {
            _at++;
        }

        var text = string.Concat(_pattern[start.._at].Select(Text.CodePoints.Text));
        return Skip(close) ? text : throw Error($"a '{close}' is missing");
    }

    /// <summary>An escape that stands for one code point.</summary>
    private int CharacterEscape()
    {
        var codePoint = _pattern[_at++];
        switch (codePoint)
        {
            case 't':
                return '\t';
            case 'n':
                return '\n';
            case 'r':
                return '\r';
            case 'f':
                return '\f';
            case 'v':
                return '\v';
            case 'a':
                return '\a';
            case 'e':
                return 0x1B;
            case 'x' when Skip('{'):
                return Hexadecimal(Until('}'));
            case 'x':
                return Digits(2, least: 0);
            case 'u':
                return Digits(4, least: 4);
            case >= '0' and <= '7':
                var value = codePoint - '0';
                for (var i = 0; i < 2 && !AtEnd && _pattern[_at] is >= '0' and <= '7'; i++)
                {
                    value = (value * 8) + _pattern[_at++] - '0';
                }

                return value;
            default:
                return codePoint;
        }
    }

    private int Digits(int most, int least)
    {
        var start = _at;
        while (_at - start < most && !AtEnd && _pattern[_at] < 0x80 && char.IsAsciiHexDigit((char)_pattern[_at]))
        {
            _at++;
        }

        if (_at - start < least)
        {
            throw Error("an escape has too few digits");
        }

        return _at == start ? 0 : Hexadecimal(string.Concat(_pattern[start.._at].Select(digit => (char)digit)));
    }

    private int Hexadecimal(string digits) =>
        int.TryParse(digits, NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out var value) && value is >= 0 and < CodePointSet.End
            ? value
            : throw Error("an escape is no code point");

    /// <summary>A class, from after its opening bracket to its closing one.</summary>
    private CodePointSet Class(bool ignoreCase)
    {
        if (++_depth > Deepest)
        {
            throw Error($"it is nested more than {Deepest} levels deep");
        }

        var negative = Skip('^');
        CodePointSet? before = null;
        var ranges = new List<(int Start, int End)>();
        var first = true;
        while (true)
        {
            if (AtEnd)
            {
                throw Error("a class isn't closed");
            }

            if (_pattern[_at] == ']' && !(first && _pattern.AsSpan(_at + 1).Contains(']')))
            {
                _at++;
                break;
            }

            first = false;
            if (_pattern[_at] == '&' && _at + 1 < _pattern.Length && _pattern[_at + 1] == '&')
            {
                _at += 2;
                before = Both(before, ranges, ignoreCase);
                ranges.Clear();
                continue;
            }

            ClassItem(ranges, ignoreCase);
        }

        _depth--;
        var set = Both(before, ranges, ignoreCase);
        return negative ? set.Complement() : set;
    }

    private static CodePointSet Both(CodePointSet? before, List<(int Start, int End)> ranges, bool ignoreCase)
    {
        var set = CodePointSet.Union(ranges);
        set = ignoreCase ? set.IgnoringCase() : set;
        return before?.Intersect(set) ?? set;
    }

    private void ClassItem(List<(int Start, int End)> ranges, bool ignoreCase)
    {
        if (Skip('['))
        {
            ranges.AddRange((Skip(':') ? Posix() : Class(ignoreCase)).Ranges);
            return;
        }

        if (!ClassCharacter(ranges, out var start))
        {
            return;
        }

        var isRange = _at + 1 < _pattern.Length && _pattern[_at] == '-' && _pattern[_at + 1] is not (']' or '[');
        if (!isRange)
        {
            ranges.Add((start, start + 1));
            return;
        }

        _at++;
        if (!ClassCharacter(ranges, out var end))
        {
            // A set after a dash: both are plain.
            ranges.Add((start, start + 1));
            ranges.Add(('-', '-' + 1));
            return;
        }

        ranges.Add(end >= start ? (start, end + 1) : throw Error("a range in a class ends before it starts"));
    }

    /// <summary>One code point of a class; false where it was a set, which is added.</summary>
    private bool ClassCharacter(List<(int Start, int End)> ranges, out int codePoint)
    {
        codePoint = _pattern[_at++];
        if (codePoint != '\\')
        {
            return true;
        }

        if (AtEnd)
        {
            throw Error("it ends with a backslash");
        }

        if (ClassEscape(PatternProperties.Find("word")!) is { } set)
        {
            ranges.AddRange(set.Ranges);
            return false;
        }

        if (_pattern[_at] == 'b')
        {
            _at++;
            codePoint = '\b';
            return true;
        }

        if (_pattern[_at] == 'R')
        {
            _at++;
            ranges.AddRange(CodePointSet.Of('\n', '\v', '\f', '\r', 0x85, 0x2028, 0x2029).Ranges);
            return false;
        }

        codePoint = CharacterEscape();
        return true;
    }

    /// <summary><c>[:name:]</c></summary>
    private CodePointSet Posix()
    {
        var negative = Skip('^');
        var name = Until(':');
        if (!Skip(']'))
        {
            throw Error("a POSIX class isn't closed");
        }

        var set = PatternProperties.Find(name) ?? throw NotSupported($"the class {name}");
        return negative ? set.Complement() : set;
    }
}
