using System.Collections;
using System.Numerics;
using System.Text.Json;

namespace Peft.Tokenization.ChatTemplates;

/// <summary>An ordered dictionary as templates see it; keys are any hashable value, as in Python.</summary>
internal sealed class TemplateObject : IEnumerable<KeyValuePair<object?, object?>>
{
    private readonly Dictionary<TemplateKey, int> _places = [];
    private readonly List<KeyValuePair<object?, object?>> _entries = [];

    /// <summary>The number of entries.</summary>
    public int Count => _entries.Count;

    /// <summary>The keys in order.</summary>
    public IEnumerable<object?> Keys => _entries.Select(entry => entry.Key);

    /// <summary>The values in order.</summary>
    public IEnumerable<object?> Values => _entries.Select(entry => entry.Value);

    /// <summary>A value, or null where there is none.</summary>
    public object? Get(object? key) => TryGet(key, out var value) ? value : null;

    /// <summary>A value, if there is one.</summary>
    public bool TryGet(object? key, out object? value)
    {
        if (_places.TryGetValue(new TemplateKey(key), out var place))
        {
            value = _entries[place].Value;
            return true;
        }

        value = null;
        return false;
    }

    /// <summary>Sets a value; a new key goes to the end.</summary>
    public void Set(object? key, object? value)
    {
        var hashed = new TemplateKey(key);
        if (_places.TryGetValue(hashed, out var place))
        {
            _entries[place] = new(_entries[place].Key, value);
        }
        else
        {
            _places.Add(hashed, _entries.Count);
            _entries.Add(new(key, value));
        }
    }

    /// <inheritdoc/>
    public IEnumerator<KeyValuePair<object?, object?>> GetEnumerator() => _entries.GetEnumerator();

    IEnumerator IEnumerable.GetEnumerator() => GetEnumerator();
}

/// <summary>A dictionary key with Python's equality: 1, 1.0 and true are the same key, and tuples are equal where their items are.</summary>
internal readonly record struct TemplateKey
{
    private const int Deepest = 50;
    private const int MostItems = 10_000;
    private const int MostCharacters = 1 << 20;
    private readonly object _value;

    /// <summary>Wraps a key.</summary>
    /// <exception cref="TemplateException">It can't be one.</exception>
    public TemplateKey(object? key)
    {
        var left = MostItems;
        _value = Hashed(key, 0, ref left) ?? throw TemplateErrors.Type($"unhashable type: '{TemplateValue.TypeName(key)}'");
    }

    /// <summary>Throws where a value can't be a key.</summary>
    public static void Check(object? key) => _ = new TemplateKey(key);

    /// <summary>Whether a value can be a key.</summary>
    public static bool IsHashable(object? key)
    {
        var left = MostItems;
        return Hashed(key, 0, ref left) is not null;
    }

    /// <summary>What stands for a key, or null where it can't be one.</summary>
    private static object? Hashed(object? key, int depth, ref int left)
    {
        if (depth > Deepest || --left < 0)
        {
            throw TemplateErrors.Limit("The chat template uses a tuple as a key that is too large.");
        }

        switch (key)
        {
            case string or TemplateMarkup when ((key as string) ?? ((TemplateMarkup)key).Text) is { Length: > MostCharacters / MostItems } text
                && (left -= text.Length / (MostCharacters / MostItems)) < 0:
                throw TemplateErrors.Limit("The chat template uses a text as a key that is too long.");
            case null:
                return DBNull.Value;
            case bool flag:
                return new BigInteger(flag ? 1 : 0);
            case double number when Math.Floor(number) == number && !double.IsInfinity(number):
                return new BigInteger(number);
            case TemplateMarkup markup:
                return markup.Text;
            case TemplateUndefined:
                return typeof(TemplateUndefined);
            case TemplateGroup or TemplateObject or List<object?> or TemplateSlice or TemplateView { IsSet: true }:
                return null;
            case object?[] tuple:
                var items = new object[tuple.Length];
                for (var i = 0; i < items.Length; i++)
                {
                    if (Hashed(tuple[i], depth + 1, ref left) is not { } item)
                    {
                        return null;
                    }

                    items[i] = item;
                }

                return new TupleKey(items);
            default:
                return key;
        }
    }

    /// <summary>A tuple as a key.</summary>
    private sealed class TupleKey(object[] items) : IEquatable<TupleKey>
    {
        private object[] Items => items;

        public bool Equals(TupleKey? other) => other is not null && items.AsSpan().SequenceEqual(other.Items);

        public override bool Equals(object? obj) => Equals(obj as TupleKey);

        public override int GetHashCode()
        {
            var hash = default(HashCode);
            Array.ForEach(items, hash.Add);
            return hash.ToHashCode();
        }
    }
}

