using System.Management.Automation;
using System.Text;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Cmdlets.Commands.Text;

namespace Peft.Tests.PowerShell;

/// <summary>Cmdlets that take texts: from the pipeline, as files and as messages.</summary>
public sealed class TextCmdletTests(ModuleHost host) : CmdletsInFolder(host, import: "-DataType float32")
{
    [Theory]
    [InlineData("[IO.FileInfo]::new($args[1]) | ConvertTo-ModelToken -Model $args[0]")]
    [InlineData("$args[0] | ConvertTo-ModelToken -Path *.txt")]
    [InlineData("$args[0] | ConvertTo-ModelToken -LiteralPath $args[1]")]
    [InlineData("[pscustomobject]@{ Text = 'Hello world' } | ConvertTo-ModelToken -Model $args[0]")]
    public void A_file_is_cut_into_tokens_by_its_content(string command)
    {
        var tokens = host.Output(command, model, File("a.txt", "Hello world", Encoding.Unicode));
        Assert.Equal("Hello world", string.Concat(tokens.Select(static token => token.Properties["Text"].Value)));
    }

    [Fact]
    public void Messages_are_cut_into_the_tokens_of_their_conversation()
    {
        var rendered = host.Output("@{ role = 'user'; content = 'Hi' }, [pscustomobject]@{ role = 'assistant'; content = 'Yes' } | ConvertTo-ChatPrompt -Model $args[0]", ModelWithTemplate())[0].ToString();
        var tokens = host.Output("@{ role = 'user'; content = 'Hi' }, [pscustomobject]@{ role = 'assistant'; content = 'Yes' } | ConvertTo-ModelToken -Model $args[0]", ModelWithTemplate());
        Assert.Equal(rendered, string.Concat(tokens.Select(static token => token.Properties["Text"].Value)));
    }

    [Fact]
    public void A_message_keeps_all_its_fields()
    {
        var rendered = host.Output("""
            @{ role = 'user'; content = @(@{ type = 'text'; text = 'part' }); name = 'Ann' } | ConvertTo-ChatPrompt -Model $args[0] -NoGenerationPrompt
            """, ModelWithTemplate())[0].ToString();
        Assert.Equal("<user:Ann>part", rendered);
    }

    [Fact]
    public void Conversations_of_several_models_are_kept_apart()
    {
        var other = ModelWithTemplate();
        var prompts = host.Output("$args[0], $args[1] | ConvertTo-ChatPrompt 'Hi'", ModelWithTemplate(), other);
        Assert.Equal(2, prompts.Count);
        Assert.Equal(prompts[0].ToString(), prompts[1].ToString());
        Assert.Equal(2, host.Output("$args[0], $args[1] | ConvertFrom-ModelToken 400, 401", model, other).Count);
    }

    [Fact]
    public void A_chat_prompt_is_made_of_a_file() =>
        Assert.Contains("<user:>Hello", host.Output("$args[0] | ConvertTo-ChatPrompt -LiteralPath $args[1]", ModelWithTemplate(), File("a.txt", "Hello"))[0].ToString(), StringComparison.Ordinal);

    [Fact]
    public void Perplexity_is_that_of_the_files_content_however_the_file_is_given()
    {
        var path = File("p[1].txt", "Once upon a time there was a whale", Encoding.Unicode);
        var measured = host.Output("""
            $args[0] | Measure-Perplexity 'Once upon a time there was a whale'
            $args[0] | Measure-Perplexity -LiteralPath $args[1]
            $args[0] | Measure-Perplexity -Path p*.txt
            [IO.FileInfo]::new($args[1]) | Measure-Perplexity -Model $args[0]
            """, model, path);
        Assert.Equal(4, measured.Count);
        Assert.Single(measured.Select(static result => result.Properties["Value"].Value).Distinct());
        Assert.StartsWith("TextMissing,", Assert.Single(host.Run("$args[0] | Measure-Perplexity", model).Errors).FullyQualifiedErrorId, StringComparison.Ordinal);
    }

