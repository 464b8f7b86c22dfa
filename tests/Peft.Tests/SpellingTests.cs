namespace Peft.Tests;

public class SpellingTests
{
    [Theory]
    [InlineData("adamw", "adamw_torch")]
    [InlineData("ADAM", "adam")]
    [InlineData("cosin", "cosine")]
    [InlineData("LINAER", "linear")]
    [InlineData("li", null)]
    [InlineData("nothing", null)]
    public void OffersTheFirstNameThatBeginsSoOrElseTheOneMostAlike(string typed, string? expected) =>
        Assert.Equal(expected, Spelling.Nearest(typed, ["adam", "adamw_torch", "adamw_torch_fused", "cosine", "cosine_with_restarts", "linear"]));
}
