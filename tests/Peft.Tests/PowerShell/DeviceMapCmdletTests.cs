namespace Peft.Tests.PowerShell;

/// <summary>Device maps and limits of memory at the prompt, on the embedded model.</summary>
public sealed class DeviceMapCmdletTests(ModuleHost host) : CmdletsInFolder(host, import: "-Name whole")
{
    [Fact]
    public void What_does_not_fit_stays_on_the_disk_and_is_shown_beforehand()
    {
        var result = host.Run("""
            $plan = Import-PeftModel $args[0] -MaxMemory @{ cpu = '4MB'; 3 = '10GiB' } -WhatIf -WarningVariable said 3>$null
            $offloaded = Import-PeftModel $args[0] -Name offloaded -MaxMemory @{ cpu = '4MB' } -InformationVariable lines 6>$null
            @($plan | Where-Object Device -EQ disk).Count -gt 0; $sum = 0; $plan | ForEach-Object { $sum += $_.Bytes }; $sum -gt 4MB
            "$($offloaded.DeviceMap)" -eq "$plan"; "$lines" -match 'disk'; "$said" -match 'cuda:3'; $offloaded.MemoryBytes -lt 4MB
            ($offloaded | Invoke-TextGeneration 'Question' -MaxNewTokens 3).Text -eq ($args[1] | Invoke-TextGeneration 'Question' -MaxNewTokens 3).Text
            $trained = $offloaded | Invoke-LoraTraining (New-LoraConfig -Rank 2) ('a few words', 'and some more' | Import-TrainingDataset) -MaxSteps 2 -Quiet
            $trained.TrainingRecord.Steps.Count
            $offloaded | Remove-PeftModel
            """, PocketLlama, model!);
        Assert.Empty(result.Errors);
        Assert.Equal([true, true, true, true, true, true, true, 2], result.Output.Select(static value => value.BaseObject));
    }

    [Theory]
    [InlineData("-device_map @{ model = 7; lm_head = 'cpu' }", "DeviceNotFound,")]
    [InlineData("-device_map @{ 'model.layers' = 'cpu' }", "DeviceMapIncomplete,")]
    [InlineData("-device_map @{ '' = 'cpu'; head = 'disk' }", "DeviceMapInvalid,")]
    [InlineData("-device_map disk -dtype float32", "OffloadFolderMissing,")]
    [InlineData("-max_memory @{ cpu = '100KB' }", "MaxMemoryExceeded,")]
    [InlineData("-max_memory @{ here = '8GB' }", "MaxMemoryInvalid,")]
    [InlineData("-max_memory @{ cpu = 'much' }", "MaxMemoryInvalid,")]
    [InlineData("-device_map auto -Device cpu", "ParametersContradict,")]
    public void A_place_that_can_not_be_had_is_named_before_weights_are_read(string arguments, string errorId)
    {
        Assert.StartsWith(errorId, Assert.Single(host.Run($"Import-PeftModel $args[0] -Name other {arguments}", PocketLlama).Errors).FullyQualifiedErrorId, StringComparison.Ordinal);
        Assert.Empty(host.Output("Get-PeftModel other*"));
    }
}
