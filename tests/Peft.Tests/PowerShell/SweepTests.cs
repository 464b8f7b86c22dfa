namespace Peft.Tests.PowerShell;

/// <summary>Several trainings by one command.</summary>
public sealed class SweepTests(ModuleHost host) : CmdletsInFolder(host, import: "-DataType float32")
{
    private const string Data = """
        $rows = 1..8 | ForEach-Object { @{ prompt = "One two $_"; completion = " b $_" } } | Import-TrainingDataset
        $held = @{ prompt = 'One two nine'; completion = ' b 9' }, @{ prompt = 'Two'; completion = ' b 2' }, @{ prompt = 'One'; completion = ' b 1' } | Import-TrainingDataset

        """;

    [Fact]
    public void Configurations_rates_and_all_weights_end_in_one_table()
    {
        var values = host.Output(Data + """
            $before = (Measure-Perplexity 'One two three' -Model $args[0]).Loss
            $table = $args[0] | Invoke-LoraTraining (New-LoraConfig -Rank 2 -TargetModule q_proj), @{ r = 4; target_modules = 'q_proj' }, (New-IA3Config) $rows -Full -LearningRate 0.01, 0.0015 -MaxSteps 3 -BatchSize 2 -EvaluationDataset $held -OutputPath out
            $table.Name -join ' '
            ($table | ForEach-Object { $_.Rank ?? '-' }) -join ' '
            @($table | Where-Object { $_.Loss -gt 0 -and $_.Margin -gt 0 -and $null -eq $_.Spread }).Count
            @($table | Where-Object { $_.FileBytes -and $_.TrainableParameters -and $_.MemoryBytes -and $_.Record.StepCount -eq 3 }).Count
            $table[-1].Method; $table[1].Loss -lt $table[0].Loss; $table[1].Adapter.Name
            $args[0] | Remove-PeftAdapter *
            $before -eq (Measure-Perplexity 'One two three' -Model $args[0]).Loss
            """, model);
        Assert.Equal(
            [
                "base default-lora-r2-lr1e-2 default-lora-r2-lr1_5e-3 default-lora-r4-lr1e-2 default-lora-r4-lr1_5e-3 default-ia3-lr1e-2 default-ia3-lr1_5e-3 model",
                "- 2 2 4 4 - - -", 8, 7, "full", true, "default-lora-r2-lr1e-2", true,
            ],
            values.Select(static value => value.BaseObject));
        Assert.True(File.Exists(Path.Combine(folder.FullName, "out", "default-ia3-lr1_5e-3", "adapter_model.safetensors")));
    }

    [Fact]
    public void Several_seeds_are_told_as_their_mean_and_spread()
    {
        var values = host.Output(Data + """
            $table = $args[0] | Invoke-LoraTraining (New-LoraConfig -Rank 2 -TargetModule q_proj -Dropout 0.1) $rows -AdapterName kept -Seed 1, 2, 3 -LearningRate 0.01 -MaxSteps 4 -BatchSize 2 -EvaluationDataset $held
            $alone = $args[0] | Invoke-LoraTraining (New-LoraConfig -Rank 2 -TargetModule q_proj -Dropout 0.1) $rows -AdapterName alone -Seed 2 -LearningRate 0.01 -MaxSteps 4 -BatchSize 2 -EvaluationDataset $held
            $table.Name -join ' '
            $kept = $table[1]
            $kept.Runs.Name -join ' '; $kept.Runs.Seed -join ' '
            $a, $b, $c = $kept.Runs.Loss; $mean = ($a + $b + $c) / 3
            [math]::Abs($mean - $kept.Loss) -lt 1e-9
            [math]::Abs([math]::Sqrt((($a - $mean) * ($a - $mean) + ($b - $mean) * ($b - $mean) + ($c - $mean) * ($c - $mean)) / 2) - $kept.Spread) -lt 1e-9
            $null -eq $kept.Adapter
            [math]::Abs($alone.TrainingRecord.FinalLoss - $kept.Runs[1].Record.FinalLoss) -lt 1e-3
            $args[0] | Remove-PeftAdapter *
            """, model);
        Assert.Equal(["base kept", "kept-seed1 kept-seed2 kept-seed3", "1 2 3", true, true, true, true], values.Select(static value => value.BaseObject));
    }

    [Fact]
    public void Each_training_of_a_sweep_has_a_log_of_its_own()
    {
        var values = host.Output(Data + """
            $seen = [Collections.ArrayList]::new()
            $null = $args[0] | Invoke-LoraTraining (New-LoraConfig -Rank 2 -TargetModule q_proj), (New-LoraConfig -Rank 4 -TargetModule q_proj) $rows -Full -MaxSteps 3 -BatchSize 2 -LogTo { $null = $seen.Add("$($args[1]) $($_.Step)") }, ./board
            $seen.Sort(); $seen -join ', '
            $folders = [IO.Directory]::GetDirectories("$pwd/board"); [array]::Sort($folders)
            ($folders | ForEach-Object { "$([IO.Path]::GetFileName($_)) $([IO.Directory]::GetFiles($_).Count)" }) -join ', '
            $args[0] | Remove-PeftAdapter *
            """, model);
        Assert.Equal(
            ["default-r2 1, default-r2 2, default-r2 3, default-r4 1, default-r4 2, default-r4 3, model 1, model 2, model 3", "default-r2 1, default-r4 1, model 1"],
            values.Select(static value => value.BaseObject));
    }

    [Fact]
    public void What_a_sweep_would_take_is_said_and_the_model_is_left_as_it_was()
    {
        var result = host.Run(Data + """
            $args[0] | Invoke-LoraTraining (New-LoraConfig -Rank 2 -TargetModule q_proj), (New-LoraConfig -Rank 4 -TargetModule q_proj) $rows -Full -MaxSteps 3 -BatchSize 2 -OutputPath planned -PricePerHour 2 -WhatIf -InformationVariable lines 6>$null
            $lines -join "`n"
            @($args[0] | Get-PeftAdapter).Count; [IO.Directory]::Exists("$pwd/planned")
            """, model);
        Assert.Empty(result.Errors);
        var said = (string)result.Output[0].BaseObject;
        Assert.Matches("default-r2: 3 steps, [0-9,]+ tokens, roughly 0:00:[0-9]+ at a price of 0[.]0*[1-9][0-9]+; memory up to", said);
        Assert.Contains("default-r4: 3 steps", said, StringComparison.Ordinal);
        Assert.Contains("model: 3 steps", said, StringComparison.Ordinal);
        Assert.Contains("Plan of all 3: 9 steps", said, StringComparison.Ordinal);
        Assert.Equal([0, false], result.Output.Skip(1).Select(static value => value.BaseObject));
    }

    [Fact]
    public void Several_of_anything_need_configurations()
    {
        var result = host.Run(Data + "$args[0] | Invoke-LoraTraining -Dataset $rows -Seed 1, 2", model);
        Assert.StartsWith("ParametersContradict", Assert.Single(result.Errors).FullyQualifiedErrorId, StringComparison.Ordinal);
    }
}
