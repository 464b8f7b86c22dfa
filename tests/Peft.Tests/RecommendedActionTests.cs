using System.Globalization;
using System.Text.RegularExpressions;

namespace Peft.Tests;

/// <summary>An error says what to do: read from the source, for no test provokes them all.</summary>
public sealed partial class RecommendedActionTests
{
    [Theory]
    [InlineData("Peft/Adapters")]
    [InlineData("Peft/Generation")]
    [InlineData("Peft/Hub")]
    [InlineData("Peft/Models")]
    [InlineData("Peft/Quantization")]
    [InlineData("Peft/Tensors")]
    [InlineData("Peft/Tokenization")]
    [InlineData("Peft/Training")]
    [InlineData("Peft.Cmdlets")]
    public void Every_error_has_one(string folder)
    {
        var root = Path.Combine(RepositoryRoot.Folder, "src", folder);
        var without = Directory.EnumerateFiles(root, "*.cs", SearchOption.AllDirectories)
            .SelectMany(path =>
            {
                var text = File.ReadAllText(path);
                return Errors().Matches(text)
                    .Where(match => new PeftException(match.Groups["id"].Value, "").RecommendedAction is null
                        && !RestOf(text, match.Index).Contains("RecommendedAction =", StringComparison.Ordinal))
                    .Select(match => string.Create(CultureInfo.InvariantCulture, $"{Path.GetRelativePath(root, path)}, line {text.AsSpan(0, match.Index).Count('\n') + 1}"));
            });
        Assert.Empty(without);
    }

    [Fact]
    public void A_place_that_knows_better_is_heard()
    {
        Assert.Contains("without -StructureOnly", new PeftException("WeightsNotLoaded", "").RecommendedAction, StringComparison.Ordinal);
        Assert.Equal("Wait.", new PeftException("WeightsNotLoaded", "") { RecommendedAction = "Wait." }.RecommendedAction);
        Assert.Null(new PeftException("NoSuchId", "").RecommendedAction);
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

    [GeneratedRegex("""new( (NotSupportedBy)?PeftException\(\s*("(?<id>\w+)")?|\(\s*"(?<id>[A-Z]\w+)",\s*(\$"|FormattableString|string)|\(message, "(?<id>\w+)"\))""", RegexOptions.ExplicitCapture)]
    private static partial Regex Errors();
}
