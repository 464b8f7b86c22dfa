using System.Management.Automation;
using System.Text.Json.Nodes;
using Peft.Adapters;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;

namespace Peft.Tests.PowerShell;

/// <summary>Invoke-LoraTraining, above all what becomes of the model and of older results when a training doesn't come to its end.</summary>
public sealed class TrainingCmdletTests(ModuleHost host) : CmdletsInFolder(host, import: "-DataType float32")
{
    private const string Data = "$data = @{ prompt = 'One two three'; completion = ' b' }, @{ prompt = 'Four five six'; completion = ' d' } | Import-TrainingDataset;";
    private const string Config = "(New-LoraConfig -TargetModule q_proj -Rank 2)";

    private string Adapter => Path.Combine(folder.FullName, "out", "default");

    [Fact]
    public void A_quiet_training_shows_neither_lines_nor_progress()
    {
        var result = host.Run("""
            $data = @{ prompt = 'a'; completion = ' b' } | Import-TrainingDataset
            $args[0] | Invoke-LoraTraining (New-LoraConfig -TargetModule q_proj) $data -AdapterName quiet -MaxSteps 1 -Quiet
            """, model);
        Assert.Empty(result.Errors);
        Assert.DoesNotContain(result.Progress, static record => record.Activity.Contains("quiet", StringComparison.Ordinal));
        Assert.DoesNotContain(result.Information, static record => record.Tags.Contains("PSHOST"));
    }

    [Fact]
    public void A_training_is_repeated_bit_for_bit_from_its_adapter_and_refused_with_other_data()
    {
        host.Output($"{Data} $args[0] | Invoke-LoraTraining (New-LoraConfig -TargetModule q_proj -Rank 4 -Dropout 0.1) $data -AdapterName first -MaxSteps 3 -Seed 7 -LearningRate 1e-2 -OutputPath out -Quiet", model);
        host.Output($"{Data} $args[0] | Invoke-LoraTraining -From out/first -Dataset $data -AdapterName again -OutputPath out -Quiet", model);
        var folder = Path.GetDirectoryName(Adapter)!;
        using var first = Peft.Tensors.TensorStore.OpenFolder(Path.Combine(folder, "first"), "adapter_model");
        using var again = Peft.Tensors.TensorStore.OpenFolder(Path.Combine(folder, "again"), "adapter_model");
        Assert.All(first.Names, name => Assert.True(first.Read(name).eq(again.Read(name)).all().item<bool>(), name));
        var card = File.ReadAllText(Path.Combine(folder, "first", "README.md"));
        Assert.Contains("library_name: peft", card, StringComparison.Ordinal);
        Assert.Contains("Invoke-LoraTraining -From", card, StringComparison.Ordinal);
        Assert.StartsWith("ProvenanceDiffers,", Assert.Single(host.Run("$args[0] | Invoke-LoraTraining -From out/first -Dataset (@{ prompt = 'a'; completion = ' b' } | Import-TrainingDataset) -AdapterName other -Quiet", model).Errors).FullyQualifiedErrorId, StringComparison.Ordinal);
        Assert.DoesNotContain("other", host.Output("$args[0].Adapters.Name", model).Select(static name => name.ToString()));
    }

    [Fact]
    public void A_failure_after_a_step_keeps_the_adapter_with_what_it_has_learnt()
    {
        // A folder stands where the trained adapter's file should come.
        Directory.CreateDirectory(Path.Combine(Adapter, "adapter_config.json"));
        var result = host.Run($"{Data} $args[0] | Invoke-LoraTraining {Config} $data -MaxSteps 2 -OutputPath out -Force", model);
        Assert.Single(result.Errors);
        Assert.Contains(result.Warnings, static warning => warning.Message.Contains("after step 2", StringComparison.Ordinal));
        Assert.Equal(2, host.Output("($args[0] | Get-PeftAdapter).TrainingRecord.StepCount", model)[0].BaseObject);
    }

    [Fact]
    public void Stopping_before_the_first_step_is_made_leaves_no_adapter()
    {
        using var shell = host.Create($"""
            $data = 'word ' * 1000 | ForEach-Object {"{ $_; $_; $_; $_; $_; $_; $_; $_ }"} | Import-TrainingDataset
            $args[0] | Invoke-LoraTraining {Config} $data
            """, model);
        using var began = new ManualResetEventSlim();
        shell.Streams.Information.DataAdded += (_, _) => began.Set();
        var invocation = shell.BeginInvoke();
        Assert.True(began.Wait(TimeSpan.FromSeconds(60)), "the training says that it begins");
        shell.Stop();
        Assert.Throws<PipelineStoppedException>(() => shell.EndInvoke(invocation));
        Assert.True(SpinWait.SpinUntil(() => host.Output("$args[0].Adapters.Count", model)[0].BaseObject is 0, TimeSpan.FromSeconds(30)));
    }

