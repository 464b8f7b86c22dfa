using System.Numerics;

namespace Peft.Tokenization.ChatTemplates;

/// <summary>The operators of expressions.</summary>
internal enum TemplateOperator
{
    Add,
    Subtract,
    Multiply,
    Divide,
    FloorDivide,
    Modulo,
    Power,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    NotIn,
}

/// <summary>What Python's operators do to the values of templates.</summary>
internal static partial class TemplateOperations
{
    /// <summary>Whether a value counts as true.</summary>
    public static bool Truth(object? value) => value switch
    {
        null => false,
        bool flag => flag,
        BigInteger number => !number.IsZero,
        double number => number != 0,
        string text => text.Length > 0,
        TemplateMarkup markup => markup.Text.Length > 0,
        List<object?> list => list.Count > 0,
        object?[] tuple => tuple.Length > 0,
        TemplateObject entries => entries.Count > 0,
        TemplateView view => view.Count > 0,
        TemplateRange range => range.Count > 0,
        TemplateUndefined => false,
        _ => true,
    };

    /// <summary>The items of a value.</summary>
    public static IEnumerable<object?> Iterate(object? value, TemplateRun run)
    {
        switch (value)
        {
            case List<object?> list:
                run.Read(list);
                return list;
            case object?[] tuple:
                run.Read(tuple);
                return tuple;
            case TemplateObject entries:
                run.Read(entries);
                return entries.Keys;
            case TemplateView view:
                run.Read(view);
                return view.Items();
            case string text:
                run.Read(text);
                return PythonText.Characters(text);
            case TemplateMarkup markup:
                run.Read(markup);
                return PythonText.Characters(markup.Text);
            case TemplateRange range:
                run.Read(range);
                return range.Items();
            case TemplateGenerator generator:
                return generator.Rest(run);
            case TemplateGroup group:
                return [group.Grouper, group.List];
            case TemplateUndefined:
                return [];
            default:
                throw TemplateErrors.Type($"'{TemplateValue.TypeName(value)}' object is not iterable");
        }
    }

    /// <summary>The number of items of a value.</summary>
    public static int Length(object? value) => value switch
    {
        List<object?> list => list.Count,
        object?[] tuple => tuple.Length,
        TemplateObject entries => entries.Count,
        TemplateView view => view.Count,
        string text => PythonText.Length(text),
        TemplateMarkup markup => PythonText.Length(markup.Text),
        TemplateRange range => range.Count,
        TemplateGroup => 2,
        TemplateUndefined => 0,
        _ => throw TemplateErrors.Type($"object of type '{TemplateValue.TypeName(value)}' has no len()"),
    };

    /// <summary>A value as a 32-bit number.</summary>
    public static int Int32(object? value)
    {
        var number = value switch
        {
            bool flag => flag ? BigInteger.One : BigInteger.Zero,
            BigInteger whole => whole,
            TemplateUndefined undefined => throw undefined.Error(),
            _ => throw TemplateErrors.Type($"'{TemplateValue.TypeName(value)}' object cannot be interpreted as an integer"),
        };
        return number < int.MinValue ? int.MinValue : number > int.MaxValue ? int.MaxValue : (int)number;
    }

    /// <summary>Assigns to a name, a tuple of names, or an attribute of a namespace.</summary>
    public static void Assign(TemplateExpression target, object? value, TemplateScope scope, TemplateRun run)
    {
        switch (target)
        {
            case NameExpression name:
                scope.Set(name.Name, value);
                break;
            case NamespaceTarget attribute:
                scope.TryGet(attribute.Name, out var holder);
                (holder as TemplateNamespace ?? throw TemplateErrors.Type("cannot assign attribute on non-namespace object")).Set(attribute.Attribute, value);
                break;
            case TupleExpression tuple:
                var items = Iterate(value, run).Take(tuple.Items.Count + 1).ToList();
                if (items.Count != tuple.Items.Count)
                {
                    throw TemplateErrors.Type(items.Count < tuple.Items.Count
                        ? $"not enough values to unpack (expected {tuple.Items.Count}, got {items.Count})"
                        : $"too many values to unpack (expected {tuple.Items.Count})");
                }

                for (var i = 0; i < items.Count; i++)
                {
                    Assign(tuple.Items[i], items[i], scope, run);
                }

                break;
            default:
                throw new InvalidOperationException("no such target");
        }
    }