    [Fact]
    public void A_text_beyond_the_length_that_the_model_was_made_for_is_warned_about()
    {
        // 513 tokens of a model for 512; two shorter ones are in order.
        var result = host.Run("$args[0] | Invoke-TextGeneration $args[1] -MaxNewTokens 1", model, string.Concat(Enumerable.Repeat(" the", 512)));
        Assert.Contains("512", Assert.Single(result.Warnings).Message, StringComparison.Ordinal);
        Assert.Single(result.Output);
        Assert.Empty(host.Run("$args[0] | Invoke-TextGeneration 'a', 'b' -MaxNewTokens 1", model).Warnings);
    }

    [Fact]
    public void Prompts_of_the_pipeline_are_continued_together()
    {
        var result = host.Run("'The whale', '', 'Call me' | Invoke-TextGeneration -Model $args[0] -MaxNewTokens 3 -BatchSize 3", model);
        Assert.Empty(result.Errors);
        Assert.Equal(["The whale", "", "Call me"], result.Output.Select(static item => item.Properties["Prompt"].Value));
        Assert.Single(result.Progress, static record => record.RecordType == ProgressRecordType.Completed);
        Assert.Contains(result.Progress, static record => record.SecondsRemaining >= 0);
        Assert.Equal(3, host.Run("'a', 'b', 'c' | Invoke-TextGeneration -Model $args[0] -MaxNewTokens 1 -BatchSize 1", model).Progress.Count(static record => record.RecordType == ProgressRecordType.Completed));
    }

    [Fact]
    public void Each_adapter_of_the_pipeline_continues_its_own_prompt()
    {
        host.Output("'a', 'b' | . { process { $m | Add-PeftAdapter (New-LoraConfig -TargetModule all-linear -Initialization false) $_ -Seed $_.Length } begin { $m = $args[0] } } $args[0]", model);
        var texts = host.Output("$args[0] | Get-PeftAdapter | Invoke-TextGeneration 'The whale' -MaxNewTokens 4; $args[0] | Invoke-TextGeneration 'The whale' -MaxNewTokens 4 -AdapterName A", model);
        Assert.Equal(3, texts.Count);
        Assert.Equal(texts[0].ToString(), texts[2].ToString());
    }

    [Theory]
    [InlineData("Invoke-TextGeneration 'x' -MaxNewTokens 1 -AdapterName BASE")]
    [InlineData("Invoke-TextGeneration 'x' -MaxNewTokens 1 -AdapterName CAP*")]
    [InlineData("Measure-Perplexity 'one two' -AdapterName Base")]
    [InlineData("Measure-Perplexity 'one two' -AdapterName capitals")]
    [InlineData("Compare-ModelOutput 'x' Base, capitals -MaxNewTokens 1")]
    [InlineData("Compare-ModelOutput '' -MaxNewTokens 1")]
    [InlineData("Set-ActiveAdapter Cap*")]
    public void Names_are_found_whatever_their_case(string command)
    {
        host.Output("$args[0] | Add-PeftAdapter (New-LoraConfig -TargetModule q_proj) Capitals", model);
        host.Output("$args[0] | " + command, model);
    }

    [Theory]
    [InlineData("Invoke-TextGeneration 'x' -AdapterName no*", "AdapterNotFound")]
    [InlineData("Invoke-TextGeneration 'x' -SystemMessage 'y'", "ParametersContradict")]
    [InlineData("ConvertTo-ChatPrompt 42", "ChatMessageInvalid")]
    [InlineData("Invoke-TextGeneration 'x' -TopP 7", "GenerationOptionInvalid")]
    public void What_cannot_be_is_an_error_with_a_way_out(string command, string id)
    {
        var error = Assert.Single(host.Run("$args[0] | " + command, model).Errors);
        Assert.StartsWith(id + ",", error.FullyQualifiedErrorId, StringComparison.Ordinal);
        Assert.NotEmpty(error.ErrorDetails.RecommendedAction);
    }

