using System.Diagnostics;
using System.Globalization;
using System.Management.Automation;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Cmdlets.Commands.Model;
using Peft.Cmdlets.Commands.Text;

namespace Peft.Tests.PowerShell;

/// <summary>What a user does with the cmdlets, on the embedded model.</summary>
public sealed class CmdletTests(ModuleHost host) : CmdletsInFolder(host, import: "-DataType float32")
{
    [Fact]
    public void A_config_can_be_splatted_in_Hugging_Face_spelling()
    {
        var config = host.Output("""
            $lora = @{ r = 4; lora_alpha = 16; lora_dropout = 0.05; target_modules = 'q_proj', 'v_proj'; bias = 'none'; task_type = 'CAUSAL_LM'; use_rslora = $true; init_lora_weights = $true }
            New-LoraConfig @lora
            """)[0];
        Assert.Equal(4, config.Properties["Rank"].Value);
        Assert.Equal(16.0, config.Properties["Alpha"].Value);
        Assert.Equal(true, config.Properties["UseRslora"].Value);
        Assert.Equal("q_proj, v_proj", config.Properties["TargetModules"].Value.ToString());
    }

    [Fact]
    public void A_config_takes_every_argument_that_PEFT_takes_but_no_variant_without_code()
    {
        var config = host.Output("""
            $lora = @{ r = 4; inference_mode = $false; use_dora = $false; layer_replication = $null; loftq_config = @{}; peft_type = 'LORA'; revision = 'main'; qalora_group_size = 16 }
            New-LoraConfig @lora
            """)[0];
        Assert.Equal("main", config.Properties["Revision"].Value);
        Assert.Equal("", config.Properties["UnknownKeys"].Value is IEnumerable<string> keys ? string.Join(' ', keys) : null);
        Assert.StartsWith("LoraVariantNotSupported,", Assert.Single(host.Run("New-LoraConfig -megatron_config @{ hidden_size = 8 }").Errors).FullyQualifiedErrorId, StringComparison.Ordinal);
    }

    [Fact]
    public void Words_of_a_config_are_taken_in_any_case()
    {
        var config = host.Output("New-LoraConfig -Bias All -TaskType causal_lm; New-LoraConfig -Bias Lora_Only");
        Assert.Equal(["All", "Adapted"], config.Select(static value => value.Properties["Bias"].Value.ToString()));
        Assert.Equal("CAUSAL_LM", config[0].Properties["TaskType"].Value);
    }

    [Fact]
    public void Modules_are_summed_up_and_counted()
    {
        var linear = host.Output("$args[0] | Get-ModelModule -Kind Linear -Summary | ForEach-Object Name", model).Select(static name => name.ToString());
        Assert.Contains("q_proj", linear);
        var first = host.Output("$args[0] | Get-ModelModule *.layers.0.self_attn.q_proj", model);
        Assert.Equal("Linear", Assert.Single(first).Properties["Kind"].Value);

        host.Output("$args[0] | Add-PeftAdapter (New-LoraConfig -TargetModule q_proj -Rank 2) a", model);
        Assert.Matches(@"^trainable params: [\d,]+ \|\| all params: [\d,]+ \|\| trainable%: \d+\.\d{4}$", host.Output("$args[0] | Measure-ModelParameter", model)[0].ToString());
    }

    [Fact]
    public void Adapters_come_down_the_pipeline_and_go_to_files_relative_to_PWD()
    {
        host.Output("$args[0] | Add-PeftAdapter (New-LoraConfig -TargetModule all-linear -Rank 2) a -Seed 1 | Export-PeftAdapter ./saved", model);
        Assert.True(File.Exists(Path.Combine(folder.FullName, "saved", "adapter_config.json")));

        var active = host.Output("$args[0] | Import-PeftAdapter ./sav* -AdapterName again | Set-ActiveAdapter -PassThru", model);
        Assert.Equal("again", Assert.Single(active).Properties["Name"].Value);
        Assert.Equal("AdapterExists,Peft.Cmdlets.Commands.Adapter.ImportPeftAdapterCommand", host.Run("$args[0] | Import-PeftAdapter ./saved again", model).Errors[0].FullyQualifiedErrorId);
        Assert.Equal("OutputExists,Peft.Cmdlets.Commands.Adapter.ExportPeftAdapterCommand", host.Run("$args[0] | Export-PeftAdapter ./saved -AdapterName again", model).Errors[0].FullyQualifiedErrorId);
        Assert.Equal(["a", "again"], host.Output("($args[0] | Get-PeftAdapter).Name", model).Select(static name => name.ToString()));
    }

