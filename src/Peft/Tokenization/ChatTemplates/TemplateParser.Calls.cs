namespace Peft.Tokenization.ChatTemplates;

internal sealed partial class TemplateParser
{
    private ArgumentList Arguments()
    {
        ExpectOperator("(");
        var arguments = new ArgumentList();
        var comma = false;
        while (!SkipOperator(")"))
        {
            if (comma)
            {
                ExpectOperator(",");
                if (SkipOperator(")"))
                {
                    break;
                }
            }

            Argument(arguments);
            comma = true;
        }

        return arguments;
    }

    private void Argument(ArgumentList arguments)
    {
        if (SkipOperator("*"))
        {
            Ensure(arguments.Spread is null && arguments.NamedSpread is null);
            arguments.Spread = Expression();
        }
        else if (SkipOperator("**"))
        {
            Ensure(arguments.NamedSpread is null);
            arguments.NamedSpread = Expression();
        }
        else if (Current.Kind == TemplateTokenKind.Name && Following.IsOperator("="))
        {
            Ensure(arguments.NamedSpread is null);
            var name = Name();
            Advance();
            arguments.Named.Add((name, Expression()));
        }
        else
        {
            Ensure(arguments.Spread is null && arguments.NamedSpread is null && arguments.Named.Count == 0);
            arguments.Positional.Add(Expression());
        }

        void Ensure(bool valid)
        {
            if (!valid)
            {
                throw Error("invalid syntax for function call expression");
            }
        }
    }

    private TemplateExpression Filter(TemplateExpression node, bool startInline)
    {
        while (startInline || SkipOperator("|"))
        {
            startInline = false;
            var name = DottedName();
            var arguments = Current.IsOperator("(") ? Arguments() : new ArgumentList();
            if (_soft == 0 && !TemplateFilters.Exists(name))
            {
                throw Error($"No filter named '{name}'.");
            }

            node = new FilterExpression(node, name, arguments);
        }

        return node;
    }

    private TemplateExpression Test(TemplateExpression node)
    {
        Advance();
        var negated = SkipName("not");
        var name = DottedName();
        var arguments = new ArgumentList();
        if (Current.IsOperator("("))
        {
            arguments = Arguments();
        }
        else if (StartsTestArgument())
        {
            if (Current.IsName("is"))
            {
                throw Error("You cannot chain multiple tests with is");
            }

            arguments.Positional.Add(Postfix(Primary()));
        }

        if (_soft == 0 && !TemplateTests.Exists(name))
        {
            throw Error($"No test named '{name}'.");
        }

        TemplateExpression test = new TestExpression(node, name, arguments);
        return negated ? new NotExpression(test) : test;
    }

    /// <summary>A test takes what follows as its argument where that could start one; so also an inline if.</summary>
    private bool StartsTestArgument() => Current.Kind switch
    {
        TemplateTokenKind.Name => Current.Text is not ("else" or "or" or "and"),
        TemplateTokenKind.String or TemplateTokenKind.Integer or TemplateTokenKind.Float => true,
        TemplateTokenKind.Operator => Current.Text is "[" or "{",
        _ => false,
    };

    private string DottedName()
    {
        var name = Name();
        while (SkipOperator("."))
        {
            name += "." + Name();
        }

        return name;
    }
}
