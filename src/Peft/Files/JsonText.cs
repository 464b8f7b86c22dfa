using System.Globalization;
using System.Text;
using System.Text.Json;

namespace Peft.Files;

/// <summary>
/// Half a surrogate pair in a JSON text (<c>"\ud83d"</c>) is valid JSON and no text: .NET throws at the first look at it. It is found once,
/// after parsing, so that an error can say where.
/// </summary>
internal static class JsonText
{
    /// <summary>The first text or name that is none, or null.</summary>
    /// <param name="utf8">JSON that was parsed already.</param>
    /// <param name="maxDepth">How deep it nests at most.</param>
    /// <returns>Its line, counted from 1, and its place, such as <c>messages[1].content</c>; empty for the whole document.</returns>
    public static (int Line, string Field)? FirstBroken(ReadOnlySpan<byte> utf8, int maxDepth)
    {
        if (utf8.IndexOf("\\u"u8) < 0)
        {
            return null;
        }

        var reader = new Utf8JsonReader(utf8, new JsonReaderOptions { MaxDepth = maxDepth });
        var path = new Stack<(string? Name, int Index)>();
        while (reader.Read())
        {
            switch (reader.TokenType)
            {
                case JsonTokenType.StartObject or JsonTokenType.StartArray:
                    Next(path);
                    path.Push((null, -1));
                    continue;
                case JsonTokenType.EndObject or JsonTokenType.EndArray:
                    path.Pop();
                    continue;
                case not JsonTokenType.PropertyName:
                    Next(path);
                    break;
            }

            var isText = reader.TokenType is JsonTokenType.String or JsonTokenType.PropertyName;
            var text = isText && (reader.ValueIsEscaped || reader.TokenType == JsonTokenType.PropertyName) ? Text(ref reader) : "";
            if (text is null)
            {
                return (utf8[..(int)reader.TokenStartIndex].Count((byte)'\n') + 1, Field(path));
            }

            if (reader.TokenType == JsonTokenType.PropertyName)
            {
                path.Pop();
                path.Push((text, -1));
            }
        }

        return null;
    }

    /// <summary>What is wrong, in words.</summary>
    public static string Describe(string field) =>
        (field.Length == 0 ? "a text or a name" : $"'{field}', or a name beside it,") + " holds half a surrogate pair (such as \\ud83d), which stands for no character.";

    private static void Next(Stack<(string? Name, int Index)> path)
    {
        if (path.TryPeek(out var last) && last.Name is null)
        {
            path.Pop();
            path.Push((null, last.Index + 1));
        }
    }

    private static string? Text(ref Utf8JsonReader reader)
    {
        try
        {
            return reader.GetString();
        }
        catch (InvalidOperationException)
        {
            return null;
        }
    }

    private static string Field(Stack<(string? Name, int Index)> path)
    {
        var field = new StringBuilder();
        foreach (var (name, index) in path.Reverse())
        {
            if (name is not null)
            {
                field.Append(field.Length > 0 ? "." : "").Append(name);
            }
            else if (index >= 0)
            {
                field.Append(CultureInfo.InvariantCulture, $"[{index}]");
            }
        }

        return field.ToString();
    }
}
