namespace Peft.Tokenization.ChatTemplates;

internal sealed partial class TemplateParser
{
    private static readonly Dictionary<string, TemplateOperator> s_comparisons = new(StringComparer.Ordinal)
    {
        ["=="] = TemplateOperator.Equal,
        ["!="] = TemplateOperator.NotEqual,
        ["<"] = TemplateOperator.Less,
        ["<="] = TemplateOperator.LessOrEqual,
        [">"] = TemplateOperator.Greater,
        [">="] = TemplateOperator.GreaterOrEqual,
    };

    private TemplateExpression Tuple(string[]? ends = null) => TupleOf(Expression, ends ?? [], parenthesised: false);

    private TemplateExpression TupleWithoutCondition(string[]? ends = null) => TupleOf(Or, ends ?? [], parenthesised: false);

    /// <summary>One expression, or several with commas between them.</summary>
    private TemplateExpression TupleOf(Func<TemplateExpression> parse, string[] ends, bool parenthesised)
    {
        var items = new List<TemplateExpression>();
        var tuple = false;
        while (true)
        {
            if (items.Count > 0)
            {
                ExpectOperator(",");
            }

            if (Current.Kind is TemplateTokenKind.VariableEnd or TemplateTokenKind.BlockEnd || Current.IsOperator(")")
                || (Current.Kind == TemplateTokenKind.Name && ends.Contains(Current.Text)))
            {
                break;
            }

            items.Add(parse());
            if (!Current.IsOperator(","))
            {
                break;
            }

            tuple = true;
        }

        if (tuple)
        {
            return new TupleExpression(items);
        }

        if (items.Count > 0)
        {
            return items[0];
        }

        return parenthesised ? new TupleExpression(items) : throw Error($"Expected an expression, got '{Current.Text}'");
    }

    private TemplateExpression Expression()
    {
        Enter();
        var value = Or();
        while (SkipName("if"))
        {
            _soft++;
            var condition = Or();
            var otherwise = SkipName("else") ? Expression() : null;
            _soft--;
            value = new ConditionalExpression(condition, value, otherwise);
        }

        _depth--;
        return value;
    }

    private TemplateExpression Or()
    {
        var left = And();
        while (SkipName("or"))
        {
            left = new LogicalExpression(left, And(), isOr: true);
        }

        return left;
    }

    private TemplateExpression And()
    {
        var left = Not();
        while (SkipName("and"))
        {
            left = new LogicalExpression(left, Not(), isOr: false);
        }

        return left;
    }

    private TemplateExpression Not()
    {
        if (!SkipName("not"))
        {
            return Compare();
        }

        Enter();
        var inner = Not();
        _depth--;
        return new NotExpression(inner);
    }

    private TemplateExpression Compare()
    {
        var first = Sum();
        List<(TemplateOperator Operator, TemplateExpression Right)>? rest = null;
        while (true)
        {
            if (Current.Kind == TemplateTokenKind.Operator && s_comparisons.TryGetValue(Current.Text, out var comparison))
            {
                Advance();
            }
            else if (SkipName("in"))
            {
                comparison = TemplateOperator.In;
            }
            else if (Current.IsName("not") && Following.IsName("in"))
            {
                Advance();
                Advance();
                comparison = TemplateOperator.NotIn;
            }
            else
            {
                return rest is null ? first : new CompareExpression(first, rest);
            }

            (rest ??= []).Add((comparison, Sum()));
        }
    }

    private TemplateExpression Sum()
    {
        var left = Concatenation();
        while (Current.IsOperator("+") || Current.IsOperator("-"))
        {
            var plus = Current.Text == "+";
            Advance();
            left = new BinaryExpression(plus ? TemplateOperator.Add : TemplateOperator.Subtract, left, Concatenation());
        }

        return left;
    }

    private TemplateExpression Concatenation()
    {
        var first = Product();
        if (!Current.IsOperator("~"))
        {
            return first;
        }

        var parts = new List<TemplateExpression> { first };
        while (SkipOperator("~"))
        {
            parts.Add(Product());
        }

        return new ConcatenationExpression(parts);
    }

    private TemplateExpression Product()
    {
        var left = Power();
        while (true)
        {
            var kind = Current.Kind != TemplateTokenKind.Operator ? (TemplateOperator?)null : Current.Text switch
            {
                "*" => TemplateOperator.Multiply,
                "/" => TemplateOperator.Divide,
                "//" => TemplateOperator.FloorDivide,
                "%" => TemplateOperator.Modulo,
                _ => null,
            };
            if (kind is not { } product)
            {
                return left;
            }

            Advance();
            left = new BinaryExpression(product, left, Power());
        }
    }