    [Fact]
    public void Outputs_of_a_merged_model_are_not_compared()
    {
        host.Output("$args[0] | Add-PeftAdapter (New-LoraConfig -TargetModule q_proj -Initialization false) a | Merge-LoraAdapter", model);
        Assert.StartsWith("ModelIsMerged,", Assert.Single(host.Run("$args[0] | Compare-ModelOutput 'x' -MaxNewTokens 1", model).Errors).FullyQualifiedErrorId, StringComparison.Ordinal);
    }

    [Fact]
    public void A_comparison_shows_its_progress() =>
        Assert.Contains(host.Run("$args[0] | Compare-ModelOutput 'x' base -MaxNewTokens 2", model).Progress, static record => record.PercentComplete == 100);

    /// <summary>The embedded model, with a template that shows a message's fields.</summary>
    [Fact]
    public void A_conversation_that_ends_with_the_assistant_is_gone_on_with_or_it_is_said_that_it_is_not()
    {
        const string Conversation = "@{ role = 'user'; content = 'Hi' }, @{ role = 'assistant'; content = 'The sky is' }";
        var chat = ModelWithTemplate();
        Assert.Equal("<user:>Hi<assistant:>The sky is", host.Output($"{Conversation} | ConvertTo-ChatPrompt -Model $args[0] -ContinueFinalMessage", chat)[0].ToString());
        Assert.Contains("-ContinueFinalMessage", Assert.Single(host.Run($"$args[0] | Invoke-TextGeneration -Message {Conversation} -MaxNewTokens 1", model).Warnings).Message, StringComparison.Ordinal);
        Assert.Empty(host.Run($"$args[0] | Invoke-TextGeneration -Message {Conversation} -MaxNewTokens 1 -ContinueFinalMessage:$false", model).Warnings);

        var answer = host.Run($"$args[0] | Invoke-TextGeneration -Message {Conversation} -MaxNewTokens 4 -ContinueFinalMessage", model);
        var plain = host.Output($"$text = {Conversation} | ConvertTo-ChatPrompt -Model $args[0] -ContinueFinalMessage; $args[0] | Invoke-TextGeneration $text -MaxNewTokens 4", model);
        Assert.Empty(answer.Warnings);
        Assert.Equal(plain[0].Properties["Text"].Value, answer.Output[0].Properties["Text"].Value);
        Assert.Equal("ParametersContradict", Assert.Single(host.Run("$args[0] | Invoke-TextGeneration 'A' -ContinueFinalMessage", model).Errors).FullyQualifiedErrorId.Split(',')[0]);
    }

    [Theory]
    [InlineData(-5)]
    [InlineData(99999)]
    public void An_id_outside_the_vocabulary_is_an_error_that_names_both(int id)
    {
        var error = Assert.Single(host.Run($"$args[0] | ConvertFrom-ModelToken 400, {id}", model).Errors);
        Assert.Equal("TokenIdOutOfRange", error.FullyQualifiedErrorId.Split(',')[0]);
        Assert.Contains($"{id}", error.Exception.Message, StringComparison.Ordinal);
        Assert.Contains("4096", error.Exception.Message, StringComparison.Ordinal);
    }

    private object ModelWithTemplate()
    {
        var copy = folder.CreateSubdirectory("chat");
        foreach (var file in Directory.EnumerateFiles(Path.Combine(ModuleHost.Root, "assets", "pocket-llama")).Where(static file => Path.GetExtension(file) is ".json"))
        {
            System.IO.File.Copy(file, Path.Combine(copy.FullName, Path.GetFileName(file)), overwrite: true);
        }

        System.IO.File.WriteAllText(
            Path.Combine(copy.FullName, "chat_template.jinja"),
            "{% for m in messages %}<{{ m.role }}:{{ m.name }}>{{ m.content if m.content is string else m.content[0].text }}{% endfor %}");
        return host.Output("Import-PeftModel $args[0] -StructureOnly", copy.FullName)[0];
    }

    private string File(string name, string text, Encoding? encoding = null)
    {
        var path = Path.Combine(folder.FullName, name);
        System.IO.File.WriteAllText(path, text, encoding ?? new UTF8Encoding(false));
        return path;
    }
}
