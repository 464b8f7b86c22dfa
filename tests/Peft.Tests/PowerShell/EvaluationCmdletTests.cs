namespace Peft.Tests.PowerShell;

/// <summary>What cmdlets measure beside answers that are generated.</summary>
public sealed class EvaluationCmdletTests(ModuleHost host) : CmdletsInFolder(host, import: "-DataType float32")
{
    [Fact]
    public void Answers_are_chosen_by_likelihood_from_a_list_or_a_column()
    {
        var result = host.Run("""
            $data = @{ prompt = 'Once upon a'; completion = ' time'; options = ' time', ' xylophone' }, @{ prompt = 'Once upon a'; completion = '1'; options = ' xylophone', ' time' } | Import-TrainingDataset
            ($args[0] | Measure-TextAnswer $data -ChoiceColumn options).Accuracy.Hits
            $measured = $args[0] | Measure-TextAnswer ($data | Select-TrainingDataset -First 1) -Choice time, xylophone
            $measured.Answers[0].IsRight
            ($args[0] | Measure-TextAnswer $data -MaxNewTokens 1).Rouge1 -ge 0
            """, model);
        Assert.Empty(result.Errors);
        Assert.Equal([2, true, true], result.Output.Select(static value => value.BaseObject));
    }

    [Fact]
    public void A_classifier_is_measured_by_its_classes()
    {
        var result = host.Run("""
            $reviews = Import-PeftModel $args[1] -Name reviews -TaskType SEQ_CLS -Label bad, good -DataType float32
            $data = @{ text = 'Well made'; label = 'good' }, @{ text = 'It broke'; label = 'bad' } | Import-TrainingDataset
            $measured = $reviews | Measure-TextAnswer $data
            $measured.Count
            $measured.Classes.Name
            ($measured.Classes | ForEach-Object ToString)[1].Split(':')[0]
            $null = $reviews | Measure-TextAnswer $data { $true } -Choice good, bad -WarningVariable unused 3>$null
            "$unused"
            $null = $args[0] | Measure-TextAnswer @{ prompt = 'Once upon a'; completion = ' time' } { $true } -Choice ' time', ' xylophone' -WarningVariable unused 3>$null
            "$unused"
            $reviews | Remove-PeftModel
            """, model, PocketLlama);
        Assert.Empty(result.Errors);
        Assert.Equal(
            [
                2, "good", "bad", "bad (1)",
                "-Test and -Choice count for nothing here: 'reviews' is measured by what its head is for.",
                "-Test counts for nothing here: the likeliest of the choices is taken.",
            ],
            result.Output.Select(static value => value.BaseObject));
    }

    [Fact]
    public void A_training_says_what_it_forgets()
    {
        var result = host.Run("""
            $data = @{ prompt = 'One two three'; completion = ' b' }, @{ prompt = 'Four five six'; completion = ' d' } | Import-TrainingDataset
            $general = 'Once upon a time there was a king.' | Import-TrainingDataset
            $record = ($args[0] | Invoke-LoraTraining (New-LoraConfig -TargetModule q_proj) $data -MaxSteps 2 -RetentionDataset $general -RetentionLimit -9).TrainingRecord
            $record.RetentionBefore -gt 0 -and $record.RetentionAfter -gt 0
            """, model);
        Assert.Empty(result.Errors);
        Assert.True(result.Output[0].BaseObject is true);
        Assert.Contains(result.Warnings, static warning => warning.Message.Contains("forgets", StringComparison.Ordinal));
    }
}
