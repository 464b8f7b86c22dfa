using Peft.Generation;
using Peft.Tests.Adapters;
using static TorchSharp.torch;

namespace Peft.Tests.Generation;

/// <summary>Tokens drawn where the scores are are those drawn on the host.</summary>
public sealed class DeviceSamplingTests
{
    [Theory]
    [InlineData(1, 0, 1, 0)]
    [InlineData(0.7, 0, 1, 0)]
    [InlineData(1.3, 5, 1, 0)]
    [InlineData(1, 0, 0.6, 0)]
    [InlineData(0.8, 20, 0.9, 0.05)]
    [InlineData(1, 0, 0.0, 0)]
    [InlineData(1, 1, 1, 0)]
    public void A_draw_takes_the_same_token_as_the_hosts_rules(double temperature, int topK, double topP, double minP)
    {
        using var scope = NewDisposeScope();
        using var generator = new Generator(5);
        const int Rows = 200;
        var logits = empty(Rows, 300).normal_(0, 3, generator).mul(8).round().div(8);
        var options = new GenerationOptions { Sample = true, Temperature = temperature, TopK = topK, TopP = topP, MinP = minP, Seed = 3 };
        Assert.True(DeviceSampling.Serves(options));
        var (host, device) = (Samplers(), Samplers());

        var drawn = DeviceSampling.Draw(logits, options, [.. device.Select(static sampler => sampler.NextDraw())]).data<long>().ToArray();

        var expected = host.Select((sampler, row) => (long)sampler.Choose([], 0, logits[row].data<float>().ToArray())).ToArray();
        Assert.InRange(expected.Zip(drawn).Count(static pair => pair.First != pair.Second), 0, 1);
        Assert.True(topK == 1 || topP == 0 || drawn.Distinct().Count() > 10);

        TokenSampler[] Samplers() => [.. Enumerable.Range(0, Rows).Select(row => new TokenSampler(options, [], row))];
    }

    [Fact]
    public void Other_rules_are_the_hosts()
    {
        Assert.False(DeviceSampling.Serves(new GenerationOptions()));
        Assert.False(DeviceSampling.Serves(new GenerationOptions { Sample = true, RepetitionPenalty = 1.1 }));
        Assert.False(DeviceSampling.Serves(new GenerationOptions { Sample = true, TypicalP = 0.5 }));
        Assert.False(DeviceSampling.Serves(new GenerationOptions { Sample = true, SuppressedTokens = [3] }));
        Assert.False(DeviceSampling.Serves(new GenerationOptions { Sample = true, ForcedBeginId = 3 }));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Scores_that_are_no_numbers_are_told(bool sample)
    {
        using var model = TinyLlama.Create();
        var options = new GenerationOptions { MaxNewTokens = 2, Sample = sample, Seed = 1, EndOfTextIds = [0] };
        Assert.True(Generate().IsFinite);
        model.Base.FindParameter("model.norm.weight")!.Data.fill_(float.NaN);
        Assert.False(Generate().IsFinite);

        GenerationResult Generate() => Assert.Single(new TextGenerator(model).Generate((IReadOnlyList<IReadOnlyList<int>>)[[3, 4, 5]], options));
    }
}
