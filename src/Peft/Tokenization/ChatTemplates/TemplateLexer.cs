using System.Globalization;
using System.Numerics;
using System.Text;

namespace Peft.Tokenization.ChatTemplates;

/// <summary>What a token of a template is.</summary>
internal enum TemplateTokenKind
{
    Data,
    VariableBegin,
    VariableEnd,
    BlockBegin,
    BlockEnd,
    Name,
    String,
    Integer,
    Float,
    Operator,
    End,
}

/// <summary>A token: its kind, its text (an operator's or name's) or value, and the line it is on.</summary>
internal readonly record struct TemplateToken(TemplateTokenKind Kind, string Text, object? Value, int Line)
{
    /// <summary>Whether this is the given operator.</summary>
    public bool IsOperator(string text) => Kind == TemplateTokenKind.Operator && Text == text;

    /// <summary>Whether this is the given name.</summary>
    public bool IsName(string text) => Kind == TemplateTokenKind.Name && Text == text;
}

/// <summary>
/// Cuts a template into text, tags and their tokens, with Jinja's white-space rules: a newline after a block goes, as do blanks before a
/// block that starts its line, <c>-</c> takes all white space and <c>+</c> keeps it.
/// </summary>
internal sealed class TemplateLexer
{
    private static readonly string[] s_operators =
        ["//", "**", "==", "!=", ">=", "<=", "+", "-", "*", "/", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<", "=", ".", ":", "|", ",", ";"];

    private readonly string _source;
    private readonly List<TemplateToken> _tokens = [];
    private int _at;
    private int _line = 1;
    private bool _lineStarting = true;

    private TemplateLexer(string source) => _source = source;

    /// <summary>The tokens of a template.</summary>
    public static List<TemplateToken> Tokenize(string source)
    {
        var text = source.Replace("\r\n", "\n", StringComparison.Ordinal).Replace('\r', '\n');
        var lexer = new TemplateLexer(text.EndsWith('\n') ? text[..^1] : text);
        lexer.Run();
        return lexer._tokens;
    }

    private void Run()
    {
        while (_at < _source.Length)
        {
            var start = NextTag(_at);
            if (start < 0)
            {
                AddData(_source[_at..]);
                break;
            }

            Tag(start);
        }

        Add(TemplateTokenKind.End, "end of template", null);
    }

    private int NextTag(int from)
    {
        for (var i = from; i + 1 < _source.Length; i++)
        {
            if (_source[i] == '{' && _source[i + 1] is '{' or '%' or '#')
            {
                return i;
            }
        }

        return -1;
    }

    /// <summary>Handles the text before a tag and the tag itself.</summary>
    private void Tag(int start)
    {
        var kind = _source[start + 1];
        var inside = start + 2;
        var sign = SignAt(inside);
        var data = Stripped(_source[_at..start], sign, kind);
        AddData(data);
        _line += Count(_source, _at, start) - Count(data, 0, data.Length);
        _at = sign == ' ' ? inside : inside + 1;
        switch (kind)
        {
            case '#':
                Comment();
                break;
            case '{':
                Add(TemplateTokenKind.VariableBegin, "begin of print statement", null);
                Inside("}}", TemplateTokenKind.VariableEnd, "end of print statement", trim: false);
                break;
            default:
                if (!Raw())
                {
                    Add(TemplateTokenKind.BlockBegin, "begin of statement block", null);
                    Inside("%}", TemplateTokenKind.BlockEnd, "end of statement block", trim: true);
                }

                break;
        }
    }

    private string Stripped(string data, char sign, char kind)
    {
        if (sign == '-')
        {
            return data.TrimEnd();
        }

        if (sign == '+' || kind == '{')
        {
            return data;
        }

        var lineStart = data.LastIndexOf('\n') + 1;
        return (lineStart > 0 || _lineStarting) && data.AsSpan(lineStart).IsWhiteSpace() ? data[..lineStart] : data;
    }

    private void Comment()
    {
        var end = _source.IndexOf("#}", _at, StringComparison.Ordinal);
        if (end < 0)
        {
            throw Error("Missing end of comment tag");
        }

        var sign = end > _at ? SignAt(end - 1) : ' ';
        Leave(end + 2, sign, trim: true);
    }

    /// <summary>Copies a raw block, if this is one.</summary>
    private bool Raw()
    {
        var at = SkipSpace(_at);
        if (string.CompareOrdinal(_source, at, "raw", 0, 3) != 0)
        {
            return false;
        }

        at = SkipSpace(at + 3);
        var dash = at < _source.Length && _source[at] == '-';
        if (string.CompareOrdinal(_source, at, dash ? "-%}" : "%}", 0, dash ? 3 : 2) != 0)
        {
            return false;
        }

        at += dash ? 3 : 2;
        _at = dash ? SkipSpace(at) : at;
        _lineStarting = _source[_at - 1] == '\n';
        for (var open = _source.IndexOf("{%", _at, StringComparison.Ordinal); open >= 0; open = _source.IndexOf("{%", open + 2, StringComparison.Ordinal))
        {
            var inside = open + 2;
            var sign = SignAt(inside);
            var name = SkipSpace(sign == ' ' ? inside : inside + 1);
            if (string.CompareOrdinal(_source, name, "endraw", 0, 6) != 0)
            {
                continue;
            }

            var close = SkipSpace(name + 6);
            var closing = SignAt(close);
            close += closing == ' ' ? 0 : 1;
            if (string.CompareOrdinal(_source, close, "%}", 0, 2) != 0)
            {
                continue;
            }

            AddData(Stripped(_source[_at..open], sign, '%'));
            Leave(close + 2, closing, trim: true);
            return true;
        }

        throw Error("Missing end of raw directive");
    }

    /// <summary>Tokenizes up to the end of a tag.</summary>
    private void Inside(string close, TemplateTokenKind kind, string name, bool trim)
    {
        var open = new Stack<char>();
        while (true)
        {
            _line += Count(_source, _at, SkipSpace(_at));
            _at = SkipSpace(_at);
            if (_at >= _source.Length)
            {
                throw Error("unexpected end of template");
            }

            if (open.Count == 0 && TryClose(close, kind, name, trim))
            {
                return;
            }

            Token(open);
        }
    }

    private bool TryClose(string close, TemplateTokenKind kind, string name, bool trim)
    {
        var sign = _source[_at] == '-' || (_source[_at] == '+' && trim) ? _source[_at] : ' ';
        var at = sign == ' ' ? _at : _at + 1;
        if (string.CompareOrdinal(_source, at, close, 0, 2) != 0)
        {
            return false;
        }

        Add(kind, name, null);
        Leave(at + 2, sign, trim);
        return true;
    }

    /// <summary>Steps past the end of a tag and what its sign takes along.</summary>
    private void Leave(int end, char sign, bool trim)
    {
        var next = end;
        if (sign == '-')
        {
            next = SkipSpace(end);
        }
        else if (trim && sign != '+' && end < _source.Length && _source[end] == '\n')
        {
            next = end + 1;
        }

        _line += Count(_source, _at, next);
        _at = next;
        _lineStarting = _source[next - 1] == '\n';
    }

    private void Token(Stack<char> open)
    {
        var character = _source[_at];
        if (char.IsAsciiDigit(character))
        {
            Number();
        }
        else if (character is '"' or '\'')
        {
            String(character);
        }
        else if (char.IsLetter(character) || character == '_')
        {
            var start = _at;
            while (_at < _source.Length && (char.IsLetterOrDigit(_source[_at]) || _source[_at] == '_'))
            {
                _at++;
            }

            Add(TemplateTokenKind.Name, _source[start.._at], null);
        }
        else
        {
            Operator(open);
        }
    }

    private void Operator(Stack<char> open)
    {
        var text = Array.Find(s_operators, candidate => string.CompareOrdinal(_source, _at, candidate, 0, candidate.Length) == 0)
            ?? throw Error($"unexpected char '{_source[_at]}' at {_at}");
        switch (text)
        {
            case "(" or "[" or "{":
                open.Push(text == "(" ? ')' : text == "[" ? ']' : '}');
                break;
            case ")" or "]" or "}":
                if (open.Count == 0)
                {
                    throw Error($"unexpected '{text}'");
                }

                var expected = open.Pop();
                if (expected != text[0])
                {
                    throw Error($"unexpected '{text}', expected '{expected}'");
                }

                break;
        }

        _at += text.Length;
        Add(TemplateTokenKind.Operator, text, null);
    }

    private void Number()
    {
        var start = _at;
        var text = _source;
        if (text[_at] == '0' && _at + 1 < text.Length && text[_at + 1] is 'x' or 'X' or 'o' or 'O' or 'b' or 'B')
        {
            _at += 2;
            while (_at < text.Length && (char.IsAsciiHexDigit(text[_at]) || text[_at] == '_'))
            {
                _at++;
            }

            Add(TemplateTokenKind.Integer, text[start.._at], PythonNumbers.ParseInteger(text[start.._at], 0) ?? throw Error("invalid number"));
            return;
        }

        Digits();
        var real = false;
        if (_at + 1 < text.Length && text[_at] == '.' && char.IsAsciiDigit(text[_at + 1]))
        {
            real = true;
            _at++;
            Digits();
        }

        if (_at < text.Length && text[_at] is 'e' or 'E')
        {
            var digits = _at + 1 < text.Length && text[_at + 1] is '+' or '-' ? _at + 2 : _at + 1;
            if (digits < text.Length && char.IsAsciiDigit(text[digits]))
            {
                real = true;
                _at = digits;
                Digits();
            }
        }

        var plain = text[start.._at].Replace("_", "", StringComparison.Ordinal);
        if (real)
        {
            Add(TemplateTokenKind.Float, plain, double.Parse(plain, CultureInfo.InvariantCulture));
        }
        else
        {
            Add(TemplateTokenKind.Integer, plain, plain.Length > 4300 ? throw Error("number too long") : BigInteger.Parse(plain, CultureInfo.InvariantCulture));
        }

        void Digits()
        {
            while (_at < text.Length && (char.IsAsciiDigit(text[_at]) || (text[_at] == '_' && _at + 1 < text.Length && char.IsAsciiDigit(text[_at + 1]))))
            {
                _at++;
            }
        }
    }

    private void String(char quote)
    {
        var value = new StringBuilder();
        var at = _at + 1;
        while (true)
        {
            if (at >= _source.Length)
            {
                throw Error($"unexpected char '{quote}' at {_at}");
            }

            var character = _source[at++];
            if (character == quote)
            {
                break;
            }

            if (character != '\\' || at >= _source.Length)
            {
                value.Append(character);
                continue;
            }

            Escape(value, ref at);
        }

        _line += Count(_source, _at, at);
        _at = at;
        Add(TemplateTokenKind.String, value.ToString(), null);
    }

    private void Escape(StringBuilder value, ref int at)
    {
        var character = _source[at++];
        const string Simple = "\n\0\\\\''\"\"a\ab\bf\fn\nr\rt\tv\v";
        for (var i = 2; i < Simple.Length; i += 2)
        {
            if (Simple[i] == character)
            {
                value.Append(Simple[i + 1]);
                return;
            }
        }

        if (character == '\n')
        {
            return;
        }

        if (character is >= '0' and <= '7')
        {
            var octal = character - '0';
            for (var i = 0; i < 2 && at < _source.Length && _source[at] is >= '0' and <= '7'; i++)
            {
                octal = (octal * 8) + _source[at++] - '0';
            }

            value.Append((char)octal);
            return;
        }

        var digits = character switch { 'x' => 2, 'u' => 4, 'U' => 8, _ => 0 };
        if (digits == 0)
        {
            value.Append('\\').Append(character);
            return;
        }

        if (at + digits > _source.Length
            || !int.TryParse(_source.AsSpan(at, digits), NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out var code) || code is > 0x10FFFF or < 0)
        {
            throw Error($"truncated \\{character} escape");
        }

        at += digits;
        value.Append(Text.CodePoints.Text(code));
    }

    private void AddData(string data)
    {
        if (data.Length > 0)
        {
            Add(TemplateTokenKind.Data, data, null);
            _line += Count(data, 0, data.Length);
        }
    }

    private void Add(TemplateTokenKind kind, string text, object? value) => _tokens.Add(new TemplateToken(kind, text, value, _line));

    /// <summary>The white-space sign at a position, or a blank.</summary>
    private char SignAt(int at) => at < _source.Length && _source[at] is '-' or '+' ? _source[at] : ' ';

    private int SkipSpace(int at)
    {
        while (at < _source.Length && char.IsWhiteSpace(_source[at]))
        {
            at++;
        }

        return at;
    }

    private static int Count(string text, int start, int end) => start < end ? text.AsSpan(start, end - start).Count('\n') : 0;

    private TemplateException Error(string message) => TemplateErrors.Syntax(message, _line);
}

/// <summary>The errors of templates.</summary>
internal static class TemplateErrors
{
    /// <summary>A syntax error.</summary>
    public static TemplateException Syntax(string message, int line) =>
        new(string.Create(CultureInfo.InvariantCulture, $"The chat template has a syntax error in line {line}: {message}"), "ChatTemplateSyntax");

    /// <summary>Use of something that isn't defined.</summary>
    public static TemplateException Undefined(string message) => new(message, "ChatTemplateUndefined");

    /// <summary>An operation on the wrong kind of value.</summary>
    public static TemplateException Type(string message) => new(message, "ChatTemplateType");

    /// <summary>Access that templates don't have.</summary>
    public static TemplateException Unsafe(string message) => new(message, "ChatTemplateUnsafe");

    /// <summary>A limit of time, depth or size.</summary>
    public static TemplateException Limit(string message) => new(message, "ChatTemplateLimit");
}