    [Fact]
    public void Merging_puts_out_the_same_model_and_is_undone()
    {
        host.Output("$args[0] | Add-PeftAdapter (New-LoraConfig -TargetModule q_proj -Initialization false) a -Seed 1", model);
        Assert.Equal(true, host.Output("$m = $args[0]; $n = $m | Get-PeftAdapter a | Merge-LoraAdapter; [object]::ReferenceEquals($m, $n) -and $m.IsMerged", model)[0].BaseObject);
        Assert.Equal(false, host.Output("($args[0] | Undo-LoraMerge).IsMerged", model)[0].BaseObject);
        Assert.Equal(0, host.Output("$m = $args[0] | Merge-LoraAdapter -Unload; $m.Adapters.Count", model)[0].BaseObject);
    }

    [Fact]
    public void WhatIf_changes_nothing()
    {
        var config = "(New-LoraConfig -TargetModule q_proj)";
        host.Output($"$args[0] | Add-PeftAdapter {config} -WhatIf", model);
        Assert.Empty(host.Output("$args[0] | Get-PeftAdapter", model));
        host.Output("$args[0] | Export-PeftModel ./never -WhatIf", model);
        Assert.False(Directory.Exists(Path.Combine(folder.FullName, "never")));
        host.Output("$args[0] | Remove-PeftModel -WhatIf", model);
        Assert.Equal(false, host.Output("$args[0].IsStructureOnly", model)[0].BaseObject);
    }

    [Fact]
    public void Every_cmdlet_that_changes_something_asks()
    {
        string[] reading = ["Get", "Measure", "New", "ConvertTo", "ConvertFrom", "Show", "Compare", "Split", "Select"];
        string[] loading = ["Import-TrainingDataset", "Join-TrainingDataset", "Invoke-TextGeneration", "Invoke-ImageGeneration", "Enter-PeftChat"];
        foreach (var cmdlet in host.Output("(Get-Module Peft).ExportedCmdlets.Values").Select(static item => (CmdletInfo)item.BaseObject))
        {
            Assert.True(reading.Contains(cmdlet.Verb) || loading.Contains(cmdlet.Name) || cmdlet.Parameters.ContainsKey("WhatIf"), cmdlet.Name);
        }
    }

    [Fact]
    public void Names_complete_from_the_model_in_the_pipeline()
    {
        host.Output("$global:completed = $args[0]; $completed | Add-PeftAdapter (New-LoraConfig -TargetModule q_proj) capitals", model);
        Assert.Contains("capitals", host.Complete("$completed | Set-ActiveAdapter -AdapterName "));
        Assert.Contains("base", host.Complete("$completed | Invoke-TextGeneration 'x' -AdapterName "));
        Assert.Contains("q_proj", host.Complete("New-LoraConfig -TargetModule q"));
        Assert.Contains("all-linear", host.Complete("New-LoraConfig -TargetModule "));
        Assert.Contains("Linear", host.Complete("$completed | Get-ModelModule -Kind "));
        Assert.Contains("cosine", host.Complete("$completed | Invoke-LoraTraining -Schedule cos"));
        Assert.Contains("pocket-llama", host.Complete("Get-PeftModel "));
        Assert.Contains("cpu", host.Complete("Import-PeftModel x -Device "));
        Assert.Contains("pissa", host.Complete("New-LoraConfig -Initialization "));
    }

