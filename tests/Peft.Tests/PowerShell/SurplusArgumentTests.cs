namespace Peft.Tests.PowerShell;

/// <summary>Arguments that belong to no parameter, as tutorials for Python have them: taken, or refused with what to do.</summary>
public sealed class SurplusArgumentTests(ModuleHost host) : CmdletsInFolder(host, import: "-DataType float32")
{
    private const string Train = "$data = @{ prompt = 'A'; completion = ' b' } | Import-TrainingDataset; $args[0] | Invoke-LoraTraining (New-LoraConfig -Rank 2 -TargetModule q_proj) $data -Force -Quiet -AdapterName tried -max_steps 1";

    [Theory]
    [InlineData("@{ report_to = 'none'; push_to_hub = $false; logging_first_step = $true; dataloader_num_workers = 4; fp16 = $false; hub_token = $null; run_name = 'first' }")]
    [InlineData("@{ train_batch_size = 1; lr_scheduler = 'constant'; lr_warmup_steps = 0; checkpointing_steps = 500; mixed_precision = 'no' }")]
    [InlineData("@{ save_strategy = 'no'; evaluation_strategy = 'no' }")]
    [InlineData("@{ report_to = @(); gradient_checkpointing_kwargs = @{ use_reentrant = $false } }")]
    [InlineData("@{ disable_dropout = $false }")]
    [InlineData("@{ report_to = 'tensorboard'; logging_dir = './logs' }")]
    public void Names_that_ask_for_nothing_here_are_passed_over(string table)
    {
        host.Output($"$splatted = {table}; {Train} @splatted", model);
    }

