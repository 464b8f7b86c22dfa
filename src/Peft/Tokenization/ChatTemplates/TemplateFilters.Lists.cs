using System.Numerics;

namespace Peft.Tokenization.ChatTemplates;

internal static partial class TemplateFilters
{
    private static void AddListFilters(Dictionary<string, Func<object?, CallArguments, TemplateRun, object?>> filters)
    {
        filters["length"] = filters["count"] = (value, _, _) => new BigInteger(TemplateOperations.Length(value));
        filters["list"] = (value, _, run) => TemplateOperations.Iterate(value, run).ToList();
        filters["first"] = (value, _, run) => Edge(TemplateOperations.Iterate(value, run), "first");
        filters["last"] = (value, _, run) => value is TemplateGenerator
            ? throw TemplateErrors.Type("'generator' object is not reversible")
            : Edge(Reversed(value, run), "last");
        filters["random"] = (value, _, run) => Edge(TemplateOperations.Iterate(value, run), "random");
        filters["reverse"] = (value, _, run) => value switch
        {
            string or TemplateMarkup => string.Concat(Reversed(value, run)),
            TemplateGenerator => Reversed(value, run),
            _ => new TemplateGenerator(Reversed(value, run)),
        };
        filters["join"] = Join;
        filters["sum"] = Sum;
        filters["min"] = (value, a, run) => Extreme(value, a, run, -1);
        filters["max"] = (value, a, run) => Extreme(value, a, run, 1);
        filters["sort"] = Sort;
        filters["unique"] = Unique;
        filters["batch"] = Batch;
        filters["slice"] = Slice;
        filters["items"] = (value, _, _) => Later(() => value switch
        {
            TemplateUndefined => [],
            TemplateObject entries => new TemplateView("items", entries).Items(),
            _ => throw TemplateErrors.Type("Can only get item pairs from a mapping."),
        });
        filters["dictsort"] = DictionarySort;
        filters["groupby"] = GroupBy;
        filters["map"] = Map;
        filters["select"] = (value, a, run) => Select(value, a, run, byAttribute: false, keep: true);
        filters["reject"] = (value, a, run) => Select(value, a, run, byAttribute: false, keep: false);
        filters["selectattr"] = (value, a, run) => Select(value, a, run, byAttribute: true, keep: true);
        filters["rejectattr"] = (value, a, run) => Select(value, a, run, byAttribute: true, keep: false);
    }

    /// <summary>What a generator function of Python gives: nothing is done, nor complained about, before it is walked over.</summary>
    private static TemplateGenerator Later(Func<IEnumerable<object?>> items)
    {
        return new TemplateGenerator(Walk());

        IEnumerable<object?> Walk()
        {
            foreach (var item in items())
            {
                yield return item;
            }
        }
    }

    private static object? Edge(IEnumerable<object?> items, string which)
    {
        foreach (var item in items)
        {
            return item;
        }

        return new TemplateUndefined($"No {which} item, sequence was empty.");
    }

    private static List<object?> Reversed(object? value, TemplateRun run)
    {
        var items = TemplateOperations.Iterate(value, run).ToList();
        items.Reverse();
        return items;
    }

    private static object? Join(object? value, CallArguments arguments, TemplateRun run)
    {
        var separator = PythonText.Str(arguments.Get(0, "d", string.Empty), run);
        var items = TemplateOperations.Iterate(value, run);
        if (arguments.Get(1, "attribute") is { } attribute)
        {
            items = items.Select(item => Path(item, attribute, run));
        }

        var texts = new List<string>();
        var length = 0L;
        foreach (var item in items)
        {
            var text = PythonText.Str(item, run);
            length += text.Length + separator.Length;
            TemplateRun.CheckText(length);
            texts.Add(text);
        }

        return string.Join(separator, texts);
    }

    private static object? Sum(object? value, CallArguments arguments, TemplateRun run)
    {
        var total = arguments.Get(1, "start", BigInteger.Zero);
        foreach (var item in TemplateOperations.Iterate(value, run))
        {
            var term = arguments.Get(0, "attribute") is { } attribute ? Path(item, attribute, run) : item;
            total = TemplateOperations.Binary(TemplateOperator.Add, total, term, run);
        }

        return total;
    }