    [Theory]
    [InlineData("$chosen | Invoke-LoraTraining -BestMetric ", "loss", "accuracy")]
    [InlineData("$chosen | Invoke-PreferenceTraining -BestMetric re", "rewards/margins", "rewards/accuracies")]
    [InlineData("New-QuantizationConfig -QuantStorage ", "uint8", "bfloat16")]
    [InlineData("Import-PeftModel x -DeviceMap ", "auto", "disk")]
    [InlineData("Import-TrainingDataset x -Split ", "train", "test")]
    [InlineData("$rows | Split-TrainingDataset -Column ", "topic", "label")]
    [InlineData("Split-TrainingDataset 0.5 -Dataset $rows -GroupColumn ", "topic", "label")]
    [InlineData("$chosen | Measure-TextAnswer -Dataset $rows -ChoiceColumn ", "topic", "label")]
    [InlineData("New-LoraConfig -LayersPattern ", "layers")]
    [InlineData("New-LoraConfig -TargetParameter q", "q_proj.weight")]
    public void Values_complete_where_they_are_known(string line, params string[] offered)
    {
        host.Output("$global:chosen = $args[0]; $global:rows = @{ text = 'a'; label = 'x'; topic = '1' } | Import-TrainingDataset", model);
        Assert.All(offered, value => Assert.Contains(value, host.Complete(line)));
    }

    [Fact]
    public void Settings_of_a_configuration_are_one_line() =>
        Assert.Equal("feedforward_modules=[\"down_proj\"], init_ia3_weights=true", host.Output("(New-PeftConfig IA3 down_proj -FeedforwardModule down_proj).Settings")[0].ToString());

    [Fact]
    public void Training_writes_the_adapter_and_shows_what_is_learnt()
    {
        var result = host.Run("""
            $data = @{ prompt = 'A'; completion = ' b' }, [pscustomobject]@{ prompt = 'C'; completion = ' d' } | Import-TrainingDataset
            $adapter = $args[0] | Invoke-LoraTraining (New-LoraConfig -TargetModule q_proj -Rank 2) $data -AdapterName tiny -Epoch 2 -BatchSize 1 -OutputPath ./out
            $adapter; $adapter.TrainingRecord.StepCount; $adapter.TrainingRecord.FinalLoss -gt 0
            """, model);
        Assert.Empty(result.Errors);
        Assert.Equal("tiny", result.Output[0].Properties["Name"].Value);
        Assert.Equal(4, result.Output[1].BaseObject);
        Assert.Equal(true, result.Output[2].BaseObject);
        Assert.Contains(result.Information, static line => line.MessageData.ToString()!.Contains("learn |", StringComparison.Ordinal));
        Assert.NotEmpty(result.Progress);
        Assert.True(File.Exists(Path.Combine(folder.FullName, "out", "tiny", "adapter_model.safetensors")));

        var again = host.Run("$args[0] | Invoke-LoraTraining (New-LoraConfig) ('x' | Import-TrainingDataset) -AdapterName tiny", model);
        Assert.Equal("AdapterExists,Peft.Cmdlets.Commands.Training.InvokeLoraTrainingCommand", again.Errors[0].FullyQualifiedErrorId);
    }

    [Fact]
    public void A_training_that_cannot_begin_leaves_the_model_as_it_was()
    {
        var result = host.Run("""
            $data = @{ prompt = 'A'; completion = ' b' } | Import-TrainingDataset
            [IO.Directory]::CreateDirectory([IO.Path]::Combine($PWD, 'full/x/y'))
            $args[0] | Invoke-LoraTraining (New-LoraConfig -TargetModule q_proj) $data -AdapterName x -OutputPath ./full
            """, model);
        Assert.Equal("OutputExists,Peft.Cmdlets.Commands.Training.InvokeLoraTrainingCommand", Assert.Single(result.Errors).FullyQualifiedErrorId);
        Assert.Empty(host.Output("$args[0] | Get-PeftAdapter", model));
    }

