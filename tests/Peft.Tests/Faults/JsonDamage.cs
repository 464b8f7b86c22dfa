using System.Text;
using System.Text.Json.Nodes;

namespace Peft.Tests.Faults;

/// <summary>What people and other programs do to JSON: another kind of value, a number out of range, a part left out or given twice.</summary>
internal static class JsonDamage
{
    private static readonly string[] s_values =
    [
        "null", "true", "-1", "0", "1.5", "1e300", "-1e300", "1e999", "99999999999999999999", "2147483648", "-2147483649", "\"\"", "\"x\"", "\"\\ud83d\"",
        "\"\\u001b[2J\"", "\"\\u0000\"", "[]", "{}", "[null]", "[[]]", "[1,2]", "[\"a\"]", "{\"a\":null}", "{\"\":1}", "\"(\"", "\"../..\"", "20000000",
    ];

    /// <summary>A document with one to three faults, as UTF-8.</summary>
    public static byte[] Apply(byte[] whole, Random random)
    {
        if (random.Next(3) == 0)
        {
            return Damage.Apply(whole, random);
        }

        JsonNode root;
        try
        {
            root = JsonNode.Parse(whole)!;
            _ = root.ToJsonString();
        }
        catch (Exception error) when (error is System.Text.Json.JsonException or ArgumentException)
        {
            // No JSON to begin with, or with a name given twice.
            return Damage.Apply(whole, random);
        }

        for (var faults = random.Next(1, 4); faults > 0; faults--)
        {
            Change(root, random);
        }

        return Encoding.UTF8.GetBytes(root.ToJsonString().Replace("\"\\uFFFD\\u2620\"", s_values[random.Next(s_values.Length)], StringComparison.Ordinal));
    }

    private static void Change(JsonNode root, Random random)
    {
        var node = root;
        while (true)
        {
            var children = node switch
            {
                JsonObject entries => entries.Select(entry => ((object)entry.Key, entry.Value)).ToArray(),
                JsonArray items => [.. items.Select((item, index) => ((object)index, item))],
                _ => [],
            };
            if (children.Length == 0)
            {
                return;
            }

            var (key, child) = children[random.Next(children.Length)];
            if (child is JsonObject { Count: > 0 } or JsonArray { Count: > 0 } && random.Next(4) > 0)
            {
                node = child;
                continue;
            }

            // A mark that the text replaces, for not every value has a node.
            switch (node)
            {
                case JsonObject entries when random.Next(4) == 0:
                    entries.Remove((string)key);
                    break;
                case JsonObject entries:
                    entries[(string)key] = "\uFFFD\u2620";
                    break;
                case JsonArray items when random.Next(4) == 0:
                    items.RemoveAt((int)key);
                    break;
                case JsonArray items:
                    items[(int)key] = "\uFFFD\u2620";
                    break;
            }

            return;
        }
    }
}
