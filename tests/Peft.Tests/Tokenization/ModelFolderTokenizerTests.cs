using Peft.Tests.Golden;
using Peft.Tokenization;

namespace Peft.Tests.Tokenization;

public class ModelFolderTokenizerTests
{
    [SkippableFact]
    public void EncodesAndDecodesWithTheEmbeddedModelsTokenizer()
    {
        var folder = Path.Combine(GoldenCases.Repository, "assets", "pocket-llama");
        Skip.IfNot(Directory.Exists(folder), "the embedded model isn't there");
        var tokenizer = Tokenizer.FromFolder(folder);
        const string Text = "Question: What is the capital of Texas?\nAnswer: Austin 👍🏽 ½ naïve";

        var ids = tokenizer.EncodeIds(Text);

        Assert.Equal(Text, tokenizer.Decode(ids));
        Assert.Equal("<|endoftext|>", tokenizer.EosToken);
        Assert.Equal(0, tokenizer.EosTokenId);
        Assert.Equal([0], tokenizer.EncodeIds("<|endoftext|>"));
    }
}
