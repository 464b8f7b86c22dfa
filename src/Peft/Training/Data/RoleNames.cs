using System.Collections;
using System.Diagnostics.CodeAnalysis;

namespace Peft.Training.Data;

/// <summary>Columns by the part they play; PowerShell turns it into JSON, as it doesn't a dictionary whose keys are no texts.</summary>
/// <param name="names">The columns.</param>
internal sealed class RoleNames(IReadOnlyDictionary<ColumnRole, string> names) : IReadOnlyDictionary<ColumnRole, string>
{
    /// <inheritdoc/>
    public IEnumerable<ColumnRole> Keys => names.Keys;

    /// <inheritdoc/>
    public IEnumerable<string> Values => names.Values;

    /// <inheritdoc/>
    public int Count => names.Count;

    /// <inheritdoc/>
    public string this[ColumnRole key] => names[key];

    /// <inheritdoc/>
    public bool ContainsKey(ColumnRole key) => names.ContainsKey(key);

    /// <inheritdoc/>
    public bool TryGetValue(ColumnRole key, [MaybeNullWhen(false)] out string value) => names.TryGetValue(key, out value);

    /// <inheritdoc/>
    public IEnumerator<KeyValuePair<ColumnRole, string>> GetEnumerator() => names.GetEnumerator();

    /// <inheritdoc/>
    public override string ToString() => string.Join(", ", names.Select(static entry => $"{entry.Key} = {entry.Value}"));

    IEnumerator IEnumerable.GetEnumerator() => GetEnumerator();
}
