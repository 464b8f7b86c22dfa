using Peft.Adapters;
using Peft.Files;
using Peft.Models;
using Peft.Tests.Tokenization;
using Peft.Training.Data;

namespace Peft.Tests.Files;

/// <summary>Half a surrogate pair is valid JSON and no text: wherever it stands, the error says where.</summary>
public sealed class LoneSurrogateTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData("rows.jsonl", "{\"text\":\"a\"}\n{\"text\":\"b\\ud83d\"}\n", "line 2", "'text'")]
    [InlineData("rows.jsonl", "{\"text\":\"a\",\"\\udc00\":1}\n", "line 1", "half a surrogate pair")]
    [InlineData("rows.jsonl", "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"user\",\"content\":\"\\udc00\\ud83d\"}]}\n", "line 1", "'messages[1].content'")]
    [InlineData("rows.json", "[\n{\"text\":\"a\"},\n{\"text\":\"b\\ud83d\"}]", "line 3", "'[1].text'")]
    public void InADataRow(string name, string content, string line, string field)
    {
        var path = _folder.Write(name, content);
        var error = Assert.Throws<PeftException>(() => TrainingDataset.FromFile(path));
        Assert.Equal("DatasetRowInvalid", error.ErrorId);
        Assert.Contains(path, error.Message, StringComparison.Ordinal);
        Assert.Contains(line, error.Message, StringComparison.Ordinal);
        Assert.Contains(field, error.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("{\"text\":\"\\ud83d\\ude00 \\u00e9\"}\n", "😀 é")]
    public void AWholePairIsACharacter(string content, string expected) =>
        Assert.Equal(expected, TrainingDataset.FromFile(_folder.Write("rows.jsonl", content)).Rows[0].Values["text"]);

    [Fact]
    public void InAConfiguration()
    {
        var path = _folder.Write("config.json", "{\n\"model_type\": \"llama\",\n\"architectures\": [\"\\ud83d\"]}");
        var error = Assert.Throws<PeftException>(() => ModelConfig.FromFile(path));
        Assert.Equal("JsonInvalid", error.ErrorId);
        Assert.Contains("line 3", error.Message, StringComparison.Ordinal);
        Assert.Contains("architectures[0]", error.Message, StringComparison.Ordinal);
        path = _folder.Write(AdapterConfig.FileName, "{\"peft_type\":\"LORA\",\"target_modules\":[\"\\ud83d\"]}");
        Assert.Equal("JsonInvalid", Assert.Throws<PeftException>(() => JsonFile.Read(path)).ErrorId);
    }

    [Theory]
    [InlineData("""{"model":{"type":"WordLevel","vocab":{"\ud83d":0},"unk_token":"a"}}""")]
    [InlineData("""{"model":{"type":"WordLevel","vocab":{"a":0},"unk_token":"\ud83d"}}""")]
    [InlineData("""{"model":{"type":"WordLevel","vocab":{"a":0},"unk_token":"a"},"\ud83d":1}""")]
    [InlineData("""{"model":{"type":"WordLevel","vocab":{"a":0},"unk_token":"a"},"post_processor":{"type":"TemplateProcessing","single":[],"pair":[],"special_tokens":{"\ud83d":{"id":"a","ids":[0],"tokens":["a"]}}}}""")]
    public void InATokenizer(string content)
    {
        var error = Assert.Throws<PeftException>(() => TestTokenizers.FromText(content));
        Assert.Equal("TokenizerFileInvalid", error.ErrorId);
        Assert.Contains("line 1", error.Message, StringComparison.Ordinal);
    }
}