    private TemplateExpression Power()
    {
        var left = Unary(filters: true);
        while (SkipOperator("**"))
        {
            left = new BinaryExpression(TemplateOperator.Power, left, Unary(filters: true));
        }

        return left;
    }

    private TemplateExpression Unary(bool filters)
    {
        Enter();
        TemplateExpression node;
        if (Current.IsOperator("-") || Current.IsOperator("+"))
        {
            var negative = Current.Text == "-";
            Advance();
            node = new SignExpression(Unary(filters: false), negative);
        }
        else
        {
            node = Primary();
        }

        node = Postfix(node);
        node = filters ? FiltersAndTests(node) : node;
        _depth--;
        return node;
    }

    private TemplateExpression Primary()
    {
        var token = Current;
        switch (token.Kind)
        {
            case TemplateTokenKind.Name:
                Advance();
                _reads.Add(token.Text);
                return token.Text switch
                {
                    "true" or "True" => new ConstantExpression(true),
                    "false" or "False" => new ConstantExpression(false),
                    "none" or "None" => new ConstantExpression(null),
                    _ => new NameExpression(token.Text),
                };
            case TemplateTokenKind.String:
                Advance();
                var text = token.Text;
                while (Current.Kind == TemplateTokenKind.String)
                {
                    text += Current.Text;
                    Advance();
                }

                return new ConstantExpression(text);
            case TemplateTokenKind.Integer or TemplateTokenKind.Float:
                Advance();
                return new ConstantExpression(token.Value);
        }

        if (SkipOperator("("))
        {
            var inner = TupleOf(Expression, [], parenthesised: true);
            ExpectOperator(")");
            return inner;
        }

        if (SkipOperator("["))
        {
            return new ListExpression(Items("]"));
        }

        return SkipOperator("{") ? Dictionary() : throw Error($"unexpected '{token.Text}'");
    }

    private List<TemplateExpression> Items(string close)
    {
        var items = new List<TemplateExpression>();
        while (!SkipOperator(close))
        {
            if (items.Count > 0)
            {
                ExpectOperator(",");
                if (SkipOperator(close))
                {
                    break;
                }
            }

            items.Add(Expression());
        }

        return items;
    }

    private DictionaryExpression Dictionary()
    {
        var entries = new List<(TemplateExpression Key, TemplateExpression Value)>();
        while (!SkipOperator("}"))
        {
            if (entries.Count > 0)
            {
                ExpectOperator(",");
                if (SkipOperator("}"))
                {
                    break;
                }
            }

            var key = Expression();
            ExpectOperator(":");
            entries.Add((key, Expression()));
        }

        return new DictionaryExpression(entries);
    }

    private TemplateExpression Postfix(TemplateExpression node)
    {
        while (true)
        {
            if (SkipOperator("."))
            {
                var token = Current;
                Advance();
                node = token.Kind switch
                {
                    TemplateTokenKind.Name => new AttributeExpression(node, token.Text),
                    TemplateTokenKind.Integer => new ItemExpression(node, new ConstantExpression(token.Value)),
                    _ => throw Error("expected name or number"),
                };
            }
            else if (SkipOperator("["))
            {
                node = new ItemExpression(node, Subscript());
            }
            else if (Current.IsOperator("("))
            {
                node = new CallExpression(node, Arguments());
            }
            else
            {
                return node;
            }
        }
    }

    private TemplateExpression FiltersAndTests(TemplateExpression node)
    {
        while (true)
        {
            if (Current.IsOperator("|"))
            {
                node = Filter(node, startInline: false);
            }
            else if (Current.IsName("is"))
            {
                node = Test(node);
            }
            else if (Current.IsOperator("("))
            {
                node = new CallExpression(node, Arguments());
            }
            else
            {
                return node;
            }
        }
    }

    private TemplateExpression Subscript()
    {
        var parts = new List<TemplateExpression>();
        while (!SkipOperator("]"))
        {
            if (parts.Count > 0)
            {
                ExpectOperator(",");
            }

            parts.Add(Slice());
        }

        return parts.Count == 1 ? parts[0] : new TupleExpression(parts);
    }

    private TemplateExpression Slice()
    {
        TemplateExpression? start = null;
        if (!Current.IsOperator(":"))
        {
            start = Expression();
            if (!Current.IsOperator(":"))
            {
                return start;
            }
        }

        Advance();
        var stop = Bound();
        var step = SkipOperator(":") ? Bound() : null;
        return new SliceExpression(start, stop, step);

        TemplateExpression? Bound() => Current.IsOperator(":") || Current.IsOperator("]") || Current.IsOperator(",") ? null : Expression();
    }
}
