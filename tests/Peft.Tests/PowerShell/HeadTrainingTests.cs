using Peft.Tensors;
using Peft.Tests.Tokenization;

namespace Peft.Tests.PowerShell;

/// <summary>Trainings of models with other heads than for text that is continued, from import to a result.</summary>
public sealed class HeadTrainingTests(ModuleHost host) : CmdletsInFolder(host, import: null)
{
    private const string Config = "(New-LoraConfig -TargetModule q_proj, v_proj -Rank 2)";

    [Theory]
    [InlineData("SEQ_CLS -Label cat, dog", "@{ text = 'It barks'; label = 'dog' }, @{ text = 'It purrs'; label = 'cat' }", "sequence_classification", "accuracy")]
    [InlineData("SEQ_CLS -Label size", "@{ text = 'An elephant'; label = 4.5 }, @{ text = 'A mouse'; label = 0.1 }", "sequence_classification", "mean_absolute_error")]
    [InlineData("TOKEN_CLS -Label other, name", "@{ words = 'I', 'am', 'Ann'; tags = 0, 0, 'name' }, @{ words = 'Bob', 'is'; tags = 'name', 'other' }", "token_classification", "accuracy")]
    [InlineData("QUESTION_ANS", "@{ question = 'Who?'; context = 'It was Ann.'; answers = 'Ann' }, @{ question = 'When?'; context = 'At noon it was.'; answers = 'noon' }", "question_answering", "exact_match")]
    public void The_task_chooses_head_and_objective_and_trains_both(string task, string rows, string objective, string metric)
    {
        var result = host.Run(
            $$"""
            $model = Import-PeftModel $args[0] -DataType float32 -TaskType {{task}}
            $data = {{rows}} | Import-TrainingDataset
            $adapter = $model | Invoke-LoraTraining {{Config}} $data -MaxSteps 12 -LearningRate 0.01 -EvaluationDataset $data -OutputPath out
            $record = $adapter.TrainingRecord
            $record.Objective, $record.Steps[0].Loss, $record.Steps[-1].Loss, ($record.Evaluations[-1].Metrics.Keys -join ' '), $adapter.Config.TaskType, (Show-TrainingExample $data $model -First 1).LearnedCount
            $model | Remove-PeftModel
            """, PocketLlama);
        Assert.Empty(result.Errors);
        object[] output = [.. result.Output.Select(static value => value.BaseObject)];
        Assert.Equal(objective, output[0]);
        Assert.True((double)output[2] < (double)output[1]);
        Assert.Equal(metric, output[3]);
        Assert.Equal(task.Split(' ')[0], output[4]);
        Assert.True((int)output[5] > 0);
        using var saved = SafetensorsFile.Open(Path.Combine(folder.FullName, "out", "default", "adapter_model.safetensors"));
        Assert.Contains(saved.Names, static name => name.Contains("score", StringComparison.Ordinal) || name.Contains("qa_outputs", StringComparison.Ordinal));
    }

    [Theory]
    [InlineData("SEQ_CLS -Label cat, dog, cow", "@{ text = 'It barks'; label = 'dog' }, @{ text = 'It purrs'; label = 'cat' }")]
    [InlineData("TOKEN_CLS -Label other, name, place", "@{ words = 'I', 'am', 'Ann'; tags = 0, 0, 'name' }, @{ words = 'Bob', 'is'; tags = 'name', 'other' }")]
    [InlineData("QUESTION_ANS", "@{ question = 'Who?'; context = 'It was Ann.'; answers = 'Ann' }, @{ question = 'When?'; context = 'At noon it was.'; answers = 'noon' }")]
    public void An_adapter_alone_loads_its_base_with_the_head_and_the_classes_that_it_was_trained_with(string task, string rows)
    {
        var result = host.Run(
            $$"""
            $other = Import-PeftModel $args[0] -DataType float32
            $model = Import-PeftModel $args[0] -Name judge -DataType float32 -TaskType {{task}}
            $data = {{rows}} | Import-TrainingDataset
            $adapter = $model | Invoke-LoraTraining {{Config}} $data -MaxSteps 3 -LearningRate 0.01 -OutputPath out
            function Get-Digest($adapter) { "$(($adapter | Measure-TextAnswer $data -ErrorAction Ignore).Answers)" }
            $labels = { "$($args[0].Model.Base.Config.Document['id2label'])" -replace '\s' }
            $before = Get-Digest $adapter
            $named = & $labels $adapter
            $model | Remove-PeftModel
            $again = Import-PeftAdapter ./out/default
            ($again.Model.Name -eq $other.Name) -and ($again.Model.Base.ClassName -eq $other.Base.ClassName)
            $again.Report.Messages.Count
            (Get-Digest $again) -eq $before
            (& $labels $again) -eq $named
            $again.Model | Remove-PeftModel
            [IO.File]::Delete("$($args[1])/out/default/provenance.json")
            $bare = Import-PeftAdapter ./out/default
            $bare.Report.Messages.Count
            $bare.Model.Base.FindParameter("$($bare.Model.Base.ClassificationHead).weight").Shape[0]
            $bare.Model | Remove-PeftModel
            try { ($other | Import-PeftAdapter ./out/default -ErrorAction Stop).Report.Messages -match '-TaskType' } catch { "$_" }
            $other | Remove-PeftModel
            """, PocketLlama, folder.FullName);
        Assert.Empty(result.Errors);
        object[] output = [.. result.Output.Select(static value => value.BaseObject)];
        Assert.Equal([false, 0, true, true, 0, task.StartsWith("QUESTION", StringComparison.Ordinal) ? 2L : 3L], output[..6]);
        Assert.Contains($"-TaskType {task.Split(' ')[0]}", Assert.IsType<string>(output[6]), StringComparison.Ordinal);
    }

