using System.Numerics;

namespace Peft.Tokenization.ChatTemplates;

/// <summary>Something that isn't there. It prints as nothing and is false; any other use is its error.</summary>
internal sealed class TemplateUndefined(string message, bool isUnsafe = false)
{
    /// <summary>The error of using it.</summary>
    public TemplateException Error() => isUnsafe ? TemplateErrors.Unsafe(message) : TemplateErrors.Undefined(message);
}

/// <summary>Text that is escaped already.</summary>
internal sealed record TemplateMarkup(string Text);

/// <summary><c>a:b:c</c></summary>
internal sealed record TemplateSlice(object? Start, object? Stop, object? Step);

/// <summary>What Python makes one item at a time: it can be walked over, and has neither length nor index.</summary>
internal sealed class TemplateGenerator(IEnumerable<object?> items)
{
    private readonly IEnumerator<object?> _items = items.GetEnumerator();

    /// <summary>What is left of it.</summary>
    public IEnumerable<object?> Rest(TemplateRun run)
    {
        while (Advance())
        {
            run.Step();
            yield return _items.Current;
        }
    }

    /// <summary>Goes on to the next item; one generator may draw on another and so on, as deep as the stack allows.</summary>
    private bool Advance() => System.Runtime.CompilerServices.RuntimeHelpers.TryEnsureSufficientExecutionStack()
        ? _items.MoveNext()
        : throw TemplateErrors.Limit("The chat template nests filters too deep.");
}

/// <summary>A range of whole numbers.</summary>
internal sealed class TemplateRange
{
    private const int Longest = 100_000;

    /// <summary>A range; at most 100,000 numbers, as in Jinja's sandbox.</summary>
    public TemplateRange(BigInteger start, BigInteger stop, BigInteger step)
    {
        if (step.IsZero)
        {
            throw TemplateErrors.Type("range() arg 3 must not be zero");
        }

        var span = step.Sign > 0 ? stop - start : start - stop;
        var count = span.Sign <= 0 ? BigInteger.Zero : ((span - 1) / BigInteger.Abs(step)) + 1;
        if (count > Longest)
        {
            throw TemplateErrors.Limit($"Range too big. The sandbox blocks ranges larger than MAX_RANGE ({Longest}).");
        }

        (Start, Stop, Step, Count) = (start, stop, step, (int)count);
    }

    /// <summary>The first number.</summary>
    public BigInteger Start { get; }

    /// <summary>Where it ends.</summary>
    public BigInteger Stop { get; }

    /// <summary>The distance between numbers.</summary>
    public BigInteger Step { get; }

    /// <summary>How many numbers there are.</summary>
    public int Count { get; }

    /// <summary>The numbers.</summary>
    public IEnumerable<object?> Items()
    {
        for (var i = 0; i < Count; i++)
        {
            yield return Start + (i * Step);
        }
    }
}

/// <summary><c>namespace()</c>: an object whose attributes can be set from inner scopes.</summary>
internal sealed class TemplateNamespace
{
    /// <summary>The attributes.</summary>
    public Dictionary<string, object?> Attributes { get; } = new(StringComparer.Ordinal);

    /// <summary>Sets an attribute.</summary>
    public void Set(string name, object? value)
    {
        if (name.StartsWith('_'))
        {
            throw TemplateErrors.Unsafe($"Chat templates cannot store underscore-prefixed attributes on a namespace, but got '{name}'.");
        }

        Attributes[name] = value;
    }
}

/// <summary><c>self</c>, which knows the template's blocks.</summary>
internal sealed record TemplateSelf(TemplateRun Run);

/// <summary><c>groupby</c>'s pair of key and items, which is a tuple with names.</summary>
internal sealed record TemplateGroup(object? Grouper, List<object?> List)
{
    /// <summary>The pair without names.</summary>
    public object?[] Tuple => [Grouper, List];
}

/// <summary>Evaluated arguments of a call.</summary>
internal sealed class CallArguments(List<object?> positional, List<KeyValuePair<string, object?>> named)
{
    /// <summary>No arguments.</summary>
    public static CallArguments None => new([], []);

    /// <summary>Positional arguments.</summary>
    public List<object?> Positional => positional;

    /// <summary>Named arguments.</summary>
    public List<KeyValuePair<string, object?>> Named => named;

    /// <summary>An argument by place or name.</summary>
    public object? Get(int index, string name, object? otherwise = null) => TryGet(index, name, out var value) ? value : otherwise;

    /// <summary>An argument by place or name, if it is given.</summary>
    public bool TryGet(int index, string name, out object? value)
    {
        if (index < positional.Count)
        {
            value = positional[index];
            return true;
        }

        foreach (var entry in named)
        {
            if (entry.Key == name)
            {
                value = entry.Value;
                return true;
            }
        }

        value = null;
        return false;
    }

