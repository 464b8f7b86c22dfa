using System.Numerics;

namespace Peft.Tokenization.ChatTemplates;

/// <summary>Attributes and items of values, in the order in which Jinja looks for them, and nothing that could reach outside.</summary>
internal static class TemplateAccess
{
    private static readonly HashSet<string> s_listChanges = new(StringComparer.Ordinal)
        { "append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove" };

    private static readonly HashSet<string> s_dictionaryChanges = new(StringComparer.Ordinal)
        { "clear", "pop", "popitem", "setdefault", "update" };

    /// <summary><c>value.name</c>: an attribute, else an item of that name.</summary>
    public static object? Attribute(object? value, string name, TemplateRun run)
    {
        if (value is TemplateUndefined undefined)
        {
            throw undefined.Error();
        }

        if (TryMember(value, name, run, out var member))
        {
            return member;
        }

        return value is TemplateObject entries && entries.TryGet(name, out var item) ? item : Missing(value, name);
    }

    /// <summary><c>value[index]</c>: an item, else an attribute of that name.</summary>
    public static object? Item(object? value, object? index, TemplateRun run)
    {
        if (index is TemplateSlice && value is not (TemplateUndefined or TemplateGroup or List<object?> or object?[] or string or TemplateMarkup or TemplateRange))
        {
            throw TemplateErrors.Type(value is TemplateObject ? "unhashable type: 'slice'" : $"'{TemplateValue.TypeName(value)}' object is not subscriptable");
        }

        switch (value)
        {
            case TemplateUndefined undefined:
                throw undefined.Error();
            case TemplateObject entries:
                if (TemplateKey.IsHashable(index) && entries.TryGet(index, out var item))
                {
                    return item;
                }

                break;
            case TemplateGroup group:
                return Item(group.Tuple, index, run);
            case List<object?> or object?[] or string or TemplateMarkup or TemplateRange:
                run.Count(value is string or TemplateMarkup ? PythonText.Str(value, run).Length : 0);
                if (index is TemplateSlice slice)
                {
                    return Slice(value, slice, run);
                }

                if (TemplateOperations.Number(index) is BigInteger number)
                {
                    return TryAt(value, number, out var found) ? found : Missing(value, PythonText.Integer(number));
                }

                break;
        }

        if (index is string name && TryMember(value, name, run, out var member))
        {
            return member;
        }

        return Missing(value, index as string ?? PythonText.Repr(index, run));
    }

    /// <summary>A slice with Python's rules for bounds and negative steps.</summary>
    public static object? Slice(object? value, TemplateSlice slice, TemplateRun run)
    {
        if (value is string or TemplateMarkup)
        {
            var text = PythonText.ToCodePoints(PythonText.Str(value, run));
            return run.MadeText(PythonText.FromCodePoints(Indices(text.Length, slice).Select(i => text[i])));
        }

        var items = value as List<object?> ?? (IReadOnlyList<object?>)TemplateOperations.Iterate(value, run).ToList();
        var part = Indices(items.Count, slice).Select(i => items[i]);
        return run.Made((value is object?[]) ? part.ToArray() : part.ToList());
    }

    private static IEnumerable<int> Indices(int count, TemplateSlice slice)
    {
        var step = Bound(slice.Step) ?? 1;
        if (step == 0)
        {
            throw TemplateErrors.Type("slice step cannot be zero");
        }

        var (low, high) = step > 0 ? (0, count) : (-1, count - 1);
        var start = Clamp(Bound(slice.Start) ?? (step > 0 ? 0L : count - 1L), Bound(slice.Start) is not null);
        var stop = Clamp(Bound(slice.Stop) ?? (step > 0 ? count : -1L), Bound(slice.Stop) is not null);
        for (var i = start; step > 0 ? i < stop : i > stop; i += step)
        {
            yield return (int)i;
        }

        long Clamp(long bound, bool given) => Math.Clamp(given && bound < 0 ? bound + count : bound, low, high);
    }

    private static long? Bound(object? value) => value is null ? null : TemplateOperations.Int32(value);

    private static bool TryAt(object? value, BigInteger index, out object? item)
    {
        var count = TemplateOperations.Length(value);
        index += index.Sign < 0 ? count : 0;
        if (index.Sign < 0 || index >= count)
        {
            item = null;
            return false;
        }

        var at = (int)index;
        item = value switch
        {
            List<object?> list => list[at],
            object?[] tuple => tuple[at],
            TemplateRange range => range.Start + (at * range.Step),
            _ => PythonText.Characters((value as TemplateMarkup)?.Text ?? (string)value!).ElementAt(at),
        };
        return true;
    }

    private static object Missing(object? value, string name)
    {
        var what = value switch
        {
            null => "None",
            TemplateFunction or TemplateMacro or LoopContext => "object",
            _ => $"'{TemplateValue.TypeName(value)} object'",
        };
        return new TemplateUndefined($"{what} has no attribute '{name}'");
    }

    /// <summary>A member that is one of Python's, or of the special objects.</summary>
    private static bool TryMember(object? value, string name, TemplateRun run, out object? member)
    {
        switch (value)
        {
            case LoopContext loop:
                return loop.TryGet(name, out member);
            case TemplateNamespace space when space.Attributes.TryGetValue(name, out member):
                return true;
            case TemplateSelf self when self.Run.Blocks.TryGetValue(name, out var block):
                member = new TemplateFunction(name, (_, _) => block.Render(run));
                return true;
            case TemplateGroup group when name is "grouper" or "list":
                member = name == "grouper" ? group.Grouper : group.List;
                return true;
            case TemplateMacro macro when macro.TryGet(name, out member):
                return true;
            case TemplateCycler cycler when name is "next" or "reset" or "current":
                member = cycler.Member(name);
                return true;
        }

        if (name.StartsWith("__", StringComparison.Ordinal) || IsChange(value, name))
        {
            member = new TemplateUndefined($"access to attribute '{name}' of '{TemplateValue.TypeName(value)}' object is unsafe.", isUnsafe: true);
            return true;
        }

        member = value switch
        {
            string text => PythonMethods.OfText(text, name),
            TemplateMarkup markup => PythonMethods.OfText(markup.Text, name),
            TemplateObject entries => PythonMethods.OfDictionary(entries, name),
            List<object?> or object?[] => PythonMethods.OfList(value, name),
            BigInteger or double or bool => PythonMethods.OfNumber(value, name),
            TemplateFunction { Name: "dict" } when name == "fromkeys" => new TemplateFunction(name, PythonMethods.FromKeys),
            _ => null,
        };
        return member is not null;
    }

    private static bool IsChange(object? value, string name) =>
        (value is List<object?> && s_listChanges.Contains(name)) || (value is TemplateObject && s_dictionaryChanges.Contains(name));
}

/// <summary><c>cycler('a', 'b')</c></summary>
internal sealed class TemplateCycler(List<object?> items)
{
    private int _at;

    /// <summary>One of its members.</summary>
    public object? Member(string name) => name switch
    {
        "current" => items[_at],
        "next" => new TemplateFunction("next", (_, _) => Next()),
        _ => new TemplateFunction("reset", (_, _) =>
        {
            _at = 0;
            return null;
        }),
    };

    private object? Next()
    {
        var item = items[_at];
        _at = (_at + 1) % items.Count;
        return item;
    }
}