    [Fact]
    public void An_encoder_decoder_learns_to_write_and_writes()
    {
        var source = Path.Combine(ModuleHost.Root, "tests", "references", "generation", "t5");
        var copy = folder.CreateSubdirectory("t5").FullName;
        foreach (var file in Directory.GetFiles(source))
        {
            File.Copy(file, Path.Combine(copy, Path.GetFileName(file)));
        }

        File.WriteAllText(Path.Combine(copy, "tokenizer.json"), TestTokenizers.BytesJson().ToJsonString());
        var result = host.Run(
            """
            $model = Import-PeftModel t5
            $data = @{ prompt = [string][char]3 + [char]4; completion = [string][char]5 }, @{ prompt = [string][char]6; completion = [string][char]7 + [char]8 } | Import-TrainingDataset
            $adapter = $model | Invoke-LoraTraining (New-LoraConfig -TargetModule q, v -Rank 2) $data -MaxSteps 40 -LearningRate 0.02
            $record = $adapter.TrainingRecord
            $record.Objective, ($record.Steps[-1].Loss -lt $record.Steps[0].Loss)
            $model | Invoke-TextGeneration ([string][char]3 + [char]4) -MaxNewTokens 4
            $model | Invoke-TextGeneration ([string][char]3), ([string][char]6) -MaxNewTokens 4 -Options @{ num_beams = 3; num_return_sequences = 2; early_stopping = 'never' }
            $model | Compare-ModelOutput ([string][char]3)
            $model | Remove-PeftModel
            """);
        Assert.Empty(result.Errors);
        Assert.Equal(["sequence_to_sequence", true], result.Output.Take(2).Select(static value => value.BaseObject));
        Assert.Equal(2 + 1 + 4 + 2, result.Output.Count);
        Assert.Equal(["\u0003", "\u0003", "\u0006", "\u0006"], result.Output.Skip(3).Take(4).Select(static text => (string)text.Properties["Prompt"].Value));
    }

    [Fact]
    public void Options_that_nobody_knows_are_refused_by_name()
    {
        var result = host.Run("$model = Import-PeftModel $args[0]; $model | Invoke-TextGeneration 'A' -Options @{ num_beam = 3 }; $model | Remove-PeftModel", PocketLlama);
        var error = Assert.Single(result.Errors);
        Assert.StartsWith("GenerationOptionNotSupported", error.FullyQualifiedErrorId, StringComparison.Ordinal);
        Assert.Contains("num_beam", error.Exception.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void All_weights_are_trained_where_that_is_asked_for()
    {
        var result = host.Run(
            """
            $model = Import-PeftModel $args[0] -DataType float32
            $data = @{ prompt = 'One two three'; completion = ' b' }, @{ prompt = 'Four five six'; completion = ' d' } | Import-TrainingDataset
            $trained = $model | Invoke-LoraTraining $null $data -Full -MaxSteps 2 -OutputPath out
            [object]::ReferenceEquals($trained, $model), $model.Adapters.Count
            $model | Invoke-LoraTraining (New-LoraConfig) $data -Full
            $model | Remove-PeftModel
            """, PocketLlama);
        Assert.Equal([true, 0], result.Output.Select(static value => value.BaseObject));
        Assert.True(File.Exists(Path.Combine(folder.FullName, "out", "model", "model.safetensors")));
        Assert.StartsWith("ParametersContradict", Assert.Single(result.Errors).FullyQualifiedErrorId, StringComparison.Ordinal);
    }

    [Fact]
    public void A_task_that_the_head_is_not_for_is_refused()
    {
        var result = host.Run(
            "$model = Import-PeftModel $args[0]; $model | Invoke-LoraTraining (New-LoraConfig -TaskType SEQ_CLS) ('one two' | Import-TrainingDataset); $model | Remove-PeftModel", PocketLlama);
        Assert.StartsWith("TaskTypeUnfit", Assert.Single(result.Errors).FullyQualifiedErrorId, StringComparison.Ordinal);
    }
}