    /// <summary>An argument that has to be given.</summary>
    public object? Required(int index, string name) => TryGet(index, name, out var value)
        ? value
        : throw TemplateErrors.Type($"missing a required argument: '{name}'");

    /// <summary>A whole number.</summary>
    public int Integer(int index, string name, int otherwise) => TryGet(index, name, out var value)
        ? TemplateOperations.Int32(value)
        : otherwise;

    /// <summary>A text.</summary>
    public string? Text(int index, string name, string? otherwise = null) => TryGet(index, name, out var value)
        ? value switch
        {
            string text => text,
            TemplateMarkup markup => markup.Text,
            null => null,
            TemplateUndefined undefined => throw undefined.Error(),
            _ => throw TemplateErrors.Type($"must be str, not {TemplateValue.TypeName(value)}"),
        }
        : otherwise;

    /// <summary>A text that has to be given.</summary>
    public string RequiredText(int index, string name)
    {
        Required(index, name);
        return Text(index, name) ?? throw TemplateErrors.Type("must be str, not NoneType");
    }

    /// <summary>A truth value.</summary>
    public bool Flag(int index, string name, bool otherwise = false) => TryGet(index, name, out var value) ? TemplateOperations.Truth(value) : otherwise;

    /// <summary>The arguments after the first ones.</summary>
    public CallArguments Skip(int count) => new([.. positional.Skip(count)], named);
}

/// <summary>A function that templates can call.</summary>
internal sealed class TemplateFunction(string name, Func<CallArguments, TemplateRun, object?> body)
{
    /// <summary>The name.</summary>
    public string Name => name;

    /// <summary>Calls it.</summary>
    public object? Call(CallArguments arguments, TemplateRun run) => body(arguments, run);
}

/// <summary><c>loop</c> inside a for loop.</summary>
internal sealed class LoopContext(IEnumerable<object?> iterable, int depth, Func<object?, string>? recurse)
{
    private readonly IEnumerator<object?> _source = iterable.GetEnumerator();
    private readonly List<object?> _items = [];
    private bool _changedBefore;
    private object?[] _changed = [];

    /// <summary>The present iteration, from 0; -1 before the first.</summary>
    public int Index { get; private set; } = -1;

    /// <summary>Goes on to the next item, if there is one.</summary>
    public bool Advance(out object? item)
    {
        var more = Fetch(Index + 1);
        Index += more || Index >= 0 ? 1 : 0;
        item = more ? _items[Index] : null;
        return more;
    }

    /// <summary>Whether there is an item at a place. Items are taken no earlier than they are asked for.</summary>
    private bool Fetch(int index)
    {
        while (_items.Count <= index && _source.MoveNext())
        {
            _items.Add(_source.Current);
        }

        return index < _items.Count;
    }

    private int Count()
    {
        Fetch(int.MaxValue);
        return _items.Count;
    }

    /// <summary>An attribute of <c>loop</c>, if it is one.</summary>
    public bool TryGet(string name, out object? value)
    {
        value = name switch
        {
            "index" => new BigInteger(Index + 1),
            "index0" => new BigInteger(Index),
            "revindex" => new BigInteger(Count() - Index),
            "revindex0" => new BigInteger(Count() - Index - 1),
            "first" => Index == 0,
            "last" => !Fetch(Index + 1),
            "length" => new BigInteger(Count()),
            "depth" => new BigInteger(depth + 1),
            "depth0" => new BigInteger(depth),
            "previtem" => Index > 0 ? _items[Index - 1] : new TemplateUndefined("there is no previous item"),
            "nextitem" => Fetch(Index + 1) ? _items[Index + 1] : new TemplateUndefined("there is no next item"),
            "cycle" => new TemplateFunction("cycle", Cycle),
            "changed" => new TemplateFunction("changed", Changed),
            _ => this,
        };
        return !ReferenceEquals(value, this);
    }

    /// <summary>Renders the loop again over an item's children.</summary>
    public string Recurse(object? children) => recurse is null
        ? throw TemplateErrors.Type("The loop must have the 'recursive' marker to be called recursively.")
        : recurse(children);

    private object? Cycle(CallArguments arguments, TemplateRun run) => arguments.Positional.Count > 0
        ? arguments.Positional[Index % arguments.Positional.Count]
        : throw TemplateErrors.Type("no items for cycling given");

    private object? Changed(CallArguments arguments, TemplateRun run)
    {
        var values = arguments.Positional.ToArray();
        if (_changedBefore && TemplateOperations.AreEqual(values, _changed, run))
        {
            return false;
        }

        (_changedBefore, _changed) = (true, values);
        return true;
    }
}
