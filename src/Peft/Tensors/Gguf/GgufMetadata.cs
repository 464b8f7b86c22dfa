using System.Buffers.Binary;
using System.Collections;
using System.Diagnostics.CodeAnalysis;
using System.Globalization;

namespace Peft.Tensors.Gguf;

/// <summary>The types of GGUF metadata, by the format's numbers.</summary>
public enum GgufValueType
{
    /// <summary>A byte.</summary>
    UInt8,

    /// <summary>A signed byte.</summary>
    Int8,

    /// <summary>Two bytes, unsigned.</summary>
    UInt16,

    /// <summary>Two bytes.</summary>
    Int16,

    /// <summary>Four bytes, unsigned.</summary>
    UInt32,

    /// <summary>Four bytes.</summary>
    Int32,

    /// <summary>Single precision.</summary>
    Float32,

    /// <summary>One byte, 0 or 1.</summary>
    Bool,

    /// <summary>UTF-8 text.</summary>
    String,

    /// <summary>Values of one type, which may be arrays again.</summary>
    Array,

    /// <summary>Eight bytes, unsigned.</summary>
    UInt64,

    /// <summary>Eight bytes.</summary>
    Int64,

    /// <summary>Double precision.</summary>
    Float64,
}

/// <summary>
/// What a GGUF file says about its model and tokenizer. Values are numbers of their own .NET type, <see cref="bool"/>,
/// <see cref="string"/>, or one-dimensional arrays of these (an array of arrays is an <c>object[]</c>). An array is read when it is
/// first asked for and kept, so a vocabulary costs nothing until it is used.
/// </summary>
[SuppressMessage("Naming", "CA1710:Identifiers should have correct suffix", Justification = "What GGUF calls it.")]
public sealed class GgufMetadata : IReadOnlyDictionary<string, object>
{
    private readonly Dictionary<string, (GgufValueType Type, Lazy<object> Value)> _values = [];
    private readonly string _path;

    internal GgufMetadata(string path) => _path = path;

    /// <inheritdoc/>
    public int Count => _values.Count;

    /// <summary>The keys in the file's order.</summary>
    public IEnumerable<string> Keys => _values.Keys;

    /// <inheritdoc/>
    public IEnumerable<object> Values => _values.Values.Select(value => value.Value.Value);

    /// <summary>A value of any type.</summary>
    /// <param name="key">The key.</param>
    /// <returns>The value.</returns>
    /// <exception cref="PeftException"><c>GgufKeyMissing</c>.</exception>
    public object this[string key] => TryGetValue(key, out var value)
        ? value
        : throw new PeftException("GgufKeyMissing", $"'{_path}' has no metadata '{key}'.") { Target = key };

    /// <summary>The type of a value without reading it.</summary>
    /// <param name="key">The key.</param>
    /// <returns>The type.</returns>
    public GgufValueType TypeOf(string key) => _values[key].Type;

    /// <summary>A whole number of any width.</summary>
    /// <param name="key">The key.</param>
    /// <param name="fallback">What to give where the key is missing; null makes that an error.</param>
    /// <returns>The number.</returns>
    /// <exception cref="PeftException"><c>GgufKeyMissing</c> or <c>GgufValueInvalid</c>.</exception>
    public long GetInteger(string key, long? fallback = null) => Get(key, fallback, value => value is string or bool or Array or float or double
        ? throw new InvalidCastException()
        : Convert.ToInt64(value, CultureInfo.InvariantCulture));

    /// <summary>A number.</summary>
    /// <param name="key">The key.</param>
    /// <param name="fallback">What to give where the key is missing; null makes that an error.</param>
    /// <returns>The number.</returns>
    /// <exception cref="PeftException"><c>GgufKeyMissing</c> or <c>GgufValueInvalid</c>.</exception>
    public double GetNumber(string key, double? fallback = null) => Get(key, fallback, value => value is string or bool or Array
        ? throw new InvalidCastException()
        : Convert.ToDouble(value, CultureInfo.InvariantCulture) is var number && double.IsFinite(number) ? number : throw new InvalidCastException());

    /// <summary>A truth value.</summary>
    /// <param name="key">The key.</param>
    /// <param name="fallback">What to give where the key is missing; null makes that an error.</param>
    /// <returns>The value.</returns>
    /// <exception cref="PeftException"><c>GgufKeyMissing</c> or <c>GgufValueInvalid</c>.</exception>
    public bool GetBoolean(string key, bool? fallback = null) => Get(key, fallback, value => (bool)value);

    /// <summary>A string, or null where the key is missing.</summary>
    /// <param name="key">The key.</param>
    /// <returns>The string.</returns>
    /// <exception cref="PeftException"><c>GgufValueInvalid</c>.</exception>
    public string? GetText(string key) => _values.ContainsKey(key) ? Get<string>(key, value => (string)value) : null;

    /// <summary>An array of one type, or null where the key is missing.</summary>
    /// <typeparam name="T">The element type as stored: <c>string</c>, <c>int</c>, <c>float</c>, ...</typeparam>
    /// <param name="key">The key.</param>
    /// <returns>The array; not a copy.</returns>
    /// <exception cref="PeftException"><c>GgufValueInvalid</c>.</exception>
    public T[]? GetArray<T>(string key) => _values.ContainsKey(key)
        ? Get(key, value => value.GetType() == typeof(T[]) ? (T[])value : throw new InvalidCastException())
        : null;