/// <summary>Conversions between .NET values and the values of templates.</summary>
/// <remarks>
/// Templates know: null, <see cref="bool"/>, <see cref="BigInteger"/>, <see cref="double"/>, <see cref="string"/>,
/// <see cref="List{T}"/> of object, <c>object?[]</c> for tuples, <see cref="TemplateObject"/>, and a few callable and special objects.
/// </remarks>
internal static class TemplateValue
{
    /// <summary>A template's value for a .NET value.</summary>
    public static object? From(object? value) => value switch
    {
        null or bool or BigInteger or double or string or TemplateObject => value,
        List<object?> list when IsConverted(list) => list,
        JsonElement json => FromJson(json),
        sbyte or byte or short or ushort or int or uint or long => new BigInteger(Convert.ToInt64(value, System.Globalization.CultureInfo.InvariantCulture)),
        ulong number => new BigInteger(number),
        float number => (double)number,
        decimal number => (double)number,
        char character => character.ToString(),
        ChatMessage message => message.Fields,
        IDictionary dictionary => FromDictionary(dictionary),
        IEnumerable list => FromList(list),
        _ => Convert.ToString(value, System.Globalization.CultureInfo.InvariantCulture),
    };

    /// <summary>A copy of a value with all its texts, but for keys, changed.</summary>
    public static object? Map(object? value, Func<string, string> change)
    {
        switch (value)
        {
            case string text:
                return change(text);
            case List<object?> list:
                return list.ConvertAll(item => Map(item, change));
            case TemplateObject entries:
                var result = new TemplateObject();
                foreach (var (key, item) in entries)
                {
                    result.Set(key, Map(item, change));
                }

                return result;
            default:
                return value;
        }
    }

    /// <summary>A template's value for JSON.</summary>
    public static object? FromJson(JsonElement json)
    {
        switch (json.ValueKind)
        {
            case JsonValueKind.Object:
                var result = new TemplateObject();
                foreach (var entry in json.EnumerateObject())
                {
                    result.Set(entry.Name, FromJson(entry.Value));
                }

                return result;
            case JsonValueKind.Array:
                return json.EnumerateArray().Select(FromJson).ToList();
            case JsonValueKind.String:
                return JsonFields.Text(json, "the text");
            case JsonValueKind.True:
                return true;
            case JsonValueKind.False:
                return false;
            case JsonValueKind.Number:
                return json.GetRawText().AsSpan().IndexOfAny('.', 'e', 'E') < 0
                    ? BigInteger.Parse(json.GetRawText(), System.Globalization.CultureInfo.InvariantCulture)
                    : json.GetDouble();
            default:
                return null;
        }
    }

    /// <summary>Python's name for a value's type.</summary>
    public static string TypeName(object? value) => value switch
    {
        null => "NoneType",
        bool => "bool",
        BigInteger => "int",
        double => "float",
        string => "str",
        List<object?> => "list",
        object?[] => "tuple",
        TemplateObject => "dict",
        TemplateView view => view.TypeName,
        TemplateUndefined => "Undefined",
        TemplateMacro => "Macro",
        TemplateMarkup => "Markup",
        TemplateRange => "range",
        TemplateNamespace => "Namespace",
        TemplateGenerator => "generator",
        _ => "object",
    };

    private static TemplateObject FromDictionary(IDictionary dictionary)
    {
        var result = new TemplateObject();
        foreach (DictionaryEntry entry in dictionary)
        {
            result.Set(From(entry.Key), From(entry.Value));
        }

        return result;
    }

    /// <summary>Whether a list holds nothing but template values; lists made by templates are taken as they are, not copied.</summary>
    private static bool IsConverted(List<object?> list) => list.TrueForAll(static item =>
        item is null or bool or BigInteger or double or string or TemplateObject || (item is List<object?> inner && IsConverted(inner)));

    private static List<object?> FromList(IEnumerable list)
    {
        var result = new List<object?>();
        foreach (var item in list)
        {
            result.Add(From(item));
        }

        return result;
    }
}
