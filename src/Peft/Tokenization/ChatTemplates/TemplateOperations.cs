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
internal static class TemplateOperations
{
    /// <summary>Larger numbers than any template has.</summary>
    private const long MostBits = 1 << 16;

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
                run.Steps(list.Count);
                return list;
            case object?[] tuple:
                return tuple;
            case TemplateObject entries:
                return entries.Keys;
            case string text:
                run.Steps(text.Length);
                return PythonText.Characters(text);
            case TemplateMarkup markup:
                return PythonText.Characters(markup.Text);
            case TemplateRange range:
                run.Steps(range.Count);
                return range.Items();
            case TemplateGenerator generator:
                return generator.Rest();
            case TemplateGroup group:
                return [group.Grouper, group.List];
            case TemplateUndefined undefined:
                return undefined.Error().ErrorId == "ChatTemplateUnsafe" ? throw undefined.Error() : [];
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
            TemplateFunction function => Checked(function.Call(arguments, run)),
            TemplateMacro macro => macro.Call(arguments, run),
            LoopContext loop => loop.Recurse(arguments.Required(0, "iterable")),
            TemplateUndefined undefined => throw undefined.Error(),
            _ => throw TemplateErrors.Type($"'{TemplateValue.TypeName(target)}' object is not callable"),
        };
    }

    /// <summary>Throws where a value got too large.</summary>
    public static object? Checked(object? value)
    {
        switch (value)
        {
            case string text:
                TemplateRun.CheckText(text.Length);
                break;
            case List<object?> list:
                TemplateRun.CheckList(list.Count);
                break;
        }

        return value;
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
    public static object? Binary(TemplateOperator kind, object? left, object? right, TemplateRun run)
    {
        if (left is TemplateUndefined || right is TemplateUndefined)
        {
            throw ((left ?? right) as TemplateUndefined ?? (TemplateUndefined)right!).Error();
        }

        if (kind == TemplateOperator.Modulo && left is string or TemplateMarkup)
        {
            return PythonFormat.Percent(PythonText.Str(left, run), right, run);
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
            (string x, string y) => x == y,
            (TemplateMarkup x, _) => AreEqual(x.Text, right, run),
            (_, TemplateMarkup y) => AreEqual(left, y.Text, run),
            (List<object?> x, List<object?> y) => x.Count == y.Count && x.Zip(y).All(pair => AreEqual(pair.First, pair.Second, run)),
            (object?[] x, object?[] y) => x.Length == y.Length && x.Zip(y).All(pair => AreEqual(pair.First, pair.Second, run)),
            (TemplateObject x, TemplateObject y) => x.Count == y.Count
                && x.All(entry => y.TryGet(entry.Key, out var other) && AreEqual(entry.Value, other, run)),
            (TemplateRange x, TemplateRange y) => x.Items().SequenceEqual(y.Items()),
            (TemplateUndefined, TemplateUndefined) => true,
            _ => ReferenceEquals(left, right),
        };
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
                return PythonText.Compare(x, y);
            case (TemplateMarkup x, _):
                return Order(x.Text, right, sign, run);
            case (_, TemplateMarkup y):
                return Order(left, y.Text, sign, run);
            case (List<object?> x, List<object?> y):
                return OrderLists(x, y, sign, run);
            case (object?[] x, object?[] y):
                return OrderLists(x, y, sign, run);
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
                    ? PythonText.Str(container, run).Contains(PythonText.Str(item, run), StringComparison.Ordinal)
                    : throw (item as TemplateUndefined)?.Error()
                        ?? TemplateErrors.Type($"'in <string>' requires string as left operand, not {TemplateValue.TypeName(item)}");
            case TemplateObject entries:
                return entries.TryGet(item, out _);
            case TemplateNamespace or TemplateFunction or TemplateMacro or null or bool or BigInteger or double:
                throw TemplateErrors.Type($"argument of type '{TemplateValue.TypeName(container)}' is not iterable");
            default:
                return Iterate(container, run).Any(candidate => AreEqual(candidate, item, run));
        }
    }

    /// <summary>A boolean, whole or real number as a number, else null.</summary>
    public static object? Number(object? value) => value switch
    {
        bool flag => flag ? BigInteger.One : BigInteger.Zero,
        BigInteger or double => value,
        _ => null,
    };

    /// <summary>A number as a real one.</summary>
    public static double ToDouble(object number) => number is BigInteger whole ? (double)whole : (double)number;

    private static object? Whole(TemplateOperator kind, BigInteger left, BigInteger right)
    {
        switch (kind)
        {
            case TemplateOperator.Add:
                return Limited(left + right);
            case TemplateOperator.Subtract:
                return Limited(left - right);
            case TemplateOperator.Multiply:
                CheckBits(left.GetBitLength() + right.GetBitLength());
                return left * right;
            case TemplateOperator.Divide:
                return right.IsZero ? throw Zero("division by zero") : (double)left / (double)right;
            case TemplateOperator.FloorDivide or TemplateOperator.Modulo:
                if (right.IsZero)
                {
                    throw Zero("integer division or modulo by zero");
                }

                var quotient = BigInteger.DivRem(left, right, out var remainder);
                var down = !remainder.IsZero && remainder.Sign != right.Sign;
                return kind == TemplateOperator.FloorDivide ? (down ? quotient - 1 : quotient) : (down ? remainder + right : remainder);
            default:
                if (right.Sign < 0)
                {
                    return left.IsZero ? throw Zero("0.0 cannot be raised to a negative power") : Math.Pow((double)left, (double)right);
                }

                if (BigInteger.Abs(left) > 1)
                {
                    CheckBits(right > MostBits ? long.MaxValue : left.GetBitLength() * (long)right);
                }

                return right > int.MaxValue
                    ? (left == -1 && !right.IsEven ? -BigInteger.One : left.IsZero ? BigInteger.Zero : BigInteger.One)
                    : BigInteger.Pow(left, (int)right);
        }
    }

    private static object? Real(TemplateOperator kind, double left, double right)
    {
        switch (kind)
        {
            case TemplateOperator.Add:
                return left + right;
            case TemplateOperator.Subtract:
                return left - right;
            case TemplateOperator.Multiply:
                return left * right;
            case TemplateOperator.Divide:
                return right == 0 ? throw Zero("float division by zero") : left / right;
            case TemplateOperator.FloorDivide:
                return right == 0 ? throw Zero("float floor division by zero") : Math.Floor(left / right);
            case TemplateOperator.Modulo:
                if (right == 0)
                {
                    throw Zero("float modulo by zero");
                }

                var rest = left % right;
                return rest != 0 && rest < 0 != right < 0 ? rest + right : rest;
            default:
                return Math.Pow(left, right);
        }
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

    private static int? CompareNumbers(object left, object right)
    {
        if (left is BigInteger x && right is BigInteger y)
        {
            return x.CompareTo(y);
        }

        var (a, b) = (ToDouble(left), ToDouble(right));
        return double.IsNaN(a) || double.IsNaN(b) ? null : a.CompareTo(b);
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

    private static BigInteger Limited(BigInteger value)
    {
        CheckBits(value.GetBitLength());
        return value;
    }

    private static void CheckBits(long bits)
    {
        if (bits > MostBits)
        {
            throw TemplateErrors.Limit("The chat template computes with numbers that are too large.");
        }
    }

    private static TemplateException Zero(string message) => new(message, "ChatTemplateArithmetic");
}