    /// <summary>Calls a value.</summary>
    public static object? Call(object? target, CallArguments arguments, TemplateRun run)
    {
        run.Step();
        return target switch
        {
            TemplateFunction function => run.Made(function.Call(Counted(arguments, run), run)),
            TemplateMacro macro => macro.Call(arguments, run),
            LoopContext loop => loop.Recurse(arguments.Required(0, "iterable")),
            TemplateUndefined undefined => throw undefined.Error(),
            _ => throw TemplateErrors.Type($"'{TemplateValue.TypeName(target)}' object is not callable"),
        };
    }

    /// <summary>Arguments, counted as what is read.</summary>
    public static CallArguments Counted(CallArguments arguments, TemplateRun run)
    {
        arguments.Positional.ForEach(run.Read);
        arguments.Named.ForEach(entry => run.Read(entry.Value));
        return arguments;
    }

    /// <summary>A unary sign.</summary>
    public static object? Sign(object? value, bool negative) => Number(value) switch
    {
        BigInteger number => negative ? -number : number,
        double number => negative ? -number : number,
        _ => throw (value as TemplateUndefined)?.Error()
            ?? TemplateErrors.Type($"bad operand type for unary {(negative ? '-' : '+')}: '{TemplateValue.TypeName(value)}'"),
    };

    /// <summary>Arithmetic, and what it means for texts and lists.</summary>
    public static object? Binary(TemplateOperator kind, object? left, object? right, TemplateRun run) => run.Made(Compute(kind, left, right, run));

    private static object? Compute(TemplateOperator kind, object? left, object? right, TemplateRun run)
    {
        if (kind == TemplateOperator.Modulo && left is string or TemplateMarkup)
        {
            return PythonFormat.Percent(PythonText.Str(left, run), right, run);
        }

        if ((left as TemplateUndefined ?? right as TemplateUndefined) is { } undefined)
        {
            throw undefined.Error();
        }

        if (Number(left) is { } a && Number(right) is { } b)
        {
            return a is BigInteger x && b is BigInteger y ? Whole(kind, x, y) : Real(kind, ToDouble(a), ToDouble(b));
        }

        return (kind switch
        {
            TemplateOperator.Add => Add(left, right),
            TemplateOperator.Multiply => Repeat(left, right) ?? Repeat(right, left),
            _ => null,
        }) ?? throw TemplateErrors.Type(Complaint(kind, left, right));
    }

    /// <summary>A comparison.</summary>
    public static bool Compare(TemplateOperator kind, object? left, object? right, TemplateRun run) => kind switch
    {
        TemplateOperator.Equal => AreEqual(left, right, run),
        TemplateOperator.NotEqual => !AreEqual(left, right, run),
        TemplateOperator.In => Contains(right, left, run),
        TemplateOperator.NotIn => !Contains(right, left, run),
        TemplateOperator.Less => Order(left, right, "<", run) is < 0,
        TemplateOperator.LessOrEqual => Order(left, right, "<=", run) is <= 0,
        TemplateOperator.Greater => Order(left, right, ">", run) is > 0,
        _ => Order(left, right, ">=", run) is >= 0,
    };

