namespace Peft.Tokenization.ChatTemplates;

/// <summary>Reads the tokens of a template into statements and expressions.</summary>
internal sealed partial class TemplateParser
{
    /// <summary>Deeper nesting than any template has.</summary>
    private const int Deepest = 120;

    private readonly List<TemplateToken> _tokens;
    private readonly Stack<string[]> _endings = new();
    private int _at;
    private int _depth;
    private int _soft;
    private HashSet<string> _reads = new(StringComparer.Ordinal);

    private TemplateParser(List<TemplateToken> tokens) => _tokens = tokens;

    private TemplateToken Current => _tokens[_at];

    private TemplateToken Following => _tokens[Math.Min(_at + 1, _tokens.Count - 1)];

    /// <summary>Parses a template.</summary>
    /// <exception cref="TemplateException">It has a syntax error.</exception>
    public static BodyStatement Parse(string source, out IReadOnlyList<string> literals)
    {
        var tokens = TemplateLexer.Tokenize(source);
        literals = [.. tokens.Where(token => token.Kind is TemplateTokenKind.Data or TemplateTokenKind.String).Select(token => token.Text)];
        return new TemplateParser(tokens).Body([]);
    }

    /// <summary>Statements up to one of the given tags, whose name is the current token afterwards.</summary>
    private BodyStatement Body(string[] endings)
    {
        Enter();
        _endings.Push(endings);
        var statements = new List<TemplateStatement>();
        while (Current.Kind != TemplateTokenKind.End)
        {
            var token = Current;
            switch (token.Kind)
            {
                case TemplateTokenKind.Data:
                    Advance();
                    statements.Add(new DataStatement(token.Text));
                    break;
                case TemplateTokenKind.VariableBegin:
                    Advance();
                    statements.Add(new PrintStatement(Tuple()));
                    Expect(TemplateTokenKind.VariableEnd, "end of print statement");
                    break;
                default:
                    Advance();
                    if (Current.Kind == TemplateTokenKind.Name && endings.Contains(Current.Text))
                    {
                        return Leave();
                    }

                    statements.Add(Statement());
                    Expect(TemplateTokenKind.BlockEnd, "end of statement block");
                    break;
            }
        }

        if (endings.Length > 0)
        {
            throw Error($"Unexpected end of template. Jinja was looking for the following tags: {Names(endings)}.");
        }

        return Leave();

        BodyStatement Leave()
        {
            _endings.Pop();
            _depth--;
            return new BodyStatement(statements);
        }
    }

    /// <summary>A body whose end tag is skipped, up to its closing bracket.</summary>
    private BodyStatement BodyTo(string ending)
    {
        Expect(TemplateTokenKind.BlockEnd, "end of statement block");
        var body = Body([ending]);
        Advance();
        return body;
    }

    private TemplateStatement Statement()
    {
        var token = Current;
        if (token.Kind != TemplateTokenKind.Name)
        {
            throw Error("tag name expected");
        }

        Advance();
        switch (token.Text)
        {
            case "if":
                return If();
            case "for":
                return For();
            case "set":
                return Set();
            case "macro":
                var name = Name();
                return new MacroStatement(Macro(name, Signature(), "endmacro"));
            case "call":
                return Call();
            case "filter":
                var filters = Filter(new PlaceholderExpression(), startInline: true);
                return new FilterStatement(filters, BodyTo("endfilter"));
            case "with":
                return With();
            case "generation":
                return new GenerationStatement(BodyTo("endgeneration"));
            case "block":
                return Block();
            case "break":
                return new LoopControlStatement(TemplateFlow.Break);
            case "continue":
                return new LoopControlStatement(TemplateFlow.Continue);
            case "print":
                return Print();
            case "include" or "import" or "extends" or "from":
                throw TemplateErrors.Unsafe($"Chat templates have no access to other templates ('{token.Text}' in line {token.Line}).");
            default:
                _at--;
                throw UnknownTag(token);
        }
    }

    private TemplateException UnknownTag(TemplateToken token)
    {
        var looking = _endings.TryPeek(out var endings) && endings.Length > 0 ? $" Jinja was looking for the following tags: {Names(endings)}." : "";
        return Error($"Encountered unknown tag '{token.Text}'.{looking}");
    }

    private IfStatement If()
    {
        _soft++;
        var branches = new List<(TemplateExpression Condition, BodyStatement Body)>();
        BodyStatement? otherwise = null;
        var condition = TupleWithoutCondition();
        while (true)
        {
            Expect(TemplateTokenKind.BlockEnd, "end of statement block");
            branches.Add((condition, Body(["elif", "else", "endif"])));
            var tag = Current.Text;
            Advance();
            if (tag == "elif")
            {
                condition = TupleWithoutCondition();
                continue;
            }

            if (tag == "else")
            {
                otherwise = BodyTo("endif");
            }

            _soft--;
            return new IfStatement(branches, otherwise);
        }
    }

    private ForStatement For()
    {
        var target = Target(["in"], attributes: false);
        ExpectName("in");
        var items = TupleWithoutCondition(["recursive"]);
        TemplateExpression? filter = null;
        if (SkipName("if"))
        {
            filter = Expression();
        }

        var recursive = SkipName("recursive");
        Expect(TemplateTokenKind.BlockEnd, "end of statement block");
        var body = Body(["endfor", "else"]);
        var tag = Current.Text;
        Advance();
        BodyStatement? otherwise = null;
        if (tag == "else")
        {
            otherwise = BodyTo("endfor");
        }

        return new ForStatement(target, items, filter, recursive, body, otherwise);
    }