    [Theory]
    [InlineData("report_to = 'tensorboard'", "-LogTo FOLDER")]
    [InlineData("report_to = 'wandb'", "-LogTo { … }")]
    [InlineData("push_to_hub = $true", "-OutputPath")]
    [InlineData("fp16 = $true", "-BFloat16")]
    [InlineData("group_by_length = $true", "-Packing BestFit")]
    [InlineData("mixed_precision = 'bf16'", "-BFloat16")]
    [InlineData("disable_dropout = $true", "-Dropout 0")]
    [InlineData("prior_loss_weight = 1", "-ObjectiveOption")]
    [InlineData("target_modules = 'q_proj'", "New-LoraConfig")]
    [InlineData("dataset_text_field = 'text'", "-TextColumn")]
    [InlineData("lerning_rate = 1", "Did you mean 'learning_rate'?")]
    public void Names_that_ask_for_something_say_what_does_it_here(string entry, string advice)
    {
        var error = Assert.Single(host.Run($"$splatted = @{{ {entry} }}; {Train} @splatted", model).Errors);
        Assert.Contains($"-{entry.Split(' ')[0]}", error.Exception.Message, StringComparison.Ordinal);
        Assert.Contains(advice, error.Exception.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void All_of_several_are_said_at_once_and_before_what_is_missing_is_asked_for()
    {
        var error = Assert.Single(host.Run("$args[0] | Invoke-LoraTraining -trian_dataset 1 -fp16 $true", model).Errors);
        Assert.Contains("'train_dataset'", error.Exception.Message, StringComparison.Ordinal);
        Assert.Contains("-BFloat16", error.Exception.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Options_without_a_parameter_are_taken_by_their_names()
    {
        var options = host.Output($"$adapter = $({Train} -adam_beta2 0.95 -per_device_eval_batch_size 3 -per_device_train_batch_size 2 -lr_scheduler_kwargs @{{}}); $options = $adapter.TrainingRecord.Options; $options.Beta2; $options.BatchSize; $options.EvaluationBatchSize", model);
        Assert.Equal([0.95, 2, 3], options.Select(static value => value.BaseObject));
        Assert.Equal("TrainingOptionInvalid", Assert.Single(host.Run($"{Train} -adam_beta2 high", model).Errors).FullyQualifiedErrorId.Split(',')[0]);
    }

    [Fact]
    public void Options_that_stand_in_a_table_are_explained_too()
    {
        var warning = Assert.Single(host.Run($"{Train} -Options @{{ report_to = 'wandb'; push_to_hub = $false; logging_dir = 'x'; lr_sheduler_type = 'cosine' }}", model).Warnings, static line => line.Message.Contains("nothing is done", StringComparison.Ordinal)).Message;
        Assert.Contains("report_to (-LogTo", warning, StringComparison.Ordinal);
        Assert.Contains("logging_dir (it is the parameter -LogTo)", warning, StringComparison.Ordinal);
        Assert.Contains("did you mean lr_scheduler_type?", warning, StringComparison.Ordinal);
        Assert.DoesNotContain("push_to_hub", warning, StringComparison.Ordinal);
    }

    [Fact]
    public void A_switch_may_be_followed_by_true_and_not_by_false()
    {
        host.Output($"{Train} -gradient_checkpointing $true -packing $true", model);
        Assert.Contains(":$false", Assert.Single(host.Run($"{Train} -gradient_checkpointing $false", model).Errors).Exception.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Generation_takes_generates_own_names()
    {
        var results = host.Output("$args[0] | Invoke-TextGeneration 'A' -max_new_tokens 2 -num_beams 2 -num_return_sequences 2 -return_dict_in_generate $true", model);
        Assert.Equal(2, results.Count);
        Assert.Contains("-Stream", Assert.Single(host.Run("$args[0] | Invoke-TextGeneration 'A' -streamer 1", model).Errors).Exception.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("Import-PeftModel $args[1] -num_labels 2", "-Label")]
    [InlineData("Import-PeftModel $args[1] -bnb_4bit_compute_dtype bfloat16", "-Quantization @{")]
    [InlineData("New-LoraConfig -lora_alfa 16", "'lora_alpha'")]
    [InlineData("Get-PeftModel $args[0] @{ r = 8 }", "Add-PeftAdapter")]
    [InlineData("$args[0] | Enable-PeftAdapter capitals", "Set-ActiveAdapter")]
    [InlineData("$args[0] | Measure-ModelParameter -nonsense", "no parameter -nonsense")]
    public void Every_command_says_what_to_do(string command, string advice) =>
        Assert.Contains(advice, Assert.Single(host.Run(command, model, PocketLlama).Errors).Exception.Message, StringComparison.Ordinal);

    [Fact]
    public void Nobody_is_offered_the_parameter_that_takes_them()
    {
        Assert.False((bool)host.Output("(Get-Command Import-PeftModel).Parameters.ContainsKey('UnknownArgument')")[0].BaseObject);
        Assert.DoesNotContain("-UnknownArgument", host.Complete("Import-PeftModel -"));
    }

    [Fact]
    public void Checkpoints_and_evaluations_come_at_the_end_alone_where_none_are_asked_for()
    {
        var record = host.Output($"$adapter = $({Train.Replace("-max_steps 1", "-max_steps 3", StringComparison.Ordinal)} -BatchSize 1 -EvaluationDataset $data -save_strategy no -eval_strategy no -OutputPath ./ends); $adapter.TrainingRecord.Evaluations.Step; [IO.Directory]::GetDirectories($args[1]) -replace '.*[\\\\/]'", model, Path.Combine(folder.FullName, "ends", "tried", "checkpoints"));
        Assert.Equal(["3", "step-3"], record.Select(static item => item.ToString()));
    }

    [Fact]
    public void A_type_is_spelt_as_torch_spells_it()
    {
        var imported = host.Output("$model = Import-PeftModel $args[0] -Name spelt -torch_dtype torch.bfloat16; $model.DataType.ToString(); $model | Remove-PeftModel", PocketLlama);
        Assert.Equal("BFloat16", imported[0].ToString());
    }

    [Fact]
    public void Rows_of_token_ids_are_asked_for_as_texts() =>
        Assert.Contains("texts themselves", Assert.Single(host.Run("@{ input_ids = 1, 2; labels = 1, 2 } | Import-TrainingDataset").Errors).ErrorDetails.RecommendedAction, StringComparison.Ordinal);

    [Fact]
    public void A_job_takes_them_as_well()
    {
        var result = host.Run("$job = $args[0] | Invoke-TextGeneration 'A' -max_new_tokens 2 -num_return_sequences 2 -num_beams 2 -AsJob; Receive-Job $job -Wait; Remove-Job $job", model);
        Assert.Empty(result.Errors);
        Assert.Equal(2, result.Output.Count);
    }

    [Theory]
    [InlineData("-peft_type LORA -r 4")]
    [InlineData("LoRA -r 4")]
    public void A_method_is_named_as_PEFT_names_it(string arguments) => Assert.Equal(4, host.Output($"(New-PeftConfig {arguments}).Rank")[0].BaseObject);

    [Fact]
    public void A_variant_that_is_taken_for_a_method_says_which_method_has_it() =>
        Assert.Contains("-UseDora", Assert.Single(host.Run("New-PeftConfig -Method DORA -r 8").Errors).ErrorDetails.RecommendedAction, StringComparison.Ordinal);

    [Fact]
    public void Combinations_go_by_PEFTs_names()
    {
        host.Output("foreach ($name in 'x', 'y') { $null = $args[0] | Add-PeftAdapter @{ r = 2; target_modules = 'q_proj' } -adapter_name $name }", model);
        Assert.Equal("z", host.Output("($args[0] | Join-PeftAdapter -adapters x, y -weights 1, 1 -adapter_name z -combination_type dare_ties -density 0.5).Name", model)[0].ToString());
    }

    [Theory]
    [InlineData("Invoke-PreferenceTraining", "prompt = 'a'; completion = ' b'", "chosen, rejected")]
    [InlineData("Invoke-LoraTraining", "prompt = 'a'; chosen = ' b'; rejected = ' c'", "Invoke-PreferenceTraining")]
    public void Rows_of_another_kind_say_which_are_needed(string command, string row, string advice)
    {
        var error = Assert.Single(host.Run($"$args[0] | {command} (New-LoraConfig -TargetModule q_proj) (@{{ {row} }} | Import-TrainingDataset) -max_steps 1", model).Errors);
        Assert.Equal("DatasetKindUnfit", error.FullyQualifiedErrorId.Split(',')[0]);
        Assert.Contains(advice, error.ErrorDetails.RecommendedAction, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("sentence = 'a'; label = 1", "sentence", null)]
    [InlineData("sentence1 = 'a'; sentence2 = 'b'; label = 0", "sentence1", "sentence2")]
    [InlineData("premise = 'a'; hypothesis = 'b'; label = 0", "premise", "hypothesis")]
    public void Classified_rows_are_known_by_GLUEs_names(string row, string text, string? pair)
    {
        var columns = host.Output($"$columns = (@{{ {row} }} | Import-TrainingDataset).Columns; $columns.Kind.Name; $columns.Names['Text']; $columns.Names['TextPair']");
        Assert.Equal(["Classified", text, pair], columns.Select(static value => value?.ToString()));
    }

    [Theory]
    [InlineData("to_q", "q_proj, k_proj")]
    [InlineData("all_linear", "'all-linear'")]
    public void Targets_that_match_nothing_say_what_there_is(string target, string there) =>
        Assert.Contains(there, Assert.Single(host.Run($"$args[0] | Add-PeftAdapter (New-LoraConfig -target_modules {target})", model).Errors).Exception.Message, StringComparison.Ordinal);

    [Fact]
    public void A_row_says_which_task_it_is()
    {
        host.Output("$args[0] | Add-PeftAdapter (New-MultitaskPromptTuningConfig -num_tasks 2 -num_virtual_tokens 2) -AdapterName tasks | Set-ActiveAdapter", model);
        Assert.Equal(3, host.Output("@{ prompt = 'A'; task_id = 0 }, @{ prompt = 'A'; task_id = 1 }, @{ prompt = 'B'; task_id = 1 } | Invoke-TextGeneration -Model $args[0] -MaxNewTokens 1", model).Count);
        Assert.Contains("task_id", Assert.Single(host.Run("$args[0] | Invoke-TextGeneration 'A' -MaxNewTokens 1", model).Errors).ErrorDetails.RecommendedAction, StringComparison.Ordinal);
        host.Output("$args[0] | Remove-PeftAdapter tasks", model);
    }

    [Fact]
    public void A_tokenizer_is_looked_for_where_the_shell_stands()
    {
        Directory.CreateSymbolicLink(Path.Combine(folder.FullName, "base"), PocketLlama);
        host.Output("$args[0] | Add-PeftAdapter (New-PromptTuningConfig 2 -prompt_tuning_init TEXT -prompt_tuning_init_text 'Classify' -tokenizer_name_or_path base) -AdapterName text", model);
    }
}