    [Theory]
    [InlineData("-EvaluationSplit 0.9", "EvaluationSplitTooLarge")]
    [InlineData("-MaxLength 2", "DatasetAllMasked")]
    [InlineData("-TargetModule nothing", "NoModuleMatched")]
    public void Force_keeps_the_old_adapter_until_the_training_begins(string argument, string errorId)
    {
        host.Output($"$args[0] | Add-PeftAdapter {Config} a; $args[0] | Add-PeftAdapter {Config} b; $args[0] | Set-ActiveAdapter a, b", model);
        var (config, option) = argument.StartsWith("-Target", StringComparison.Ordinal) ? ($"(New-LoraConfig {argument})", "") : (Config, argument);
        var result = host.Run($"{Data} $args[0] | Invoke-LoraTraining {config} $data -AdapterName a -Force {option}", model);
        Assert.StartsWith(errorId, Assert.Single(result.Errors).FullyQualifiedErrorId, StringComparison.Ordinal);
        Assert.Equal(["a", "b"], host.Output("$args[0].Adapters.Name", model).Select(static name => name.ToString()));
        Assert.Equal(["a", "b"], host.Output("$args[0].ActiveAdapters", model).Select(static name => name.ToString()));
        Assert.Single(host.Output("$args[0] | Invoke-TextGeneration 'A' -MaxNewTokens 1 -AdapterName a", model));
    }

    [Theory]
    [InlineData("-TargetModule q_proj, FAKE", "FAKE")]
    [InlineData("-TargetModule q_proj -ModulesToSave NOPE", "NOPE")]
    [InlineData("-TargetModule lm_head", "shares its weight")]
    public void What_adding_an_adapter_warns_of_training_warns_of_as_well(string config, string word)
    {
        var added = host.Run($"$args[0] | Add-PeftAdapter (New-LoraConfig {config}) probe; $args[0] | Remove-PeftAdapter probe", model);
        var trained = host.Run($"{Data} $args[0] | Invoke-LoraTraining (New-LoraConfig {config}) $data -MaxSteps 1", model);
        Assert.Contains(added.Warnings, warning => warning.Message.Contains(word, StringComparison.Ordinal));
        Assert.Contains(trained.Warnings, warning => warning.Message.Contains(word, StringComparison.Ordinal));
    }

    [Theory]
    [InlineData("$rows", "$plain")]
    [InlineData("$plain", "$rows")]
    public void A_token_without_a_row_in_the_embedding_is_refused_before_the_first_step(string data, string evaluation)
    {
        var copy = folder.CreateSubdirectory("copy");
        foreach (var file in Directory.GetFiles(PocketLlama))
        {
            File.Copy(file, Path.Combine(copy.FullName, Path.GetFileName(file)));
        }

        var path = Path.Combine(copy.FullName, "tokenizer.json");
        var tokenizer = JsonNode.Parse(File.ReadAllText(path))!;
        tokenizer["added_tokens"]!.AsArray().Add(new JsonObject { ["id"] = 4096, ["content"] = "<|new|>", ["special"] = true, ["normalized"] = false });
        File.WriteAllText(path, tokenizer.ToJsonString());
        var result = host.Run($$"""
            $plain = 'one two', 'three four' | Import-TrainingDataset
            $rows = 'one two', 'three <|new|>' | Import-TrainingDataset
            $changed = Import-PeftModel ./copy
            $changed | Invoke-LoraTraining {{Config}} {{data}} -EvaluationDataset {{evaluation}} -OutputPath out
            $changed.Adapters.Count
            $changed | Remove-PeftModel
            """);
        var error = Assert.Single(result.Errors);
        Assert.StartsWith("TokenOutOfRange", error.FullyQualifiedErrorId, StringComparison.Ordinal);
        Assert.Contains("line 2: the token '<|new|>' (4096)", error.Exception.Message, StringComparison.Ordinal);
        Assert.Equal(0, result.Output[^1].BaseObject);
        Assert.False(Directory.Exists(Path.Combine(folder.FullName, "out")));
    }

    [Fact]
    public void An_adapter_of_the_pipeline_is_trained_on_the_data_set_that_stands_first()
    {
        var trained = host.Output($"{Data} $args[0] | Add-PeftAdapter {Config} a | Invoke-LoraTraining $data -MaxSteps 1", model);
        Assert.Equal("a", Assert.Single(trained).Properties["Name"].Value);
    }

