namespace Peft.Tokenization.ChatTemplates;

/// <summary>An expression of a template.</summary>
internal abstract class TemplateExpression
{
    /// <summary>Its value.</summary>
    public object? Evaluate(TemplateRun run, TemplateScope scope)
    {
        run.Step();
        return Compute(run, scope);
    }

    /// <summary>Works the value out.</summary>
    protected abstract object? Compute(TemplateRun run, TemplateScope scope);
}

/// <summary>A literal.</summary>
internal sealed class ConstantExpression(object? value) : TemplateExpression
{
    /// <summary>The value.</summary>
    public object? Value => value;

    /// <inheritdoc/>
    protected override object? Compute(TemplateRun run, TemplateScope scope) => value;
}

/// <summary>A variable.</summary>
internal sealed class NameExpression(string name) : TemplateExpression
{
    /// <summary>The name.</summary>
    public string Name => name;

    /// <inheritdoc/>
    protected override object? Compute(TemplateRun run, TemplateScope scope)
    {
        if (scope.TryGet(name, out var value))
        {
            return value is MissingParameter missing ? missing.Undefined : value;
        }

        return name == "self" ? new TemplateSelf(run) : new TemplateUndefined($"'{name}' is undefined");
    }
}

/// <summary>The text that a filter block or set block works on.</summary>
internal sealed class PlaceholderExpression : TemplateExpression
{
    /// <summary>A name that no template can spell.</summary>
    public const string Name = "|";

    /// <inheritdoc/>
    protected override object? Compute(TemplateRun run, TemplateScope scope) => scope.TryGet(Name, out var value) ? value : string.Empty;
}

/// <summary>An attribute of a namespace as the target of an assignment.</summary>
internal sealed class NamespaceTarget(string name, string attribute) : TemplateExpression
{
    /// <summary>The namespace's name.</summary>
    public string Name => name;

    /// <summary>The attribute.</summary>
    public string Attribute => attribute;

    /// <inheritdoc/>
    protected override object? Compute(TemplateRun run, TemplateScope scope) => throw new InvalidOperationException("a target has no value");
}

/// <summary><c>(a, b)</c></summary>
internal sealed class TupleExpression(List<TemplateExpression> items) : TemplateExpression
{
    /// <summary>The items.</summary>
    public List<TemplateExpression> Items => items;

    /// <inheritdoc/>
    protected override object? Compute(TemplateRun run, TemplateScope scope) => items.Select(item => item.Evaluate(run, scope)).ToArray();
}

/// <summary><c>[a, b]</c></summary>
internal sealed class ListExpression(List<TemplateExpression> items) : TemplateExpression
{
    /// <inheritdoc/>
    protected override object? Compute(TemplateRun run, TemplateScope scope) => items.ConvertAll(item => item.Evaluate(run, scope));
}

/// <summary><c>{a: b}</c></summary>
internal sealed class DictionaryExpression(List<(TemplateExpression Key, TemplateExpression Value)> entries) : TemplateExpression
{
    /// <inheritdoc/>
    protected override object? Compute(TemplateRun run, TemplateScope scope)
    {
        var result = new TemplateObject();
        foreach (var (key, value) in entries)
        {
            result.Set(key.Evaluate(run, scope), value.Evaluate(run, scope));
        }

        return result;
    }
}

/// <summary><c>a if c else b</c></summary>
internal sealed class ConditionalExpression(TemplateExpression condition, TemplateExpression value, TemplateExpression? otherwise) : TemplateExpression
{
    /// <inheritdoc/>
    protected override object? Compute(TemplateRun run, TemplateScope scope)
    {
        if (TemplateOperations.Truth(condition.Evaluate(run, scope)))
        {
            return value.Evaluate(run, scope);
        }

        return otherwise is not null
            ? otherwise.Evaluate(run, scope)
            : new TemplateUndefined("the inline if-expression evaluated to false and no else section was defined.");
    }
}

/// <summary><c>and</c>, <c>or</c></summary>
internal sealed class LogicalExpression(TemplateExpression left, TemplateExpression right, bool isOr) : TemplateExpression
{
    /// <inheritdoc/>
    protected override object? Compute(TemplateRun run, TemplateScope scope)
    {
        var first = left.Evaluate(run, scope);
        return TemplateOperations.Truth(first) == isOr ? first : right.Evaluate(run, scope);
    }
}

/// <summary><c>not</c></summary>
internal sealed class NotExpression(TemplateExpression inner) : TemplateExpression
{
    /// <inheritdoc/>
    protected override object? Compute(TemplateRun run, TemplateScope scope) => !TemplateOperations.Truth(inner.Evaluate(run, scope));
}

/// <summary>A unary sign.</summary>
internal sealed class SignExpression(TemplateExpression inner, bool negative) : TemplateExpression
{
    /// <inheritdoc/>
    protected override object? Compute(TemplateRun run, TemplateScope scope) => TemplateOperations.Sign(inner.Evaluate(run, scope), negative);
}

/// <summary>Arithmetic.</summary>
internal sealed class BinaryExpression(TemplateOperator kind, TemplateExpression left, TemplateExpression right) : TemplateExpression
{
    /// <inheritdoc/>
    protected override object? Compute(TemplateRun run, TemplateScope scope) =>
        TemplateOperations.Binary(kind, left.Evaluate(run, scope), right.Evaluate(run, scope), run);
}

