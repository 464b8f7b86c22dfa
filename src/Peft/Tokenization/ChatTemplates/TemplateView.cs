namespace Peft.Tokenization.ChatTemplates;

/// <summary>What <c>keys()</c>, <c>values()</c> and <c>items()</c> of a dictionary give: something to walk over, without an index.</summary>
/// <param name="name"><c>keys</c>, <c>values</c> or <c>items</c>.</param>
/// <param name="entries">The dictionary.</param>
internal sealed class TemplateView(string name, TemplateObject entries)
{
    /// <summary>Python's name of the type.</summary>
    public string TypeName => "dict_" + name;

    /// <summary>Whether it is equal to another one with the same items, and so has no hash.</summary>
    public bool IsSet => name != "values";

    /// <summary>The number of items.</summary>
    public int Count => entries.Count;

    /// <summary>The items.</summary>
    public IEnumerable<object?> Items() => name switch
    {
        "keys" => entries.Keys,
        "values" => entries.Values,
        _ => entries.Select(entry => (object?)new[] { entry.Key, entry.Value }),
    };
}