    private static object? Extreme(object? value, CallArguments arguments, TemplateRun run, int sign)
    {
        var key = Key(arguments.Get(1, "attribute"), arguments.Flag(0, "case_sensitive"), run);
        object? best = null;
        object? bestKey = null;
        var any = false;
        foreach (var item in TemplateOperations.Iterate(value, run))
        {
            var itemKey = key(item);
            if (!any || TemplateOperations.Order(itemKey, bestKey, sign > 0 ? ">" : "<", run) * sign > 0)
            {
                (best, bestKey, any) = (item, itemKey, true);
            }
        }

        return any ? best : new TemplateUndefined("No aggregated item, sequence was empty.");
    }

    private static object? Sort(object? value, CallArguments arguments, TemplateRun run)
    {
        var reverse = arguments.Flag(0, "reverse");
        var caseSensitive = arguments.Flag(1, "case_sensitive");
        var attribute = arguments.Get(2, "attribute");
        var keys = attribute is string several && several.Contains(',', StringComparison.Ordinal)
            ? several.Split(',').Select(one => Key(one, caseSensitive, run)).ToList()
            : [Key(attribute, caseSensitive, run)];
        return Ordered(TemplateOperations.Iterate(value, run).ToList(), item => keys.ConvertAll(key => key(item)), reverse, run);
    }

    /// <summary>A stable sort by lists of keys.</summary>
    private static List<object?> Ordered(List<object?> items, Func<object?, object?> key, bool reverse, TemplateRun run)
    {
        return TemplateOperations.Sorted(items, key, (left, right) => (TemplateOperations.Order(left, right, "<", run) ?? 0) * (reverse ? -1 : 1));
    }

    private static object? Unique(object? value, CallArguments arguments, TemplateRun run)
    {
        var key = Key(arguments.Get(1, "attribute"), arguments.Flag(0, "case_sensitive"), run);
        var seen = new HashSet<TemplateKey>();
        return Later(() => TemplateOperations.Iterate(value, run).Where(item => seen.Add(new TemplateKey(key(item)))));
    }

    private static object? Batch(object? value, CallArguments arguments, TemplateRun run)
    {
        var size = TemplateOperations.Int32(arguments.Required(0, "linecount"));
        TemplateRun.CheckList(size);
        var fill = arguments.Get(1, "fill_with");
        return new TemplateGenerator(Batches());

        IEnumerable<object?> Batches()
        {
            var batch = new List<object?>();
            foreach (var item in TemplateOperations.Iterate(value, run))
            {
                if (batch.Count == size)
                {
                    yield return batch;
                    batch = [];
                }

                batch.Add(item);
            }

            while (fill is not null && batch.Count > 0 && batch.Count < size)
            {
                run.Step();
                batch.Add(fill);
            }

            if (batch.Count > 0)
            {
                yield return batch;
            }
        }
    }

    private static object? Slice(object? value, CallArguments arguments, TemplateRun run)
    {
        var slices = TemplateOperations.Int32(arguments.Required(0, "slices"));
        TemplateRun.CheckList(slices);
        var fill = arguments.Get(1, "fill_with");
        return Later(() => (List<object?>)run.Made(Slices(TemplateOperations.Iterate(value, run).ToList(), slices, fill))!);
    }

    private static List<object?> Slices(List<object?> items, int slices, object? fill)
    {
        if (slices == 0)
        {
            throw TemplateErrors.Type("integer division or modulo by zero");
        }

        var (size, extra) = (items.Count / slices, items.Count % slices);
        var result = new List<object?>();
        var at = 0;
        for (var i = 0; i < slices; i++)
        {
            var count = size + (i < extra ? 1 : 0);
            var part = items.GetRange(at, count);
            at += count;
            if (fill is not null && i >= extra)
            {
                part.Add(fill);
            }

            result.Add(part);
        }

        return result;
    }

    private static object? DictionarySort(object? value, CallArguments arguments, TemplateRun run)
    {
        var entries = value as TemplateObject ?? throw Complaint(value, $"'{TemplateValue.TypeName(value)}' object has no attribute 'items'");
        var at = arguments.Text(1, "by", "key") switch
        {
            "key" => 0,
            "value" => 1,
            _ => throw TemplateErrors.Type("You can only sort by either \"key\" or \"value\""),
        };
        var key = Key(null, arguments.Flag(0, "case_sensitive"), run);
        var items = entries.Select(entry => (object?)new[] { entry.Key, entry.Value }).ToList();
        return Ordered(items, item => key(((object?[])item!)[at]), arguments.Flag(2, "reverse"), run);
    }