/// <summary>A chain of comparisons.</summary>
internal sealed class CompareExpression(TemplateExpression first, List<(TemplateOperator Operator, TemplateExpression Right)> rest) : TemplateExpression
{
    /// <inheritdoc/>
    protected override object? Compute(TemplateRun run, TemplateScope scope)
    {
        var left = first.Evaluate(run, scope);
        foreach (var (kind, expression) in rest)
        {
            var right = expression.Evaluate(run, scope);
            if (!TemplateOperations.Compare(kind, left, right, run))
            {
                return false;
            }

            left = right;
        }

        return true;
    }
}

/// <summary><c>a ~ b</c></summary>
internal sealed class ConcatenationExpression(List<TemplateExpression> parts) : TemplateExpression
{
    /// <inheritdoc/>
    protected override object? Compute(TemplateRun run, TemplateScope scope)
    {
        var texts = parts.ConvertAll(part => PythonText.Str(part.Evaluate(run, scope), run));
        TemplateRun.CheckText(texts.Sum(text => (long)text.Length));
        return run.MadeText(string.Concat(texts));
    }
}

/// <summary><c>a.b</c></summary>
internal sealed class AttributeExpression(TemplateExpression target, string name) : TemplateExpression
{
    /// <inheritdoc/>
    protected override object? Compute(TemplateRun run, TemplateScope scope) => TemplateAccess.Attribute(target.Evaluate(run, scope), name, run);
}

/// <summary><c>a[b]</c></summary>
internal sealed class ItemExpression(TemplateExpression target, TemplateExpression index) : TemplateExpression
{
    /// <inheritdoc/>
    protected override object? Compute(TemplateRun run, TemplateScope scope) =>
        TemplateAccess.Item(target.Evaluate(run, scope), index.Evaluate(run, scope), run);
}

/// <summary><c>a:b:c</c> inside brackets.</summary>
internal sealed class SliceExpression(TemplateExpression? start, TemplateExpression? stop, TemplateExpression? step) : TemplateExpression
{
    /// <inheritdoc/>
    protected override object? Compute(TemplateRun run, TemplateScope scope) =>
        new TemplateSlice(start?.Evaluate(run, scope), stop?.Evaluate(run, scope), step?.Evaluate(run, scope));
}

/// <summary>The arguments of a call as they are written.</summary>
internal sealed class ArgumentList
{
    /// <summary>Positional arguments.</summary>
    public List<TemplateExpression> Positional { get; } = [];

    /// <summary>Named arguments.</summary>
    public List<(string Name, TemplateExpression Value)> Named { get; } = [];

    /// <summary><c>*arguments</c></summary>
    public TemplateExpression? Spread { get; set; }

    /// <summary><c>**arguments</c></summary>
    public TemplateExpression? NamedSpread { get; set; }

    /// <summary>Works the arguments out.</summary>
    public CallArguments Evaluate(TemplateRun run, TemplateScope scope)
    {
        var positional = Positional.ConvertAll(argument => argument.Evaluate(run, scope));
        if (Spread is not null)
        {
            positional.AddRange(TemplateOperations.Iterate(Spread.Evaluate(run, scope), run));
        }

        var named = new List<KeyValuePair<string, object?>>();
        foreach (var (name, value) in Named)
        {
            named.Add(new(name, value.Evaluate(run, scope)));
        }

        if (NamedSpread?.Evaluate(run, scope) is { } more)
        {
            var entries = more as TemplateObject ?? throw TemplateErrors.Type("the argument after ** must be a mapping");
            run.Read(entries);
            named.AddRange(entries.Select(entry => new KeyValuePair<string, object?>(
                entry.Key as string ?? throw TemplateErrors.Type("keywords must be strings"), entry.Value)));
        }

        return new CallArguments(positional, named);
    }
}

/// <summary><c>a(b)</c></summary>
internal sealed class CallExpression(TemplateExpression target, ArgumentList arguments) : TemplateExpression
{
    /// <summary>Calls with a call block's body as <c>caller</c>.</summary>
    public object? EvaluateWithCaller(TemplateRun run, TemplateScope scope, TemplateMacro caller)
    {
        var given = arguments.Evaluate(run, scope);
        given.Named.Insert(arguments.Named.Count, new("caller", caller));
        return TemplateOperations.Call(target.Evaluate(run, scope), given, run);
    }

    /// <inheritdoc/>
    protected override object? Compute(TemplateRun run, TemplateScope scope) =>
        TemplateOperations.Call(target.Evaluate(run, scope), arguments.Evaluate(run, scope), run);
}

/// <summary><c>a | name(b)</c></summary>
internal sealed class FilterExpression(TemplateExpression value, string name, ArgumentList arguments) : TemplateExpression
{
    /// <inheritdoc/>
    protected override object? Compute(TemplateRun run, TemplateScope scope) =>
        TemplateFilters.Apply(name, value.Evaluate(run, scope), arguments.Evaluate(run, scope), run);
}

/// <summary><c>a is name(b)</c></summary>
internal sealed class TestExpression(TemplateExpression value, string name, ArgumentList arguments) : TemplateExpression
{
    /// <inheritdoc/>
    protected override object? Compute(TemplateRun run, TemplateScope scope) =>
        TemplateTests.Apply(name, value.Evaluate(run, scope), arguments.Evaluate(run, scope), run);
}