    private TemplateStatement Set()
    {
        var target = Target([], attributes: true);
        if (SkipOperator("="))
        {
            return new SetStatement(target, Tuple());
        }

        var filter = Current.IsOperator("|") ? Filter(new PlaceholderExpression(), startInline: false) : null;
        return new SetBlockStatement(target, filter, BodyTo("endset"));
    }

    private CallStatement Call()
    {
        var parameters = Current.IsOperator("(") ? Signature() : [];
        var call = Expression() as CallExpression ?? throw Error("expected call");
        return new CallStatement(call, Macro(null, parameters, "endcall"));
    }

    private WithStatement With()
    {
        var targets = new List<(TemplateExpression Target, TemplateExpression Value)>();
        while (Current.Kind != TemplateTokenKind.BlockEnd)
        {
            if (targets.Count > 0)
            {
                ExpectOperator(",");
            }

            var target = Target([], attributes: false, single: true);
            ExpectOperator("=");
            targets.Add((target, Expression()));
        }

        return new WithStatement(targets, BodyTo("endwith"));
    }

    private BlockStatement Block()
    {
        var name = Name();
        _ = SkipName("scoped");
        _ = SkipName("required");
        var body = BodyTo("endblock");
        _ = SkipName(name);
        return new BlockStatement(name, body);
    }

    private BodyStatement Print()
    {
        var statements = new List<TemplateStatement>();
        while (Current.Kind != TemplateTokenKind.BlockEnd)
        {
            if (statements.Count > 0)
            {
                ExpectOperator(",");
            }

            statements.Add(new PrintStatement(Expression()));
        }

        return new BodyStatement(statements);
    }

    /// <summary>The parameters of a macro or call block, with their defaults.</summary>
    private MacroDefinition Macro(string? name, List<(string Name, TemplateExpression? Default)> parameters, string ending)
    {
        var outer = _reads;
        _reads = new(StringComparer.Ordinal);
        var macro = new MacroDefinition(name, parameters, BodyTo(ending), _reads);
        outer.UnionWith(_reads);
        _reads = outer;
        return macro;
    }

    private List<(string Name, TemplateExpression? Default)> Signature()
    {
        var parameters = new List<(string Name, TemplateExpression? Default)>();
        ExpectOperator("(");
        while (!Current.IsOperator(")"))
        {
            if (parameters.Count > 0)
            {
                ExpectOperator(",");
            }

            var name = Name();
            var otherwise = SkipOperator("=") ? Expression() : null;
            if (otherwise is null && parameters.Count > 0 && parameters[^1].Default is not null)
            {
                throw Error("non-default argument follows default argument");
            }

            parameters.Add((name, otherwise));
        }

        Advance();
        return parameters;
    }

    /// <summary>Something that can be assigned to: a name, a tuple of names, or an attribute of a namespace.</summary>
    private TemplateExpression Target(string[] ends, bool attributes, bool single = false)
    {
        var targets = new List<TemplateExpression>();
        var tuple = false;
        while (true)
        {
            if (targets.Count > 0 && (Current.Kind != TemplateTokenKind.Name && !Current.IsOperator("(")
                || (Current.Kind == TemplateTokenKind.Name && ends.Contains(Current.Text))))
            {
                break;
            }

            targets.Add(SingleTarget(attributes));
            if (single || !SkipOperator(","))
            {
                break;
            }

            tuple = true;
        }

        return tuple ? new TupleExpression(targets) : targets[0];
    }

    private TemplateExpression SingleTarget(bool attributes)
    {
        if (SkipOperator("("))
        {
            var inner = Target([], attributes);
            ExpectOperator(")");
            return inner;
        }

        var token = Current;
        var name = Name();
        if (name is "true" or "false" or "none" or "True" or "False" or "None")
        {
            _at--;
            throw Error($"can't assign to '{token.Text}'");
        }

        return attributes && SkipOperator(".") ? new NamespaceTarget(name, Name()) : new NameExpression(name);
    }

    private void Enter()
    {
        if (++_depth > Deepest)
        {
            throw TemplateErrors.Limit($"The chat template is nested more than {Deepest} levels deep.");
        }
    }

    private void Advance() => _at = Math.Min(_at + 1, _tokens.Count - 1);

    private string Name()
    {
        var token = Current;
        Expect(TemplateTokenKind.Name, "name");
        return token.Text;
    }

    private bool SkipName(string name)
    {
        var found = Current.IsName(name);
        if (found)
        {
            Advance();
        }

        return found;
    }

    private bool SkipOperator(string text)
    {
        var found = Current.IsOperator(text);
        if (found)
        {
            Advance();
        }

        return found;
    }

    private void Expect(TemplateTokenKind kind, string what)
    {
        if (Current.Kind != kind)
        {
            throw Error($"expected token '{what}', got '{Current.Text}'");
        }

        Advance();
    }

    private void ExpectOperator(string text)
    {
        if (!SkipOperator(text))
        {
            throw Error($"expected token '{text}', got '{Current.Text}'");
        }
    }

    private void ExpectName(string name)
    {
        if (!SkipName(name))
        {
            throw Error($"expected token '{name}', got '{Current.Text}'");
        }
    }

    private static string Names(string[] endings) => string.Join(" or ", endings.Select(ending => $"'{ending}'"));

    private TemplateException Error(string message) => TemplateErrors.Syntax(message, Current.Line);
}
