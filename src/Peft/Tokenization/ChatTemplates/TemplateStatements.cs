namespace Peft.Tokenization.ChatTemplates;

/// <summary>A statement of a template.</summary>
internal abstract class TemplateStatement
{
    /// <summary>Runs it.</summary>
    public abstract TemplateFlow Execute(TemplateRun run, TemplateScope scope);
}

/// <summary>Statements one after the other.</summary>
internal sealed class BodyStatement(IReadOnlyList<TemplateStatement> statements) : TemplateStatement
{
    /// <inheritdoc/>
    public override TemplateFlow Execute(TemplateRun run, TemplateScope scope)
    {
        for (var i = 0; i < statements.Count; i++)
        {
            run.Step();
            var flow = statements[i].Execute(run, scope);
            if (flow != TemplateFlow.Next)
            {
                return flow;
            }
        }

        return TemplateFlow.Next;
    }
}

/// <summary>Plain text.</summary>
internal sealed class DataStatement(string text) : TemplateStatement
{
    /// <summary>The text.</summary>
    public string Text => text;

    /// <inheritdoc/>
    public override TemplateFlow Execute(TemplateRun run, TemplateScope scope)
    {
        run.Write(text);
        return TemplateFlow.Next;
    }
}

/// <summary><c>{{ value }}</c></summary>
internal sealed class PrintStatement(TemplateExpression value) : TemplateStatement
{
    /// <inheritdoc/>
    public override TemplateFlow Execute(TemplateRun run, TemplateScope scope)
    {
        run.Write(PythonText.Str(value.Evaluate(run, scope), run));
        return TemplateFlow.Next;
    }
}

/// <summary><c>{% if %}</c></summary>
internal sealed class IfStatement(List<(TemplateExpression Condition, BodyStatement Body)> branches, BodyStatement? otherwise) : TemplateStatement
{
    /// <inheritdoc/>
    public override TemplateFlow Execute(TemplateRun run, TemplateScope scope)
    {
        foreach (var (condition, body) in branches)
        {
            if (TemplateOperations.Truth(condition.Evaluate(run, scope)))
            {
                return body.Execute(run, scope);
            }
        }

        return otherwise?.Execute(run, scope) ?? TemplateFlow.Next;
    }
}

/// <summary><c>{% break %}</c> and <c>{% continue %}</c></summary>
internal sealed class LoopControlStatement(TemplateFlow flow) : TemplateStatement
{
    /// <inheritdoc/>
    public override TemplateFlow Execute(TemplateRun run, TemplateScope scope) => flow;
}

/// <summary><c>{% for %}</c></summary>
internal sealed class ForStatement(TemplateExpression target, TemplateExpression iterated, TemplateExpression? filter, bool recursive,
    BodyStatement body, BodyStatement? otherwise) : TemplateStatement
{
    /// <inheritdoc/>
    public override TemplateFlow Execute(TemplateRun run, TemplateScope scope)
    {
        Loop(run, scope, iterated.Evaluate(run, scope), 0);
        return TemplateFlow.Next;
    }

    private void Loop(TemplateRun run, TemplateScope scope, object? iterable, int depth)
    {
        var items = TemplateOperations.Iterate(iterable, run);
        if (filter is not null)
        {
            // Item by item, since the body may change what the filter looks at.
            items = items.Where(item =>
            {
                var inner = new TemplateScope(scope);
                TemplateOperations.Assign(target, item, inner, run);
                return TemplateOperations.Truth(filter.Evaluate(run, inner));
            });
        }

        var loop = new LoopContext(items, depth, recursive
            ? nested => run.Capture(() => Loop(run, scope, nested, depth + 1))
            : null);
        var finished = false;
        while (loop.Advance(out var item))
        {
            run.Step();
            var inner = new TemplateScope(scope);
            inner.Set("loop", loop);
            TemplateOperations.Assign(target, item, inner, run);
            var flow = body.Execute(run, inner);
            finished |= flow == TemplateFlow.Next;
            if (flow == TemplateFlow.Break)
            {
                break;
            }
        }

        // As Jinja compiles it: the else part is left out only where some iteration reached the end of the body.
        if (!finished)
        {
            otherwise?.Execute(run, new TemplateScope(scope));
        }
    }
}

