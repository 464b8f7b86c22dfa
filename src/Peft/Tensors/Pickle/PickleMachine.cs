using System.Buffers.Binary;
using System.Globalization;
using System.Numerics;
using System.Text;

namespace Peft.Tensors.Pickle;

/// <summary>
/// Runs the instructions of a pickle, as far as they build numbers, strings, containers, storages and tensors. Nothing a pickle names
/// is looked up anywhere: a name is on the short list of <see cref="PickleConstructors"/>, or the file is refused.
/// </summary>
internal sealed class PickleMachine
{
    private const int MaxIntegerBytes = 1024;

    // A file that packs well, or shares what it holds, can ask for a thousand times its size: real ones make some twenty values a tensor.
    private const int MaxValues = 8_000_000;
    private const long MaxTextBytes = 1 << 26;
    private static readonly object s_mark = new();
    private readonly Stream _stream;
    private readonly string _path;
    private readonly Stack<object?> _stack = new();
    private readonly Dictionary<long, object?> _memo = [];

    private readonly Dictionary<string, PickleStorage>? _storages;
    private long _values;
    private long _textBytes;

    private PickleMachine(Stream stream, string path, Dictionary<string, PickleStorage>? storages)
    {
        _stream = stream;
        _path = path;
        _storages = storages;
    }

    /// <summary>Reads one pickle and leaves the stream behind its end.</summary>
    /// <param name="stream">A seekable stream.</param>
    /// <param name="path">The file, for messages.</param>
    /// <param name="storages">Takes every storage that the pickle names.</param>
    /// <returns>What the pickle holds.</returns>
    /// <exception cref="PeftException"><c>PickleRefused</c>, <c>PickleInvalid</c> or <c>PickleTruncated</c>.</exception>
    public static object? Load(Stream stream, string path, Dictionary<string, PickleStorage>? storages = null)
    {
        var machine = new PickleMachine(stream, path, storages);
        try
        {
            return machine.Run();
        }
        catch (EndOfStreamException error)
        {
            throw new PeftException("PickleTruncated", $"'{path}' is a PyTorch pickle that is cut off.", error) { Target = path };
        }
        catch (Exception error) when (error is InvalidOperationException or InvalidCastException or FormatException or OverflowException or KeyNotFoundException or IndexOutOfRangeException or ArgumentException)
        {
            throw Invalid(path, error.Message, error);
        }
    }

    /// <summary>The error of a pickle that makes no sense.</summary>
    public static PeftException Invalid(string path, string what, Exception? error = null) =>
        new("PickleInvalid", $"'{path}' is not a sound PyTorch pickle: {what}", error) { Target = path, RecommendedAction = "Fetch the file again, or use the model's safetensors files." };

    /// <summary>The error of a pickle that asks for more than tensors.</summary>
    public static PeftException Refused(string path, string what) =>
        new("PickleRefused", $"'{path}' was refused: it asks for {what}, which is no tensor, number, string or container. A pickle can run foreign code; Peft runs none.")
        {
            Target = what,
            RecommendedAction = "Get the weights as safetensors, or save them again as a plain dictionary of tensors.",
        };

    private object? Run()
    {
        while (true)
        {
            var instruction = Byte();
            if (instruction == '.')
            {
                return _stack.Pop();
            }

            var known = Number(instruction) || Text(instruction) || Container(instruction) || Memory(instruction) || Construct(instruction);
            if (!known)
            {
                throw Refused(_path, $"the pickle instruction 0x{instruction:X2}");
            }
        }
    }