    [Fact]
    public void Stopping_a_training_gives_the_prompt_back_within_two_seconds_and_leaves_the_model_usable()
    {
        using var shell = EndlessTraining();
        var invocation = BeginSteps(shell);

        var clock = Stopwatch.StartNew();
        shell.Stop();
        Assert.True(clock.Elapsed < TimeSpan.FromSeconds(2), clock.Elapsed.ToString());
        Assert.Throws<PipelineStoppedException>(() => shell.EndInvoke(invocation));

        // Where the machine is busy the last native call may end a moment later than the prompt is back.
        Assert.True(
            SpinWait.SpinUntil(() => host.Run("$args[0] | Remove-PeftAdapter -AdapterName endless", model).Errors.Count == 0, TimeSpan.FromSeconds(30)),
            "the adapter stays in the model with the steps it made");
        Assert.Single(host.Output("$args[0] | Invoke-TextGeneration 'A' -MaxNewTokens 1", model));
    }

    [Fact]
    public void Text_is_generated_streamed_and_compared_without_switching()
    {
        host.Output("$args[0] | Add-PeftAdapter (New-LoraConfig -TargetModule all-linear -Initialization false) a -Seed 1", model);
        var whole = host.Output("$args[0] | Invoke-TextGeneration 'Once upon' -MaxNewTokens 6 -AdapterName base", model)[0];
        var pieces = host.Output("$args[0] | Invoke-TextGeneration 'Once upon' -MaxNewTokens 6 -AdapterName base -Stream", model);
        Assert.Equal(whole.ToString(), string.Concat(pieces.Select(static piece => piece.ToString())));

        var compared = host.Output("$args[0] | Compare-ModelOutput 'Once upon' base, a -MaxNewTokens 3", model);
        Assert.Equal(["base", "a"], compared.Select(static row => row.Properties["AdapterName"].Value));
        Assert.True((double)compared[1].Properties["LargestDifference"].Value > 0);
        Assert.Equal("a", host.Output("$args[0].ActiveAdapters", model)[0].ToString());
        Assert.True((double)host.Output("$args[0] | Measure-Perplexity 'Once upon a time' -AdapterName base", model)[0].Properties["Value"].Value > 1);
    }

    [Fact]
    public void Runspaces_take_a_model_in_turn()
    {
        var texts = host.Output("""
            $model, $manifest = $args
            1..6 | ForEach-Object -ThrottleLimit 3 -Parallel {
                Import-Module $using:manifest
                $adapter = $using:model | Add-PeftAdapter (New-LoraConfig -Rank 2 -TargetModule q_proj) "turn$_"
                ($adapter | Invoke-TextGeneration 'Once upon' -MaxNewTokens 4).Text
            }
            """, model, ModuleHost.ManifestPath);
        Assert.Equal(6, texts.Count);
        Assert.Single(texts.Select(static text => text.ToString()).Distinct());
    }

    [Fact]
    public void A_runspace_that_waits_says_for_what_and_can_be_stopped()
    {
        using var other = new ModuleHost();
        using var held = EndlessTraining();
        using var waiting = other.Create("$args[0] | Invoke-TextGeneration 'x' -MaxNewTokens 1", model);
        var holding = BeginSteps(held);
        try
        {
            var wait = waiting.BeginInvoke();
            SpinWait.SpinUntil(() => waiting.Streams.Progress.Count > 0, TimeSpan.FromSeconds(60));
            Assert.Contains("busy with training", waiting.Streams.Progress[0].StatusDescription, StringComparison.Ordinal);
            var stop = Stopwatch.StartNew();
            waiting.Stop();
            Assert.True(stop.Elapsed < TimeSpan.FromSeconds(2), stop.Elapsed.ToString());
            Assert.True(wait.IsCompleted);
        }
        finally
        {
            held.Stop();
        }

        Assert.Single(host.Output("$args[0] | Invoke-TextGeneration 'x' -MaxNewTokens 1", model));
        Assert.True(holding.IsCompleted);
    }

    [Fact]
    public void A_second_operation_on_a_busy_model_is_an_error_not_a_wait()
    {
        var result = host.Run("$m = $args[0]; $m | Invoke-TextGeneration 'Once upon' -MaxNewTokens 200 -Stream | ForEach-Object { $m | Invoke-TextGeneration 'x' }", model);
        Assert.Contains(result.Errors, static error => error.FullyQualifiedErrorId.StartsWith("PeftModelBusy,", StringComparison.Ordinal));
    }

