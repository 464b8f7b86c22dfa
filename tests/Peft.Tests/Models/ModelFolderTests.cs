using Peft.Models;
using Peft.Tests.Adapters;
using Peft.Tests.Tokenization;
using Peft.Tokenization;

namespace Peft.Tests.Models;

public sealed class ModelFolderTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

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
        Assert.Null(ModelFolder.Holding(_folder.Path));
        Assert.Null(ModelFolder.Holding(_folder["missing"]));
        _folder.Write("notes.md", "x");
        Assert.Null(ModelFolder.Holding(_folder.Path));
        _folder.Write(name, "x");
        Assert.Equal(name, ModelFolder.Holding(_folder.Path));
    }

    [Fact]
    public void FilesOfAnotherTokenizerDoNotStay()
    {
        _folder.Write("tokenizer_config.json", """{"chat_template":"old","bos_token":"old"}""");
        _folder.Write("chat_template.jinja", "old");
        _folder.Write("README.md", "x");
        Directory.CreateDirectory(_folder["additional_chat_templates"]);
        _folder.Write("additional_chat_templates/old.jinja", "old");
        using var source = new TemporaryFolder();
        source.Write("tokenizer.json", TestTokenizers.BytesJson().ToJsonString());

        Tokenizer.FromFolder(source.Path).Save(_folder.Path);

        Assert.Equal(["README.md", "tokenizer.json"], Directory.EnumerateFiles(_folder.Path, "*", SearchOption.AllDirectories).Select(Path.GetFileName).Order(StringComparer.Ordinal));
        Assert.False(Tokenizer.FromFolder(_folder.Path).HasChatTemplate);
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