    private bool Number(int instruction)
    {
        switch (instruction)
        {
            case 'N': Push(null); return true;
            case 0x88: Push(true); return true;
            case 0x89: Push(false); return true;
            case 'J': Push((long)BinaryPrimitives.ReadInt32LittleEndian(Bytes(4))); return true;
            case 'K': Push((long)Byte()); return true;
            case 'M': Push((long)BinaryPrimitives.ReadUInt16LittleEndian(Bytes(2))); return true;
            case 'G': Push(BinaryPrimitives.ReadDoubleBigEndian(Bytes(8))); return true;
            case 0x8a: Push(Integer(Byte())); return true;
            case 0x8b: Push(Integer(BinaryPrimitives.ReadInt32LittleEndian(Bytes(4)))); return true;
            case 'F': Push(double.Parse(Line(), CultureInfo.InvariantCulture)); return true;
            case 'I': Push(DecimalInteger(Line())); return true;
            case 'L': Push(DecimalInteger(Line().TrimEnd('L'))); return true;
            default: return false;
        }
    }

    private bool Text(int instruction)
    {
        switch (instruction)
        {
            case 'X': Push(Encoding.UTF8.GetString(Bytes(UInt32()))); return true;
            case 0x8c: Push(Encoding.UTF8.GetString(Bytes(Byte()))); return true;
            case 0x8d: Push(Encoding.UTF8.GetString(Bytes(UInt64()))); return true;
            case 'T': Push(Encoding.Latin1.GetString(Bytes(UInt32()))); return true;
            case 'U': Push(Encoding.Latin1.GetString(Bytes(Byte()))); return true;
            case 'B': Push(Bytes(UInt32())); return true;
            case 'C': Push(Bytes(Byte())); return true;
            case 0x8e: Push(Bytes(UInt64())); return true;
            case 'V': Push(Line()); return true;
            case 'S': Push(Line().Trim('\'', '"')); return true;
            default: return false;
        }
    }

    private bool Container(int instruction)
    {
        switch (instruction)
        {
            case '(': Push(s_mark); return true;
            case ')': Push(new PickleTuple([])); return true;
            case ']': Push(new List<object?>()); return true;
            case '}': Push(new PickleDictionary()); return true;
            case 0x8f: Push(new List<object?>()); return true;
            case 't': Push(new PickleTuple(ToMark())); return true;
            case 0x85: Push(new PickleTuple(Top(1))); return true;
            case 0x86: Push(new PickleTuple(Top(2))); return true;
            case 0x87: Push(new PickleTuple(Top(3))); return true;
            case 'l' or 0x91: Push(new List<object?>(ToMark())); return true;
            case 'd': Push(Filled(ToMark(), new PickleDictionary())); return true;
            case 'a': Append(Top(1)); return true;
            case 'e' or 0x90: Append(ToMark()); return true;
            case 's': SetItems(Top(2)); return true;
            case 'u': SetItems(ToMark()); return true;
            default: return false;
        }
    }

    private bool Memory(int instruction)
    {
        switch (instruction)
        {
            case 'p': _memo[long.Parse(Line(), CultureInfo.InvariantCulture)] = Peek(); return true;
            case 'q': _memo[Byte()] = Peek(); return true;
            case 'r': _memo[UInt32()] = Peek(); return true;
            case 0x94: _memo[_memo.Count] = Peek(); return true;
            case 'g': Push(_memo[long.Parse(Line(), CultureInfo.InvariantCulture)]); return true;
            case 'h': Push(_memo[Byte()]); return true;
            case 'j': Push(_memo[UInt32()]); return true;
            case '0': _stack.Pop(); return true;
            case '1': ToMark(); return true;
            case '2': Push(Peek()); return true;
            case 0x80: Byte(); return true;
            case 0x95: Bytes(8); return true;
            default: return false;
        }
    }

    private bool Construct(int instruction)
    {
        switch (instruction)
        {
            case 'c':
                var module = Line();
                Push(Global(module, Line()));
                return true;
            case 0x93:
                var names = Top(2);
                Push(Global(As<string>(names[0]), As<string>(names[1])));
                return true;
            case 'Q':
                var storage = PickleConstructors.Storage(_stack.Pop(), _path);
                _storages?.TryAdd(storage.Key, storage);
                Push(storage);
                return true;
            case 'R' or 0x81:
                var call = Top(2);
                Push(PickleConstructors.Call(As<PickleGlobal>(call[0]), As<PickleTuple>(call[1]).Items, _path, Count));
                return true;
            case 'b':
                // Attributes of a dictionary or a parameter (versions, hooks): nothing that a value depends on.
                _stack.Pop();
                return Peek() is PickleDictionary or PickleTensor ? true : throw Refused(_path, "the state of an unknown object");
            default:
                return false;
        }
    }

