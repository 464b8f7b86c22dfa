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
    public void Several_of_anything_need_configurations()
    {
        var result = host.Run(Data + "$args[0] | Invoke-LoraTraining -Dataset $rows -Seed 1, 2", model);
        Assert.StartsWith("ParametersContradict", Assert.Single(result.Errors).FullyQualifiedErrorId, StringComparison.Ordinal);
    }
}