    private static object? GroupBy(object? value, CallArguments arguments, TemplateRun run)
    {
        var attribute = arguments.Required(0, "attribute");
        var otherwise = arguments.Get(1, "default");
        var key = Key(attribute, arguments.Flag(2, "case_sensitive"), run, otherwise);
        var groups = new List<object?>();
        object? last = null;
        foreach (var item in Ordered(TemplateOperations.Iterate(value, run).ToList(), key, reverse: false, run))
        {
            var itemKey = key(item);
            if (groups.Count == 0 || !TemplateOperations.AreEqual(itemKey, last, run))
            {
                groups.Add(new TemplateGroup(PathOr(item, attribute, otherwise, run), []));
                last = itemKey;
            }

            ((TemplateGroup)groups[^1]!).List.Add(item);
        }

        return groups;
    }

    private static object? Map(object? value, CallArguments arguments, TemplateRun run)
    {
        if (arguments.Positional.Count == 0 && arguments.TryGet(int.MaxValue, "attribute", out var attribute))
        {
            var otherwise = arguments.Get(int.MaxValue, "default");
            return Later(() => ItemsIfTrue(value, run).Select(item => PathOr(item, attribute, otherwise, run)));
        }

        return Later(() =>
        {
            var items = ItemsIfTrue(value, run);
            var name = arguments.Positional.Count > 0 && arguments.Positional[0] is string given ? given : throw TemplateErrors.Type("map requires a filter argument");
            var rest = arguments.Skip(1);
            return items.Select(item => Apply(name, item, rest, run));
        });
    }

    /// <summary>The items of a value; map and select take whatever counts as false for empty.</summary>
    private static IEnumerable<object?> ItemsIfTrue(object? value, TemplateRun run) => TemplateOperations.Truth(value) ? TemplateOperations.Iterate(value, run) : [];

    private static object? Select(object? value, CallArguments arguments, TemplateRun run, bool byAttribute, bool keep)
    {
        return Later(() => TemplateOperations.Truth(value) ? TemplateOperations.Iterate(value, run).Where(Chooser()) : []);

        Func<object?, bool> Chooser()
        {
            var attribute = byAttribute ? arguments.Required(0, "attribute") : null;
            var rest = byAttribute ? arguments.Skip(1) : arguments;
            Func<object?, bool> test = TemplateOperations.Truth;
            if (rest.Positional.Count > 0)
            {
                var name = PythonText.Str(rest.Positional[0], run);
                var more = rest.Skip(1);
                test = item => TemplateTests.Apply(name, item, more, run);
            }

            return item => test(byAttribute ? Path(item, attribute, run) : item) == keep;
        }
    }

    /// <summary>A key function: an attribute path perhaps, and lower case unless case matters.</summary>
    private static Func<object?, object?> Key(object? attribute, bool caseSensitive, TemplateRun run, object? otherwise = null) => item =>
    {
        var value = attribute is null ? item : PathOr(item, attribute, otherwise, run);
        return value is string text && !caseSensitive ? Tokenization.Text.Casing.Lower(text) : value;
    };

    private static object? PathOr(object? item, object? attribute, object? otherwise, TemplateRun run)
    {
        var value = Path(item, attribute, run);
        return value is TemplateUndefined && otherwise is not null ? otherwise : value;
    }

    /// <summary>An attribute path such as <c>function.name</c> or <c>0.id</c>, looking for items first.</summary>
    private static object? Path(object? item, object? attribute, TemplateRun run)
    {
        if (attribute is not string path)
        {
            return TemplateAccess.Item(item, attribute, run);
        }

        run.Read(path);
        foreach (var part in path.Split('.'))
        {
            object? index = part.Length > 0 && part.All(char.IsAsciiDigit) ? PythonNumbers.ParseInteger(part, 10) : part;
            item = TemplateAccess.Item(item, index, run);
        }

        return item;
    }
}
