using System.Text.Json.Nodes;
using Peft.Tests.Models;
using Peft.Tokenization;
using Peft.Training.Data;

namespace Peft.Tests.Training;

/// <summary>What is learnt of conversations, whatever their template marks and however their values are spelt.</summary>
public sealed class ConversationRowTests : IDisposable
{
    private const string Unmarked = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}";
    private const string IgnoresGenerationPrompt = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}";
    private const string PrintsCalls = "{% for m in messages %}<|{{ m.role }}|>{% for t in m.tool_calls %}{{ t | tojson }}{% endfor %}{{ m.content }}<|end|>{% endfor %}{% for t in tools or [] %}{{ t | tojson }}{% endfor %}";

    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData(Unmarked)]
    [InlineData(IgnoresGenerationPrompt)]
    [InlineData("{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|end|>{% endgeneration %}{% else %}{{ m.content }}<|end|>{% endif %}{% endfor %}")]
    public void An_assistants_turn_is_learnt_without_its_heading_whether_the_template_marks_it_or_not(string template)
    {
        Assert.Equal("Hello you<|end|>", Learnt(template, """{"messages":[{"role":"user","content":"Hi there"},{"role":"assistant","content":"Hello you"}]}"""));
        Assert.Equal("Hello you<|end|>a<|end|>", Learnt(template, """{"messages":[{"role":"assistant","content":"Hello you"},{"role":"user","content":"Hi"},{"role":"assistant","content":"a"}]}"""));
    }

    [Fact]
    public void Numbers_reach_the_template_as_Pythons_json_has_them()
    {
        const string Call = """{"function":{"name":"f","arguments":{"n":5,"id":9007199254740993,"long":123456789012345678901234567890,"real":2.0}}}""";
        var learnt = Learnt(PrintsCalls, $$"""{"messages":[{"role":"user","content":5},{"role":"assistant","content":"x","tool_calls":[{{Call}}]}]}""", LossTokens.All);
        Assert.Equal("""<|user|>5<|end|><|assistant|>{"function": {"name": "f", "arguments": {"n": 5, "id": 9007199254740993, "long": 123456789012345678901234567890, "real": 2.0}}}x<|end|>""", learnt);
    }

    [Fact]
    public void Values_nested_in_lists_and_tables_reach_the_template_as_they_do_from_a_file()
    {
        var call = new Dictionary<string, object?> { ["n"] = new List<object?> { 5L, new Dictionary<string, object?> { ["deep"] = 1L } } };
        var row = new Dictionary<string, object?>
        {
            ["messages"] = new List<object?>
            {
                new Dictionary<string, object?> { ["role"] = "assistant", ["content"] = "x", ["tool_calls"] = new List<object?> { call } },
            },
        };
        Assert.Equal("""<|assistant|>{"n": [5, {"deep": 1}]}x<|end|>""", Learnt(Tokenizer(PrintsCalls), TrainingDataset.FromRows([row], new DatasetOptions { Loss = LossTokens.All })));
    }

    [Theory]
    [InlineData(Unmarked, """, "tools":[{"name":"f"}]""", "", true)]
    [InlineData(Unmarked, "", ""","tool_calls":[{"function":{"name":"f","arguments":{}}}]""", true)]
    [InlineData(PrintsCalls, """, "tools":[{"name":"f"}]""", ""","tool_calls":[{"function":{"name":"f","arguments":{}}}]""", false)]
    [InlineData(Unmarked, "", "", false)]
    public void Tools_that_the_template_says_nothing_of_are_said(string template, string tools, string calls, bool isSaid)
    {
        File.WriteAllText(_folder["tools.jsonl"], $$"""{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"{{calls}}}]{{tools}}}""");
        var tokenized = TrainingDataset.FromFile(_folder["tools.jsonl"]).Tokenize(Tokenizer(template));
        Assert.Equal(isSaid, tokenized.Examples[0].Remarks.HasFlag(ExampleRemarks.ToolsLeftOut));
        Assert.Equal(isSaid, tokenized.Messages.Any(static message => message.Contains("chat template doesn't write", StringComparison.Ordinal)));
    }

    [Fact]
    public void Tools_beside_a_conversation_are_handed_to_the_template() =>
        Assert.Equal("""<|user|>a<|end|>{"name": "f"}""", Learnt(PrintsCalls, """{"messages":[{"role":"user","content":"a"}],"tools":[{"name":"f"}]}""", LossTokens.All));

    [Fact]
    public void A_text_that_begins_with_the_beginning_token_gets_it_once()
    {
        var tokenizer = Tokenizer("{{ bos_token }}" + Unmarked, addsBeginning: true);
        var begin = tokenizer.BosTokenId!.Value;
        Assert.Equal([begin], tokenizer.EncodeWhole("Hi").Where(id => id == begin));
        Assert.Equal(tokenizer.EncodeWhole("Hi"), tokenizer.EncodeWhole(tokenizer.BosToken + "Hi"));
        Assert.Equal([begin, begin], tokenizer.EncodeIds(tokenizer.BosToken + "Hi").Where(id => id == begin));
    }

    [Fact]
    public void A_content_of_text_parts_is_their_text_for_a_template_that_knows_texts_alone()
    {
        const string Row = """{"messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},{"role":"assistant","content":[{"type":"text","text":"c"}]}]}""";
        Assert.Equal("<|user|>a\nb<|end|><|assistant|>c<|end|>", Learnt(Unmarked, Row, LossTokens.All));
        const string ReadsParts = "{% for m in messages %}<|{{ m.role }}|>{% for p in m.content %}[{{ p.text }}]{% endfor %}<|end|>{% endfor %}";
        Assert.Equal("<|user|>[a][b]<|end|><|assistant|>[c]<|end|>", Learnt(ReadsParts, Row, LossTokens.All));
    }

    [Fact]
    public void A_content_of_other_parts_is_an_error_for_a_template_that_knows_texts_alone()
    {
        const string Row = """{"messages":[{"role":"user","content":[{"type":"image","url":"a"},{"type":"text","text":"b"}]},{"role":"assistant","content":"c"}]}""";
        var error = Assert.ThrowsAny<PeftException>(() => Learnt(Unmarked, Row, LossTokens.All));
        Assert.Equal("ChatMessageInvalid", error.ErrorId);
        Assert.Contains("image", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_long_conversation_without_marks_takes_the_time_of_what_is_kept_of_it()
    {
        var turn = """{"role":"user","content":"Hi there"},{"role":"assistant","content":"Hello you"}""";
        var data = TrainingDataset.FromFile(_folder.Write("rows.jsonl", $$"""{"messages":[{{string.Join(',', Enumerable.Repeat(turn, 4000))}}]}"""));
        var tokenizer = Tokenizer(Unmarked);
        var clock = System.Diagnostics.Stopwatch.StartNew();
        var example = Assert.Single(data.Tokenize(tokenizer, new TokenizationOptions { MaxLength = 100 }).Examples);
        Assert.True(clock.Elapsed < TimeSpan.FromSeconds(20), $"It took {clock.Elapsed}.");
        Assert.Equal(100, example.InputIds.Length);
        var learnt = tokenizer.Decode([.. example.InputIds.Where((_, i) => example.Labels[i] != TrainingExample.Ignored)], skipSpecialTokens: false);
        Assert.StartsWith("Hello you<|end|>Hello you<|end|>", learnt, StringComparison.Ordinal);
        Assert.DoesNotContain("there", learnt, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("""["<|new|>"]""", "extra_special_tokens")]
    [InlineData("""{"image_token":"<|new|>"}""", "extra_special_tokens")]
    [InlineData("""[{"content":"<|new|>","special":true}]""", "additional_special_tokens")]
    public void Special_tokens_named_in_the_configuration_alone_are_tokens(string tokens, string key)
    {
        var before = Tokenizer(Unmarked);
        var path = _folder["tokenizer_config.json"];
        var json = JsonNode.Parse(File.ReadAllText(path))!;
        json[key] = JsonNode.Parse(tokens);
        File.WriteAllText(path, json.ToJsonString());
        var tokenizer = Peft.Tokenization.Tokenizer.FromFolder(_folder.Path);
        Assert.Null(before.TokenId("<|new|>"));
        Assert.Equal(4096, tokenizer.TokenId("<|new|>"));
        Assert.Equal([4096, .. before.EncodeIds("Hi")], tokenizer.EncodeIds("<|new|>Hi"));
        Assert.Equal("Hi", tokenizer.Decode(tokenizer.EncodeIds("<|new|>Hi"), skipSpecialTokens: true));
    }

    private string Learnt(string template, string row, LossTokens loss = LossTokens.Answer)
    {
        var data = TrainingDataset.FromFile(_folder.Write("rows.jsonl", row + "\n"), new DatasetOptions { Loss = loss });
        return Learnt(Tokenizer(template), data);
    }

    private static string Learnt(Tokenizer tokenizer, TrainingDataset data)
    {
        var example = Assert.Single(data.Tokenize(tokenizer).Examples);
        return tokenizer.Decode([.. example.InputIds.Where((_, i) => example.Labels[i] != TrainingExample.Ignored)], skipSpecialTokens: false);
    }

    private Tokenizer Tokenizer(string template, bool addsBeginning = false)
    {
        foreach (var file in Directory.GetFiles(PocketLlama.Folder, "tokenizer*"))
        {
            File.Copy(file, Path.Combine(_folder.Path, Path.GetFileName(file)), overwrite: true);
        }

        _folder.Write("chat_template.jinja", template);
        if (addsBeginning)
        {
            var json = JsonNode.Parse(File.ReadAllText(Path.Combine(_folder.Path, "tokenizer.json")))!;
            json["post_processor"] = JsonNode.Parse("""
                {"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<|endoftext|>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],"pair":[{"Sequence":{"id":"A","type_id":0}},{"Sequence":{"id":"B","type_id":1}}],
                 "special_tokens":{"<|endoftext|>":{"id":"<|endoftext|>","ids":[0],"tokens":["<|endoftext|>"]}}}
                """);
            _folder.Write("tokenizer.json", json.ToJsonString());
        }

        return Peft.Tokenization.Tokenizer.FromFolder(_folder.Path);
    }
}
