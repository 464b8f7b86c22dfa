using System.Management.Automation;

namespace Peft.Tests.PowerShell;

/// <summary>Commands that work in the background.</summary>
public sealed class JobCmdletTests(ModuleHost host) : CmdletsInFolder(host, import: "-DataType float32")
{
    private const string Data = "$data = 1..40 | ForEach-Object { @{ prompt = 'One two three'; completion = \" $_\" } } | Import-TrainingDataset;";

    [Fact]
    public void A_training_is_a_job_whose_output_is_the_live_adapter()
    {
        var values = host.Output($$"""
            {{Data}} $heard = [Collections.ArrayList]::new()
            $job = $args[0] | Invoke-LoraTraining (New-LoraConfig -TargetModule q_proj -Rank 2) $data -AdapterName there -MaxSteps 3 -OutputPath out -AsJob -LogTo { [IO.File]::AppendAllText('told.txt', $_.Step) }
            $job.State -in 'Running', 'Completed'
            $null = $job | Wait-Job -Timeout 120
            $job.State; $job.Progress.Count -gt 0
            $adapter = $job | Receive-Job -InformationAction Ignore
            $adapter.Name; $adapter.Model -eq $args[0]; $adapter.TrainingRecord.StepCount
            $job | Remove-Job
            """, model);
        Assert.Equal([true, "Completed", true, "there", true, 3], values.Select(static value => value.BaseObject));
        Assert.True(Directory.Exists(Path.Combine(folder.FullName, "out", "there")));
    }

    [Fact]
    public void A_training_that_is_stopped_leaves_its_checkpoint()
    {
        var values = host.Output($$"""
            {{Data}}
            $job = $args[0] | Invoke-LoraTraining (New-LoraConfig -TargetModule q_proj -Rank 2) $data -AdapterName stopped -MaxSteps 100000 -BatchSize 1 -OutputPath out -AsJob
            while ($job.State -eq 'Running' -and -not ([IO.File]::Exists("$pwd/out/stopped/training_log.jsonl") -and [IO.FileInfo]::new("$pwd/out/stopped/training_log.jsonl").Length -gt 300)) { [Threading.Thread]::Sleep(20) }
            $job | Stop-Job
            $job.State
            [IO.Directory]::GetDirectories("$pwd/out/stopped/checkpoints", 'step-*').Count -gt 0
            $job | Remove-Job
            """, model);
        Assert.Equal(["Stopped", true], values.Select(static value => value.BaseObject));
    }

    [Fact]
    public void Texts_of_the_pipeline_are_one_job_and_an_error_is_the_jobs()
    {
        var values = host.Output("""
            $job = 'One', 'Two', 'Three' | Invoke-TextGeneration -Model $args[0] -MaxNewTokens 2 -AsJob
            @($job | Wait-Job -Timeout 120 | Receive-Job).Count
            $failed = $args[0] | Invoke-LoraTraining -Dataset @{ text = 'a' } -AdapterName nobody -AsJob
            $null = $failed | Wait-Job -Timeout 60
            $failed.State; $failed.Error[0].FullyQualifiedErrorId -like 'AdapterNotFound*'
            """, model);
        Assert.Equal([3, "Failed", true], values.Select(static value => value.BaseObject));
    }
}
