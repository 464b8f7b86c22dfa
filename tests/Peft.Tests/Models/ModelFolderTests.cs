using Peft.Models;
using Peft.Tests.Adapters;
using Peft.Tests.Tokenization;
using Peft.Tokenization;

namespace Peft.Tests.Models;

public sealed class ModelFolderTests : IDisposable
{
    private readonly TemporaryFolder folder = new();

    public void Dispose() => folder.Dispose();

    [Theory]
    [InlineData("config.json")]
    [InlineData("model.safetensors")]
    [InlineData("model-00001-of-00002.safetensors")]
    [InlineData("pytorch_model.bin")]
    [InlineData("adapter_model.safetensors")]
    [InlineData("a.gguf")]
    [InlineData("tokenizer.json")]
    [InlineData("vocab.txt")]
    public void AFolderWithAnyPartOfAModelIsNoFreeFolder(string name)
    {
        Assert.Null(ModelFolder.Holding(folder.Path));
        Assert.Null(ModelFolder.Holding(folder["missing"]));
        folder.Write("notes.md", "x");
        Assert.Null(ModelFolder.Holding(folder.Path));
        folder.Write(name, "x");
        Assert.Equal(name, ModelFolder.Holding(folder.Path));
    }

    [Fact]
    public void FilesOfAnotherTokenizerDoNotStay()
    {
        folder.Write("tokenizer_config.json", """{"chat_template":"old","bos_token":"old"}""");
        folder.Write("chat_template.jinja", "old");
        folder.Write("README.md", "x");
        Directory.CreateDirectory(folder["additional_chat_templates"]);
        folder.Write("additional_chat_templates/old.jinja", "old");
        using var source = new TemporaryFolder();
        source.Write("tokenizer.json", TestTokenizers.BytesJson().ToJsonString());

        Tokenizer.FromFolder(source.Path).Save(folder.Path);

        Assert.Equal(["README.md", "tokenizer.json"], Directory.EnumerateFiles(folder.Path, "*", SearchOption.AllDirectories).Select(Path.GetFileName).Order(StringComparer.Ordinal));
        Assert.False(Tokenizer.FromFolder(folder.Path).HasChatTemplate);
    }

    [Fact]
    public void SizesAreCountedWithoutTheTensors()
    {
        using var model = TinyLlama.Create();
        var expected = model.Base.NamedParameters().Where(static named => named.Parameter.IsOwner).Sum(static named => named.Parameter.Count * 4);
        Assert.Equal(expected, model.MemoryBytes);

        // As another runspace leaves them in the middle of freeing.
        model.Base.NamedParameters().First().Parameter.Data.Dispose();
        Assert.Equal(expected, model.MemoryBytes);
    }
}
