using System.Text.RegularExpressions;

namespace Peft.Tests;

/// <summary>An error says what to do about it.</summary>
public sealed partial class RecommendedActionTests
{
    [Theory]
    [InlineData("Adapters")]
    [InlineData("Models")]
    [InlineData("Tensors")]
    [InlineData("Tokenization")]
    public void Every_error_says_what_to_do(string folder)
    {
        var files = Directory.GetFiles(Path.Combine(RepositoryRoot.Folder, "src", "Peft", folder), "*.cs", SearchOption.AllDirectories);
        var thrown = files.SelectMany(static file => Thrown().Matches(File.ReadAllText(file))).ToArray();
        Assert.NotEmpty(thrown);
        Assert.All(thrown, static match => Assert.True(
            match.Value.Contains("RecommendedAction", StringComparison.Ordinal) || new PeftException(match.Groups["id"].Value, "").RecommendedAction is not null, match.Value));
    }

    [Fact]
    public void A_place_that_knows_better_is_heard()
    {
        Assert.Contains("without -StructureOnly", new PeftException("WeightsNotLoaded", "").RecommendedAction, StringComparison.Ordinal);
        Assert.Equal("Wait.", new PeftException("WeightsNotLoaded", "") { RecommendedAction = "Wait." }.RecommendedAction);
        Assert.Null(new PeftException("NoSuchId", "").RecommendedAction);
    }

    [GeneratedRegex("""(?:Exception|\bnew|=> new)\(\s*(?:message, )?"(?<id>[A-Z][a-z]\w+)",\s.*?;\r?$""", RegexOptions.Singleline | RegexOptions.Multiline)]
    private static partial Regex Thrown();
}
