using System.Collections;

namespace Peft.Files;

/// <summary>A list whose items are made, or read from the disk, when they are asked for.</summary>
/// <typeparam name="T">What is in it.</typeparam>
/// <param name="count">How many there are.</param>
/// <param name="get">Gives one by its number.</param>
internal sealed class IndexedList<T>(int count, Func<int, T> get) : IReadOnlyList<T>
{
    /// <inheritdoc/>
    public int Count => count;

    /// <inheritdoc/>
    public T this[int index] => index >= 0 && index < count ? get(index) : throw new ArgumentOutOfRangeException(nameof(index));

    /// <inheritdoc/>
    public IEnumerator<T> GetEnumerator()
    {
        for (var i = 0; i < count; i++)
        {
            yield return get(i);
        }
    }

    /// <inheritdoc/>
    public override string ToString() => FormattableString.Invariant($"{count:N0} items");

    IEnumerator IEnumerable.GetEnumerator() => GetEnumerator();
}
