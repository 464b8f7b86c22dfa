using System.Globalization;
using System.Text.RegularExpressions;

namespace Peft.Tests.PowerShell;

/// <summary>An error says what to do: read from the source, for no test provokes them all.</summary>
public sealed partial class RecommendedActionTests
{
    [Theory]
    [InlineData("Peft/Generation")]
    [InlineData("Peft/Training")]
    [InlineData("Peft.Module")]
    public void Every_error_has_one(string folder)
    {
        var root = Path.Combine(ModuleHost.Root, "src", folder);
        var without = Directory.EnumerateFiles(root, "*.cs", SearchOption.AllDirectories)
            .SelectMany(path =>
            {
                var text = File.ReadAllText(path);
                return Errors().Matches(text).Where(match => !RestOf(text, match.Index).Contains("RecommendedAction =", StringComparison.Ordinal))
                    .Select(match => string.Create(CultureInfo.InvariantCulture, $"{Path.GetRelativePath(root, path)}, line {text.AsSpan(0, match.Index).Count('\n') + 1}"));
            });
        Assert.Empty(without);
    }

    /// <summary>The expression that begins here, with its initialiser.</summary>
    private static string RestOf(string text, int start)
    {
        var depth = 0;
        for (var i = start; i < text.Length; i++)
        {
            depth += text[i] switch { '(' or '{' or '[' => 1, ')' or '}' or ']' => -1, _ => 0 };
            if (depth == 0 && text[i] is ';' or ',' or ':' || depth < 0)
            {
                return text[start..i];
            }
        }

        return text[start..];
    }

    [GeneratedRegex("""new( (NotSupportedBy)?PeftException\(|\(\s*"[A-Z]\w+",\s*(\$"|FormattableString|string))""")]
    private static partial Regex Errors();
}