    [Fact]
    public void Options_that_are_no_parameters_come_in_a_table()
    {
        // Cosine to a least rate of 1e-5 in two steps: the second is half way, (2e-4 + 1e-5) / 2.
        var rates = host.Output($$"""
            {{Data}} ($args[0] | Invoke-LoraTraining {{Config}} $data -MaxSteps 2 -Schedule cosine_with_min_lr -Options @{ lr_scheduler_kwargs = @{ min_lr = 1e-5 } }).TrainingRecord.Steps.LearningRate
            """, model);
        Assert.Equal([2e-4, 1.05e-4], rates.Select(static rate => (double)rate.BaseObject), (expected, actual) => Math.Abs(expected - actual) < 1e-12);
        Assert.Contains("learning_rate", Assert.Single(host.Run($"{Data} $args[0] | Invoke-LoraTraining {Config} $data -Options @{{ learning_rate = 'x' }}", model).Errors).Exception.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_file_in_place_of_the_output_folder_is_named()
    {
        File.WriteAllText(Path.Combine(folder.FullName, "file"), "");
        var error = Assert.Single(host.Run($"{Data} $args[0] | Invoke-LoraTraining {Config} $data -OutputPath file", model).Errors);
        Assert.StartsWith("FileWriteFailed,", error.FullyQualifiedErrorId, StringComparison.Ordinal);
        Assert.Equal(0, host.Output("$args[0].Adapters.Count", model)[0].BaseObject);
    }

    [Fact]
    public void Cutting_many_rows_into_tokens_shows_progress()
    {
        var result = host.Run($"$data = 1..1500 | ForEach-Object {{ \"text $_\" }} | Import-TrainingDataset; $args[0] | Invoke-LoraTraining {Config} $data -MaxSteps 1", model);
        Assert.Empty(result.Errors);
        Assert.Contains(result.Progress, static record => record.Activity == "Cutting the data set into tokens" && record.StatusDescription == "1,000 of 1,500 rows");
    }

    [Fact]
    public void Force_replaces_an_adapter_and_activates_the_new_one()
    {
        host.Output($"$args[0] | Add-PeftAdapter {Config} a", model);
        var after = host.Output($"{Data} $old = $args[0] | Get-PeftAdapter a; $new = $args[0] | Invoke-LoraTraining {Config} $data -AdapterName A -Force -MaxSteps 1; [object]::ReferenceEquals($old, $new); $new.Name; $new.IsActive; $args[0].Adapters.Count", model);
        Assert.Equal([false, "a", true, 1], after.Select(static value => value.BaseObject));
    }

    [Theory]
    [InlineData(Config + " -AdapterName a -Force")]
    [InlineData("-AdapterName a")]
    public void A_merged_model_is_not_trained_and_stays_merged(string arguments)
    {
        host.Output($"$null = $args[0] | Add-PeftAdapter {Config} a | Merge-LoraAdapter", model);
        var result = host.Run($"{Data} $args[0] | Invoke-LoraTraining -Dataset $data {arguments.Replace(Config, "-Config " + Config, StringComparison.Ordinal)}", model);
        Assert.StartsWith("ModelIsMerged,", Assert.Single(result.Errors).FullyQualifiedErrorId, StringComparison.Ordinal);
        Assert.Equal(true, host.Output("$args[0].IsMerged", model)[0].BaseObject);
    }

    [Fact]
    public void Resuming_needs_an_output_path()
    {
        var error = Assert.Single(host.Run($"{Data} $args[0] | Invoke-LoraTraining {Config} $data -Resume", model).Errors);
        Assert.StartsWith("ParametersContradict,", error.FullyQualifiedErrorId, StringComparison.Ordinal);
    }

    [Fact]
    public void A_training_goes_on_from_its_checkpoint_with_the_options_of_its_file()
    {
        host.Output($"{Data} $args[0] | Invoke-LoraTraining {Config} $data -MaxSteps 2 -LearningRate 0.01 -output_dir out; $args[0] | Remove-PeftAdapter -AdapterName default", model);
        var result = host.Run($"{Data} ($args[0] | Invoke-LoraTraining {Config} $data -Options ./out/default -OutputPath out -Resume).TrainingRecord", model);
        Assert.Empty(result.Errors);
        Assert.Equal(2, result.Output[0].Properties["ResumedFrom"].Value);

        var changed = host.Run($"{Data} $args[0] | Invoke-LoraTraining {Config} $data -Options ./out/default/training_options.json -LearningRate 0.1 -OutputPath out -Resume", model);
        Assert.StartsWith("ResumeOptionsChanged,", Assert.Single(changed.Errors).FullyQualifiedErrorId, StringComparison.Ordinal);
    }

    [Fact]
    public void A_name_given_for_an_adapter_object_is_not_taken_for_a_models()
    {
        var error = Assert.Single(host.Run("Export-PeftAdapter ./x -Adapter capitals").Errors);
        Assert.DoesNotContain("No model named", error.Exception.Message, StringComparison.Ordinal);
    }
}