    /// <summary>Python's equality.</summary>
    public static bool AreEqual(object? left, object? right, TemplateRun run)
    {
        run.Step();
        if (Number(left) is { } a && Number(right) is { } b)
        {
            return a is BigInteger x && b is BigInteger y ? x == y : CompareNumbers(a, b) == 0;
        }

        return (left, right) switch
        {
            (null, null) => true,
            (string x, string y) => x.Length == y.Length && SameText(x, y, run),
            (TemplateMarkup x, _) => AreEqual(x.Text, right, run),
            (_, TemplateMarkup y) => AreEqual(left, y.Text, run),
            (List<object?> x, List<object?> y) => x.Count == y.Count && x.Zip(y).All(pair => AreEqual(pair.First, pair.Second, run)),
            (object?[] x, object?[] y) => x.Length == y.Length && x.Zip(y).All(pair => AreEqual(pair.First, pair.Second, run)),
            (TemplateObject x, TemplateObject y) => x.Count == y.Count
                && x.All(entry => y.TryGet(entry.Key, out var other) && AreEqual(entry.Value, other, run)),
            (TemplateGroup x, _) => AreEqual(x.Tuple, right, run),
            (_, TemplateGroup y) => AreEqual(left, y.Tuple, run),
            (TemplateView { IsSet: true } x, TemplateView { IsSet: true } y) => x.Count == y.Count && x.Items().All(item => Contains(y, item, run)),
            (TemplateRange x, TemplateRange y) => Iterate(x, run).SequenceEqual(Iterate(y, run)),
            (TemplateUndefined, TemplateUndefined) => true,
            _ => ReferenceEquals(left, right),
        };
    }

    private static bool SameText(string left, string right, TemplateRun run)
    {
        run.Read(left);
        return left == right;
    }

    /// <summary>Python's order, or null where one of two numbers is no number; throws where there is no order.</summary>
    public static int? Order(object? left, object? right, string sign, TemplateRun run)
    {
        run.Step();
        if (Number(left) is { } a && Number(right) is { } b)
        {
            return CompareNumbers(a, b);
        }

        switch (left, right)
        {
            case (string x, string y):
                run.Count(Math.Min(x.Length, y.Length));
                return PythonText.Compare(x, y);
            case (TemplateMarkup x, _):
                return Order(x.Text, right, sign, run);
            case (_, TemplateMarkup y):
                return Order(left, y.Text, sign, run);
            case (List<object?> x, List<object?> y):
                return OrderLists(x, y, sign, run);
            case (object?[] x, object?[] y):
                return OrderLists(x, y, sign, run);
            case (TemplateGroup x, _):
                return Order(x.Tuple, right, sign, run);
            case (_, TemplateGroup y):
                return Order(left, y.Tuple, sign, run);
            case (TemplateUndefined undefined, _):
                throw undefined.Error();
            case (_, TemplateUndefined undefined):
                throw undefined.Error();
            default:
                throw TemplateErrors.Type($"'{sign}' not supported between instances of '{TemplateValue.TypeName(left)}' and '{TemplateValue.TypeName(right)}'");
        }
    }

    /// <summary>Whether a container has an item, a text a part, or a dictionary a key.</summary>
    public static bool Contains(object? container, object? item, TemplateRun run)
    {
        switch (container)
        {
            case string or TemplateMarkup:
                return item is string or TemplateMarkup
                    ? HasPart(PythonText.Str(container, run), PythonText.Str(item, run), run)
                    : throw (item as TemplateUndefined)?.Error()
                        ?? TemplateErrors.Type($"'in <string>' requires string as left operand, not {TemplateValue.TypeName(item)}");
            case TemplateObject entries:
                return entries.TryGet(item, out _);
            case TemplateView { TypeName: "dict_keys" } keys:
                TemplateKey.Check(item);
                return keys.Items().Any(candidate => AreEqual(candidate, item, run));
            case TemplateNamespace or TemplateFunction or TemplateMacro or null or bool or BigInteger or double:
                throw TemplateErrors.Type($"argument of type '{TemplateValue.TypeName(container)}' is not iterable");
            default:
                return Iterate(container, run).Any(candidate => AreEqual(candidate, item, run));
        }
    }