    [Fact]
    public void Tokens_go_there_and_back()
    {
        Assert.Equal("Hello world", host.Output("$args[0] | ConvertTo-ModelToken 'Hello world' -IdOnly | ConvertFrom-ModelToken -Model $args[0]", model)[0].BaseObject);
        var tokens = host.Output("$args[0] | ConvertTo-ModelToken 'Hello world'", model);
        Assert.Equal("Hello world", string.Concat(tokens.Select(static token => token.Properties["Text"].Value)));
    }

    [Fact]
    public void A_copy_from_another_process_is_named_as_such()
    {
        var copy = PSSerializer.Deserialize(PSSerializer.Serialize(model, depth: 1));
        var error = Assert.Single(host.Run("Measure-ModelParameter -Model $args[0]", copy).Errors);
        Assert.Contains("ModelDeserialized", error.Exception.Message, StringComparison.Ordinal);
        var piped = host.Run("$args[0] | Measure-ModelParameter", copy).Errors;
        Assert.Contains("ModelDeserialized", Assert.Single(piped).Exception.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("ja-JP")]
    [InlineData("tr-TR")]
    public void Files_and_figures_are_the_same_in_every_culture(string culture)
    {
        var before = CultureInfo.CurrentCulture;
        try
        {
            CultureInfo.CurrentCulture = CultureInfo.GetCultureInfo(culture);
            host.Output("[System.Threading.Thread]::CurrentThread.CurrentCulture = $args[1]; $args[0] | Add-PeftAdapter (New-LoraConfig -TargetModule q_proj -Dropout 0.25 -Alpha 0.5) i | Export-PeftAdapter ./culture", model, CultureInfo.CurrentCulture);
            var text = File.ReadAllText(Path.Combine(folder.FullName, "culture", "adapter_config.json"));
            Assert.Contains("0.25", text, StringComparison.Ordinal);
            Assert.Contains("\"LORA\"", text, StringComparison.Ordinal);
            Assert.Matches(@"trainable%: \d+\.\d{4}$", host.Output("$args[0] | Measure-ModelParameter", model)[0].ToString());
        }
        finally
        {
            CultureInfo.CurrentCulture = before;
        }
    }

    [Fact]
    public void Bad_rows_say_file_line_and_field()
    {
        File.WriteAllText(Path.Combine(folder.FullName, "bad.jsonl"), "{\"prompt\":\"a\",\"completion\":\"b\"}\n{\"prompt\":\"c\",\"completion\":null}\n");
        var error = Assert.Single(host.Run("Import-TrainingDataset ./bad.jsonl").Errors);
        Assert.StartsWith("DatasetRowInvalid,", error.FullyQualifiedErrorId, StringComparison.Ordinal);
        Assert.Contains("bad.jsonl, line 2, field 'completion'", error.Exception.Message, StringComparison.Ordinal);
    }

    /// <summary>A training, not begun, that ends only when it is stopped.</summary>
    private System.Management.Automation.PowerShell EndlessTraining() => host.Create("""
        $data = @{ prompt = 'A'; completion = ' b' } | Import-TrainingDataset
        $args[0] | Invoke-LoraTraining (New-LoraConfig -TargetModule q_proj) $data -AdapterName endless -MaxSteps 1000000
        """, model);

    /// <summary>Begins a training and returns when it has made a step.</summary>
    private static IAsyncResult BeginSteps(System.Management.Automation.PowerShell training)
    {
        using var stepped = new ManualResetEventSlim();
        void Look(object? sender, DataAddedEventArgs added)
        {
            if (training.Streams.Progress[added.Index].StatusDescription.StartsWith("step", StringComparison.Ordinal))
            {
                stepped.Set();
            }
        }

        training.Streams.Progress.DataAdded += Look;
        var invocation = training.BeginInvoke();
        var hasStepped = stepped.Wait(TimeSpan.FromSeconds(60));
        training.Streams.Progress.DataAdded -= Look;
        Assert.True(hasStepped, "the training shows steps");
        return invocation;
    }
}
