namespace Peft.Tests.PowerShell;

/// <summary>What a training tells while it runs, and the page about it.</summary>
public sealed class ReportCmdletTests(ModuleHost host) : CmdletsInFolder(host, import: "-DataType float32")
{
    private const string Train = """
        [IO.File]::WriteAllText("$pwd/rows.jsonl", '{"prompt":"One two","completion":" three"}' + "`n" + '{"prompt":"Four five","completion":" six"}')
        $seen = [Collections.ArrayList]::new()
        $adapter = $args[0] | Invoke-LoraTraining (New-LoraConfig -TargetModule q_proj -Rank 2) ./rows.jsonl -AdapterName told -MaxSteps 3 -BatchSize 1 -OutputPath out -EvaluationDataset ./rows.jsonl -SamplePrompt 'One two' -LogTo { $null = $seen.Add($_) }, ./board
        """;

    [Fact]
    public void A_training_is_told_to_a_script_block_and_to_TensorBoard_and_tried_on_prompts()
    {
        var values = host.Output(Train + "\n$seen.Count; $seen[0].Step; $seen[-1].GetType().Name; [IO.Directory]::GetFiles(\"$pwd/board\").Count; $adapter.TrainingRecord.Evaluations[-1].Samples[0].Prompt", model);
        Assert.Equal([5, 1, "EvaluationRecord", 1, "One two"], values.Select(static value => value.BaseObject));
    }

    [Fact]
    public void A_script_block_that_fails_is_said_once_and_the_training_goes_on()
    {
        var result = host.Run("$args[0] | Invoke-LoraTraining (New-LoraConfig -TargetModule q_proj) (@{ text = 'One two' } | Import-TrainingDataset) -AdapterName failing -MaxSteps 3 -LogTo { throw 'no tracker' }", model);
        Assert.Empty(result.Errors);
        Assert.Single(result.Warnings, static warning => warning.Message.Contains("no tracker", StringComparison.Ordinal));
    }

    [Fact]
    public void A_report_is_written_of_an_adapter_or_of_its_folder_and_says_how_to_repeat_the_training()
    {
        var values = host.Output(Train + """

            $adapter | Export-TrainingReport page.html -Dataset ./rows.jsonl -Title 'My training'
            './out/tol*', $adapter.TrainingRecord | Export-TrainingReport page.html -Force
            $again = [scriptblock]::Create($adapter.TrainingRecord.Command.Replace("'told'", "'again'")).Invoke()[0]
            $adapter.TrainingRecord.Losses -join ' '; $again.TrainingRecord.Losses -join ' '
            $null = $again.Model | Remove-PeftModel
            """, model);
        Assert.True(((FileInfo)values[0].BaseObject).Length > 10_000);
        Assert.Contains("told (2)", File.ReadAllText(Path.Combine(folder.FullName, "page.html")), StringComparison.Ordinal);
        Assert.Equal(values[2].BaseObject, values[3].BaseObject);
    }

    [Fact]
    public void What_no_report_can_be_made_of_is_said()
    {
        var result = host.Run("'./nothing' | Export-TrainingReport page.html -ErrorAction SilentlyContinue; [IO.File]::WriteAllText(\"$pwd/there.html\", ''); 1 | Export-TrainingReport there.html");
        Assert.All(result.Errors, static error => Assert.NotEmpty(error.ErrorDetails.RecommendedAction));
        Assert.Contains(result.Errors, static error => error.FullyQualifiedErrorId.StartsWith("OutputExists", StringComparison.Ordinal));
    }
}