    /// <summary>A stable sort by keys. What the order throws comes out as it is, and not as the framework wraps it.</summary>
    public static List<TItem> Sorted<TItem, TKey>(IEnumerable<TItem> items, Func<TItem, TKey> key, Comparison<TKey> order)
    {
        try
        {
            return [.. items.Select(item => (Item: item, Key: key(item))).ToList().OrderBy(entry => entry.Key, Comparer<TKey>.Create(order)).Select(entry => entry.Item)];
        }
        catch (InvalidOperationException error) when (error.InnerException is TemplateException or OperationCanceledException)
        {
            System.Runtime.ExceptionServices.ExceptionDispatchInfo.Throw(error.InnerException);
            throw;
        }
    }

    private static bool HasPart(string text, string part, TemplateRun run)
    {
        run.Read(text);
        return Text.TextSearch.First(text, part) >= 0;
    }

    private static object? Add(object? left, object? right)
    {
        switch (left, right)
        {
            case (string x, string y):
                TemplateRun.CheckText((long)x.Length + y.Length);
                return x + y;
            case (TemplateMarkup x, string y):
                return new TemplateMarkup(x.Text + TemplateFilters.Escaped(y));
            case (string x, TemplateMarkup y):
                return new TemplateMarkup(TemplateFilters.Escaped(x) + y.Text);
            case (TemplateMarkup x, TemplateMarkup y):
                return new TemplateMarkup(x.Text + y.Text);
            case (List<object?> x, List<object?> y):
                TemplateRun.CheckList((long)x.Count + y.Count);
                return new List<object?>([.. x, .. y]);
            case (object?[] x, object?[] y):
                TemplateRun.CheckList((long)x.Length + y.Length);
                return (object?[])[.. x, .. y];
            default:
                return null;
        }
    }

    private static object? Repeat(object? value, object? times)
    {
        if (Number(times) is not BigInteger count)
        {
            return null;
        }

        if (BigInteger.Abs(count) > long.MaxValue && value is string or List<object?> or object?[])
        {
            throw TemplateErrors.Type("cannot fit 'int' into an index-sized integer");
        }

        var number = count.Sign < 0 ? 0 : count > int.MaxValue ? int.MaxValue : (int)count;
        switch (value)
        {
            case string text:
                TemplateRun.CheckText((long)text.Length * number);
                return string.Concat(Enumerable.Repeat(text, text.Length == 0 ? 0 : number));
            case List<object?> list:
                TemplateRun.CheckList((long)list.Count * number);
                return Enumerable.Repeat(list, list.Count == 0 ? 0 : number).SelectMany(items => items).ToList();
            case object?[] tuple:
                TemplateRun.CheckList((long)tuple.Length * number);
                return Enumerable.Repeat(tuple, tuple.Length == 0 ? 0 : number).SelectMany(items => items).ToArray();
            default:
                return null;
        }
    }

    private static string Complaint(TemplateOperator kind, object? left, object? right)
    {
        if (kind == TemplateOperator.Add && left is string or List<object?> or object?[])
        {
            var type = TemplateValue.TypeName(left);
            return $"can only concatenate {type} (not \"{TemplateValue.TypeName(right)}\") to {type}";
        }

        var sign = kind switch
        {
            TemplateOperator.Add => "+",
            TemplateOperator.Subtract => "-",
            TemplateOperator.Multiply => "*",
            TemplateOperator.Divide => "/",
            TemplateOperator.FloorDivide => "//",
            TemplateOperator.Modulo => "%",
            _ => "** or pow()",
        };
        return $"unsupported operand type(s) for {sign}: '{TemplateValue.TypeName(left)}' and '{TemplateValue.TypeName(right)}'";
    }

    private static int? OrderLists(IReadOnlyList<object?> left, IReadOnlyList<object?> right, string sign, TemplateRun run)
    {
        for (var i = 0; i < Math.Min(left.Count, right.Count); i++)
        {
            if (!AreEqual(left[i], right[i], run))
            {
                return Order(left[i], right[i], sign, run);
            }
        }

        return left.Count.CompareTo(right.Count);
    }
}