/// <summary><c>{% set name = value %}</c></summary>
internal sealed class SetStatement(TemplateExpression target, TemplateExpression value) : TemplateStatement
{
    /// <inheritdoc/>
    public override TemplateFlow Execute(TemplateRun run, TemplateScope scope)
    {
        TemplateOperations.Assign(target, value.Evaluate(run, scope), scope, run);
        return TemplateFlow.Next;
    }
}

/// <summary><c>{% set name %}...{% endset %}</c>, perhaps with a filter.</summary>
internal sealed class SetBlockStatement(TemplateExpression target, TemplateExpression? filter, BodyStatement body) : TemplateStatement
{
    /// <inheritdoc/>
    public override TemplateFlow Execute(TemplateRun run, TemplateScope scope)
    {
        var inner = new TemplateScope(scope);
        object? text = run.Capture(() => body.Execute(run, inner));
        if (filter is not null)
        {
            inner.Set(PlaceholderExpression.Name, text);
            text = filter.Evaluate(run, inner);
        }

        TemplateOperations.Assign(target, text, scope, run);
        return TemplateFlow.Next;
    }
}

/// <summary><c>{% filter name %}...{% endfilter %}</c></summary>
internal sealed class FilterStatement(TemplateExpression filter, BodyStatement body) : TemplateStatement
{
    /// <inheritdoc/>
    public override TemplateFlow Execute(TemplateRun run, TemplateScope scope)
    {
        var inner = new TemplateScope(scope);
        inner.Set(PlaceholderExpression.Name, run.Capture(() => body.Execute(run, inner)));
        var result = filter.Evaluate(run, inner);
        run.Write(result is string or TemplateMarkup
            ? PythonText.Str(result, run)
            : throw TemplateErrors.Type($"sequence item 0: expected str instance, {TemplateValue.TypeName(result)} found"));
        return TemplateFlow.Next;
    }
}

/// <summary><c>{% with %}</c></summary>
internal sealed class WithStatement(List<(TemplateExpression Target, TemplateExpression Value)> targets, BodyStatement body) : TemplateStatement
{
    /// <inheritdoc/>
    public override TemplateFlow Execute(TemplateRun run, TemplateScope scope)
    {
        var inner = new TemplateScope(scope);
        var values = targets.ConvertAll(target => target.Value.Evaluate(run, scope));
        for (var i = 0; i < targets.Count; i++)
        {
            TemplateOperations.Assign(targets[i].Target, values[i], inner, run);
        }

        return body.Execute(run, inner);
    }
}

/// <summary><c>{% generation %}</c>: what the assistant says.</summary>
internal sealed class GenerationStatement(BodyStatement body) : TemplateStatement
{
    /// <inheritdoc/>
    public override TemplateFlow Execute(TemplateRun run, TemplateScope scope)
    {
        var text = run.Capture(() => body.Execute(run, new TemplateScope(scope)));
        run.GenerationSpans.Add((run.Root.Length, run.Root.Length + text.Length));
        run.Write(text);
        return TemplateFlow.Next;
    }
}

/// <summary><c>{% block %}</c></summary>
internal sealed class BlockStatement(string name, BodyStatement body) : TemplateStatement
{
    /// <summary>The name.</summary>
    public string Name => name;

    /// <inheritdoc/>
    public override TemplateFlow Execute(TemplateRun run, TemplateScope scope)
    {
        run.Blocks[name] = this;
        run.Write(Render(run));
        return TemplateFlow.Next;
    }

    /// <summary>Renders the block with the template's own variables.</summary>
    public string Render(TemplateRun run) => run.Capture(() => body.Execute(run, new TemplateScope(run.Globals)));
}

/// <summary><c>{% macro %}</c></summary>
internal sealed class MacroStatement(MacroDefinition macro) : TemplateStatement
{
    /// <inheritdoc/>
    public override TemplateFlow Execute(TemplateRun run, TemplateScope scope)
    {
        scope.Set(macro.Name!, new TemplateMacro(macro, scope));
        return TemplateFlow.Next;
    }
}

/// <summary><c>{% call macro() %}...{% endcall %}</c></summary>
internal sealed class CallStatement(CallExpression call, MacroDefinition body) : TemplateStatement
{
    /// <inheritdoc/>
    public override TemplateFlow Execute(TemplateRun run, TemplateScope scope)
    {
        var caller = new TemplateMacro(body, scope);
        run.Write(PythonText.Str(call.EvaluateWithCaller(run, scope, caller), run));
        return TemplateFlow.Next;
    }
}