    private PickleGlobal Global(string module, string name)
    {
        var global = new PickleGlobal(module, name);
        return PickleConstructors.Allows(global) ? global : throw Refused(_path, $"'{global}'");
    }

    private void Push(object? value)
    {
        Count(1);
        _stack.Push(value);
    }

    /// <summary>Counts values before they are made.</summary>
    private void Count(long values)
    {
        _values += values;
        if (_values > MaxValues)
        {
            throw Invalid(_path, $"it makes more than {MaxValues} values.");
        }
    }

    /// <summary>A value that has to be of a type; null is of none.</summary>
    public static T As<T>(object? value)
        where T : class => value as T ?? throw new InvalidCastException($"{value?.GetType().Name ?? "none"} stands where {typeof(T).Name} should.");

    private object? Peek() => _stack.Peek();

    private object?[] Top(int count)
    {
        var items = new object?[count];
        for (var i = count - 1; i >= 0; i--)
        {
            items[i] = _stack.Pop();
            if (ReferenceEquals(items[i], s_mark))
            {
                throw new InvalidOperationException("an instruction lacks its operands.");
            }
        }

        return items;
    }

    private object?[] ToMark()
    {
        var items = new List<object?>();
        while (_stack.Pop() is var item && !ReferenceEquals(item, s_mark))
        {
            items.Add(item);
        }

        items.Reverse();
        return [.. items];
    }

    private void Append(object?[] items) => As<List<object?>>(Peek()).AddRange(items);

    private void SetItems(object?[] items) => Filled(items, As<PickleDictionary>(Peek()));

    private static PickleDictionary Filled(object?[] items, PickleDictionary dictionary)
    {
        if (items.Length % 2 != 0)
        {
            throw new FormatException("a dictionary has a key without a value.");
        }

        for (var i = 0; i < items.Length; i += 2)
        {
            dictionary.Set(items[i], items[i + 1]);
        }

        return dictionary;
    }

    private int Byte()
    {
        var value = _stream.ReadByte();
        return value >= 0 ? value : throw new EndOfStreamException();
    }

    private byte[] Bytes(long count)
    {
        if (count < 0 || count > _stream.Length - _stream.Position)
        {
            throw new EndOfStreamException();
        }

        _textBytes += count;
        if (_textBytes > MaxTextBytes)
        {
            throw Invalid(_path, $"its texts take more than {MaxTextBytes} bytes.");
        }

        var bytes = new byte[count];
        _stream.ReadExactly(bytes);
        return bytes;
    }

    private long UInt32() => BinaryPrimitives.ReadUInt32LittleEndian(Bytes(4));

    private long UInt64() => BinaryPrimitives.ReadInt64LittleEndian(Bytes(8));

    private object Integer(int length)
    {
        if (length is < 0 or > MaxIntegerBytes)
        {
            throw new OverflowException($"a number takes {length} bytes.");
        }

        var value = new BigInteger(Bytes(length));
        return value >= long.MinValue && value <= long.MaxValue ? (long)value : value;
    }

    private static object DecimalInteger(string text) => text switch
    {
        "00" => false,
        "01" => true,
        _ => long.Parse(text, CultureInfo.InvariantCulture),
    };

    private string Line()
    {
        const int MaxLength = 4096;
        var line = new List<byte>();
        while (Byte() is var value && value != '\n')
        {
            line.Add((byte)value);
            if (line.Count > MaxLength)
            {
                throw new FormatException("a line is too long.");
            }
        }

        return Encoding.UTF8.GetString([.. line]);
    }
}
