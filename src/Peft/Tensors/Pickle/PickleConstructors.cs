namespace Peft.Tensors.Pickle;

/// <summary>The allow-list: everything a pickle may name, and what comes of it.</summary>
internal static class PickleConstructors
{
    private static readonly Dictionary<string, string> s_storageTypes = new()
    {
        ["FloatStorage"] = "F32",
        ["DoubleStorage"] = "F64",
        ["HalfStorage"] = "F16",
        ["BFloat16Storage"] = "BF16",
        ["LongStorage"] = "I64",
        ["IntStorage"] = "I32",
        ["ShortStorage"] = "I16",
        ["CharStorage"] = "I8",
        ["ByteStorage"] = "U8",
        ["BoolStorage"] = "BOOL",
        ["UntypedStorage"] = "U8",
    };

    private static readonly Dictionary<string, string> s_elementTypes = new()
    {
        ["float32"] = "F32",
        ["float64"] = "F64",
        ["float16"] = "F16",
        ["bfloat16"] = "BF16",
        ["float8_e4m3fn"] = "F8_E4M3",
        ["float8_e5m2"] = "F8_E5M2",
        ["int64"] = "I64",
        ["int32"] = "I32",
        ["int16"] = "I16",
        ["int8"] = "I8",
        ["uint8"] = "U8",
        ["bool"] = "BOOL",
    };

    private static readonly HashSet<string> s_functions =
    [
        "collections.OrderedDict",
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_tensor_v3",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_parameter_with_state",
        "torch._tensor._rebuild_from_type_v2",
        "torch.nn.parameter.Parameter",
        "torch.Tensor",
        "torch.Size",
        "torch.device",
        "builtins.set",
        "__builtin__.set",
        "_codecs.encode",
    ];

    /// <summary>Whether a name may occur.</summary>
    /// <param name="global">The name.</param>
    /// <returns>True if it is on the list.</returns>
    public static bool Allows(PickleGlobal global) => s_functions.Contains(global.ToString()) || IsStorageType(global) || IsElementType(global);

    /// <summary>Makes a storage of what a pickle leaves out of itself.</summary>
    /// <param name="identifier">The tuple that names it.</param>
    /// <param name="path">The file, for messages.</param>
    /// <returns>The storage, not yet read.</returns>
    public static PickleStorage Storage(object? identifier, string path)
    {
        if (identifier is PickleTuple { Items: ["storage", PickleGlobal type, string key, _, long count, ..] } && IsStorageType(type))
        {
            return count >= 0
                ? new PickleStorage(key, ElementType.Find(s_storageTypes[type.Name])!, count)
                : throw PickleMachine.Invalid(path, $"storage '{key}' has {count} elements.");
        }

        throw PickleMachine.Refused(path, "a persistent object that is no storage");
    }

    /// <summary>Makes what a call of an allowed name makes.</summary>
    /// <param name="function">The name.</param>
    /// <param name="arguments">Its arguments.</param>
    /// <param name="path">The file, for messages.</param>
    /// <param name="count">Hears how many values a call is about to make: arguments can be shared by many calls.</param>
    /// <returns>The value.</returns>
    public static object? Call(PickleGlobal function, object?[] arguments, string path, Action<long> count) => (function.Name, arguments) switch
    {
        ("OrderedDict", []) => new PickleDictionary(),
        ("OrderedDict", [List<object?> pairs]) => FromPairs(pairs, count),
        ("_rebuild_tensor", [PickleStorage storage, long offset, PickleTuple shape, PickleTuple strides]) =>
            Tensor(storage, storage.Type, offset, shape, strides, path, count),
        ("_rebuild_tensor_v2", [PickleStorage storage, long offset, PickleTuple shape, PickleTuple strides, ..]) =>
            Tensor(storage, storage.Type, offset, shape, strides, path, count),
        ("_rebuild_tensor_v3", [PickleStorage storage, long offset, PickleTuple shape, PickleTuple strides, _, _, PickleGlobal type, ..]) when IsElementType(type) =>
            Tensor(storage, ElementType.Find(s_elementTypes[type.Name])!, offset, shape, strides, path, count),
        ("_rebuild_parameter" or "_rebuild_parameter_with_state", [PickleTensor tensor, ..]) => tensor,

        // What it wraps is never itself: a pickle nested in its own arguments would exhaust the stack.
        ("_rebuild_from_type_v2", [PickleGlobal inner, PickleGlobal { Name: "Tensor" or "Parameter" }, PickleTuple innerArguments, ..])
            when inner.Name.StartsWith("_rebuild_", StringComparison.Ordinal) && inner.Name != "_rebuild_from_type_v2" =>
            Call(inner, innerArguments.Items, path, count),
        ("Parameter", [PickleTensor tensor, ..]) => tensor,
        ("Size", [PickleTuple sizes]) => sizes,
        ("device", [string, ..]) => arguments[0],
        ("set", [List<object?> items]) => items,
        ("encode", [string text, "latin1"]) => Encoded(text, count),
        _ => throw PickleMachine.Refused(path, $"'{function}' with unusual arguments"),
    };

    private static bool IsStorageType(PickleGlobal global) => global.Module is "torch" or "torch.storage" && s_storageTypes.ContainsKey(global.Name);

    private static bool IsElementType(PickleGlobal global) => global.Module == "torch" && s_elementTypes.ContainsKey(global.Name);

    private static byte[] Encoded(string text, Action<long> count)
    {
        count(1 + (text.Length / 16));
        return System.Text.Encoding.Latin1.GetBytes(text);
    }

    private static PickleDictionary FromPairs(List<object?> pairs, Action<long> count)
    {
        count(pairs.Count);
        var dictionary = new PickleDictionary();
        foreach (var pair in pairs)
        {
            IReadOnlyList<object?> items = pair is PickleTuple tuple ? tuple.Items : PickleMachine.As<List<object?>>(pair);
            dictionary.Set(items[0], items.Count == 2 ? items[1] : throw new FormatException("a pair has not two items."));
        }

        return dictionary;
    }

    private static PickleTensor Tensor(PickleStorage storage, ElementType type, long offset, PickleTuple shape, PickleTuple strides, string path, Action<long> count)
    {
        count(shape.Items.Length + strides.Items.Length);
        var tensor = new PickleTensor(storage, type, offset, Sizes(shape), Sizes(strides));
        var available = checked(storage.Count * storage.Type.Size) / type.Size;
        var sound = offset >= 0 && tensor.Shape.Length == tensor.Strides.Length && tensor.Shape.All(size => size >= 0) && tensor.Strides.All(step => step >= 0);
        if (!sound || tensor.Extent > available - offset)
        {
            throw PickleMachine.Invalid(path, $"a tensor of shape [{string.Join(", ", tensor.Shape)}] with strides [{string.Join(", ", tensor.Strides)}] from {offset} on reaches beyond the {available} elements of storage '{storage.Key}'.");
        }

        // A step of zero repeats an element without end; real files repeat little.
        const long MaxRepeated = 1 << 24;
        return tensor.Count <= Math.Max(available, MaxRepeated)
            ? tensor
            : throw PickleMachine.Invalid(path, $"a tensor claims {tensor.Count} elements of a storage of {available}.");
    }

    private static long[] Sizes(PickleTuple tuple) => [.. tuple.Items.Select(static item => item is long size ? size : throw new InvalidCastException("a size is no whole number."))];
}
