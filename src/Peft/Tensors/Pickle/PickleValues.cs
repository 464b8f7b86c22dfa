namespace Peft.Tensors.Pickle;

/// <summary>A name that a pickle asks for and that is on the allow-list.</summary>
/// <param name="Module">Python's module.</param>
/// <param name="Name">The name in it.</param>
internal sealed record PickleGlobal(string Module, string Name)
{
    /// <summary>As Python writes it.</summary>
    public override string ToString() => $"{Module}.{Name}";
}

/// <summary>A dictionary in the order of insertion; keys may be anything.</summary>
internal sealed class PickleDictionary
{
    private List<(object? Key, object? Value)>? _items;
    private Dictionary<object, int>? _index;

    /// <summary>The pairs in order.</summary>
    public IReadOnlyList<(object? Key, object? Value)> Items => _items ?? [];

    /// <summary>Sets a value; an equal key is overwritten, as in Python.</summary>
    public void Set(object? key, object? value)
    {
        _items ??= [];
        _index ??= [];
        if (key is not null && _index.TryGetValue(key, out var at))
        {
            _items[at] = (key, value);
            return;
        }

        if (key is not null)
        {
            _index.Add(key, _items.Count);
        }

        _items.Add((key, value));
    }

    /// <summary>The value under a key, or null.</summary>
    public object? Get(string key) => _index is not null && _index.TryGetValue(key, out var at) ? _items![at].Value : null;
}

/// <summary>A tuple; unlike a list it never changes.</summary>
/// <param name="Items">Its items.</param>
internal sealed record PickleTuple(object?[] Items);

/// <summary>A run of elements that tensors are views of.</summary>
/// <param name="Key">Its name in the container.</param>
/// <param name="Type">The element type.</param>
/// <param name="Count">The number of elements.</param>
internal sealed record PickleStorage(string Key, ElementType Type, long Count);

/// <summary>A tensor as a strided view of a storage.</summary>
/// <param name="Storage">The storage.</param>
/// <param name="Type">The tensor's own element type, which an untyped storage doesn't know.</param>
/// <param name="Offset">The first element, in elements of <paramref name="Type"/>.</param>
/// <param name="Shape">The sizes.</param>
/// <param name="Strides">The steps, in elements.</param>
internal sealed record PickleTensor(PickleStorage Storage, ElementType Type, long Offset, long[] Shape, long[] Strides)
{
    /// <summary>The number of elements.</summary>
    public long Count => TensorEntry.Product(Shape);

    /// <summary>How many elements of the storage the view reaches over, from its first to its last one.</summary>
    public long Extent
    {
        get
        {
            if (Shape.Contains(0))
            {
                return 0;
            }

            long last = 0;
            for (var i = 0; i < Shape.Length; i++)
            {
                last = checked(last + ((Shape[i] - 1) * Strides[i]));
            }

            return checked(last + 1);
        }
    }

    /// <summary>Whether the elements lie in row-major order without gaps.</summary>
    public bool IsContiguous
    {
        get
        {
            long expected = 1;
            for (var i = Shape.Length - 1; i >= 0; i--)
            {
                if (Shape[i] != 1 && Strides[i] != expected)
                {
                    return false;
                }

                expected *= Shape[i];
            }

            return true;
        }
    }
}
