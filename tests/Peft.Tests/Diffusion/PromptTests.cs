using Peft.Diffusion.Prompts;
using Peft.Tests.Golden;
using Peft.Tokenization;
using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests.Diffusion;

/// <summary>Prompts with weights, and longer than a text encoder reads at once.</summary>
public sealed class PromptTests
{
    [Theory]
    [InlineData("a cat", "a cat=1")]
    [InlineData("a (red) cat", "a =1|red=1.1| cat=1")]
    [InlineData("a ((red)) cat", "a =1|red=1.21| cat=1")]
    [InlineData("a (red:1.3) cat", "a =1|red=1.3| cat=1")]
    [InlineData("(a (red:1.5) cat:0.5)", "a =0.5|red=0.75| cat=0.5")]
    [InlineData("a [red] cat", "a =1|red=0.909| cat=1")]
    [InlineData(@"a \(red\) cat", "a (red) cat=1")]
    [InlineData("a (red cat", "a =1|red cat=1.1")]
    [InlineData("12:30) at noon", "12:30) at noon=1")]
    [InlineData("Bears:(at) Bay", "Bears:=1|at=1.1| Bay=1")]
    [InlineData("a cat BREAK a dog", "a cat =1|BREAK=1| a dog=1")]
    [InlineData("", "")]
    public void Brackets_weigh_words(string prompt, string expected) => Assert.Equal(
        expected,
        string.Join('|', PromptWeights.Parse(prompt).Select(part => FormattableString.Invariant($"{(part.IsBreak ? "BREAK" : part.Text)}={Math.Round(part.Weight, 3)}"))));

    [SkippableFact]
    public void A_long_prompt_is_cut_into_chunks_with_begin_and_end()
    {
        var tokenizer = Clip();
        var plain = tokenizer.Encode("a photo of a (red:1.5) cat", addSpecialTokens: false);
        var prompt = PromptTokens.Of(tokenizer, "a photo of a (red:1.5) cat " + string.Concat(Enumerable.Repeat("on the table ", 10)), 16);
        Assert.True(prompt.Ids.Count > 1);
        Assert.All(prompt.Ids, chunk => Assert.Equal((16, tokenizer.BosTokenId), (chunk.Length, chunk[0])));
        Assert.All(prompt.Ids, chunk => Assert.Contains((int)tokenizer.EosTokenId!, chunk));
        Assert.Equal(tokenizer.Encode("a photo of a", addSpecialTokens: false).Ids, prompt.Ids[0][1..(tokenizer.Encode("a photo of a", addSpecialTokens: false).Count + 1)]);
        Assert.Contains(1.5f, prompt.Weights[0]);
        Assert.All(prompt.Weights.Skip(1), chunk => Assert.All(chunk, static weight => Assert.Equal(1, weight)));
        Assert.Single(PromptTokens.Of(tokenizer, string.Concat(Enumerable.Repeat("on the table ", 10)), 16, chunks: 1).Ids);
        Assert.True(plain.Count > 0);
    }

    [SkippableFact]
    public void Without_weights_the_tokens_are_the_tokenizers_own()
    {
        var tokenizer = Clip();
        var prompt = PromptTokens.Of(tokenizer, "a photo of a red cat", 16);
        Assert.Equal(tokenizer.Encode("a photo of a red cat").Ids, prompt.Ids[0][..tokenizer.Encode("a photo of a red cat").Count]);
        using var states = randn(1, 16, 3);
        using var weighed = prompt.Weigh(states);
        Assert.Equal(0, weighed.sub(states).abs().max().item<float>());
        Assert.False(prompt.AreWeighted);
        Assert.Equal(3, prompt.WithChunks(3).Ids.Count);
    }

    [SkippableFact]
    public void Weights_change_states_and_keep_their_mean()
    {
        using var scope = NewDisposeScope();
        var prompt = PromptTokens.Of(Clip(), "a (red:1.5) cat", 16).WithChunks(2);
        var states = randn(2, 16, 8).add(1);
        var weighed = prompt.Weigh(states).view(2, 16, 8);
        Assert.True(weighed.sub(states).abs().max().item<float>() > 0.1);
        Assert.True(weighed.mean([1, 2]).sub(states.mean([1, 2])).abs().max().item<float>() < 1e-5);
        Assert.True(weighed[1].sub(states[1]).abs().max().item<float>() < 1e-5);
    }

    private static Tokenizer Clip()
    {
        var models = GoldenCases.DomainFolder("diffusion") is { } domain ? Path.Combine(domain, "models") : "";
        var folder = Directory.Exists(models) ? Directory.GetDirectories(models).Select(model => Path.Combine(model, "tokenizer")).FirstOrDefault(Directory.Exists) : null;
        Skip.If(folder is null, "no tokenizer of a text encoder in this set");
        return Tokenizer.FromFolder(folder);
    }
}