    /// <summary>Whether the file has a key.</summary>
    /// <param name="key">The key.</param>
    /// <returns>True if so.</returns>
    public bool ContainsKey(string key) => _values.ContainsKey(key);

    /// <summary>Looks a value up.</summary>
    /// <param name="key">The key.</param>
    /// <param name="value">The value.</param>
    /// <returns>Whether the file has the key.</returns>
    public bool TryGetValue(string key, [MaybeNullWhen(false)] out object value)
    {
        var found = _values.TryGetValue(key, out var entry);
        value = found ? entry.Value.Value : null;
        return found;
    }

    /// <inheritdoc/>
    public IEnumerator<KeyValuePair<string, object>> GetEnumerator() =>
        _values.Select(pair => KeyValuePair.Create(pair.Key, pair.Value.Value.Value)).GetEnumerator();

    /// <inheritdoc/>
    IEnumerator IEnumerable.GetEnumerator() => GetEnumerator();

    /// <summary>Adds a value that is read when asked for.</summary>
    /// <param name="key">The key.</param>
    /// <param name="type">Its type.</param>
    /// <param name="read">Reads it.</param>
    /// <returns>False where the key is taken.</returns>
    internal bool TryAdd(string key, GgufValueType type, Func<object> read) => _values.TryAdd(key, (type, new Lazy<object>(read)));

    /// <summary>Bytes a scalar takes; 0 for strings and arrays.</summary>
    internal static int SizeOf(GgufValueType type) => type switch
    {
        GgufValueType.UInt8 or GgufValueType.Int8 or GgufValueType.Bool => 1,
        GgufValueType.UInt16 or GgufValueType.Int16 => 2,
        GgufValueType.UInt32 or GgufValueType.Int32 or GgufValueType.Float32 => 4,
        GgufValueType.UInt64 or GgufValueType.Int64 or GgufValueType.Float64 => 8,
        _ => 0,
    };

    /// <summary>Reads a value whose extent was checked before.</summary>
    internal static object Read(ref GgufCursor cursor, GgufValueType type)
    {
        const string What = "a value";
        switch (type)
        {
            case GgufValueType.String:
                return cursor.Text(What);
            case GgufValueType.Array:
                var elementType = (GgufValueType)cursor.UInt32(What);
                return ReadArray(ref cursor, elementType, checked((int)cursor.UInt64(What)));
            default:
                return Scalar(cursor.Take(SizeOf(type), What), type);
        }
    }

    private static object ReadArray(ref GgufCursor cursor, GgufValueType type, int count)
    {
        Array array = type switch
        {
            GgufValueType.UInt8 => new byte[count],
            GgufValueType.Int8 => new sbyte[count],
            GgufValueType.Bool => new bool[count],
            GgufValueType.UInt16 => new ushort[count],
            GgufValueType.Int16 => new short[count],
            GgufValueType.UInt32 => new uint[count],
            GgufValueType.Int32 => new int[count],
            GgufValueType.Float32 => new float[count],
            GgufValueType.UInt64 => new ulong[count],
            GgufValueType.Int64 => new long[count],
            GgufValueType.Float64 => new double[count],
            GgufValueType.String => new string[count],
            _ => new object[count],
        };
        if (array is float[] or int[])
        {
            // The two kinds that come by the hundred thousand.
            var bytes = cursor.Take(checked(count * 4), "an array");
            Buffer.BlockCopy(bytes.ToArray(), 0, array, 0, bytes.Length);
            return array;
        }

        for (var i = 0; i < count; i++)
        {
            array.SetValue(Read(ref cursor, type), i);
        }

        return array;
    }

    private static object Scalar(ReadOnlySpan<byte> bytes, GgufValueType type) => type switch
    {
        GgufValueType.UInt8 => bytes[0],
        GgufValueType.Int8 => (sbyte)bytes[0],
        GgufValueType.Bool => bytes[0] != 0,
        GgufValueType.UInt16 => BinaryPrimitives.ReadUInt16LittleEndian(bytes),
        GgufValueType.Int16 => BinaryPrimitives.ReadInt16LittleEndian(bytes),
        GgufValueType.UInt32 => BinaryPrimitives.ReadUInt32LittleEndian(bytes),
        GgufValueType.Int32 => BinaryPrimitives.ReadInt32LittleEndian(bytes),
        GgufValueType.Float32 => BinaryPrimitives.ReadSingleLittleEndian(bytes),
        GgufValueType.UInt64 => BinaryPrimitives.ReadUInt64LittleEndian(bytes),
        GgufValueType.Int64 => BinaryPrimitives.ReadInt64LittleEndian(bytes),
        _ => BinaryPrimitives.ReadDoubleLittleEndian(bytes),
    };

    private T Get<T>(string key, T? fallback, Func<object, T> convert)
        where T : struct => fallback is { } value && !_values.ContainsKey(key) ? value : Get(key, convert);

    private T Get<T>(string key, Func<object, T> convert)
    {
        var value = this[key];
        try
        {
            return convert(value);
        }
        catch (Exception error) when (error is InvalidCastException or OverflowException)
        {
            throw new PeftException("GgufValueInvalid", $"The metadata '{key}' of '{_path}' has the type {TypeOf(key)}, which it can't have there.", error) { Target = key };
        }
    }
}
