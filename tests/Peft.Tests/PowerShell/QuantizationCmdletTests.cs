using System.Management.Automation;
using Peft.Tests.Generation;
using static TorchSharp.torch;

namespace Peft.Tests.PowerShell;

/// <summary>Quantised bases at the prompt, on the embedded model.</summary>
public sealed class QuantizationCmdletTests(ModuleHost host) : CmdletsInFolder(host, import: "-Name packed -DataType float32 -Quantization (New-QuantizationConfig -LoadIn4Bit -QuantType nf4)")
{
    private const string Rows = "@{ prompt = 'The capital of Texas is'; completion = ' Austin' }, @{ prompt = 'The capital of Ohio is'; completion = ' Columbus' }";

    [Fact]
    public void A_base_in_four_bits_takes_a_part_of_the_memory_and_names_its_form()
    {
        var whole = host.Output("Import-PeftModel $args[0] -Name whole -DataType float32", PocketLlama)[0];
        var linear = (long)host.Output("$sum = 0L; $args[0] | Get-ModelModule -Kind Linear | Where-Object Path -NE lm_head | ForEach-Object { $sum += $_.Parameters }; $sum", whole)[0].BaseObject;
        var saved = (long)whole.Properties["MemoryBytes"].Value - (long)PSObject.AsPSObject(model!).Properties["MemoryBytes"].Value;

        // Of 32 bits a weight half a byte is left, and a float32 for each 64.
        Assert.Equal(linear * 4 - linear / 2 - linear / 64 * 4, saved);
        Assert.Equal("nf4", PSObject.AsPSObject(model!).Properties["Quantization"].Value);
        Assert.Null(whole.Properties["Quantization"].Value);
        host.Output("$args[0] | Remove-PeftModel", whole);
    }

    [Fact]
    public void An_adapter_is_trained_on_it_generates_and_is_merged_into_unpacked_weights()
    {
        var losses = host.Output($$"""
            $data = {{Rows}} | Import-TrainingDataset
            $adapter = $args[0] | Invoke-LoraTraining (New-LoraConfig -TargetModule all-linear) $data -AdapterName texas -Epoch 20 -BatchSize 2 -LearningRate 1e-2 -Quiet
            $adapter.TrainingRecord.Steps[0].Loss; $adapter.TrainingRecord.FinalLoss
            """, model!).Select(static loss => Convert.ToDouble(loss.BaseObject, System.Globalization.CultureInfo.InvariantCulture)).ToArray();
        Assert.True(losses[1] < losses[0] / 2, $"{losses[0]} to {losses[1]}");
        Assert.NotEmpty(host.Output("$args[0] | Invoke-TextGeneration 'The capital of Texas is' -MaxNewTokens 3", model!));
        host.Output("$args[0] | Merge-LoraAdapter -DataType bfloat16 | Export-PeftModel ./merged", model!);
        Assert.True(File.Exists(Path.Combine(folder.FullName, "merged", "model.safetensors")));
        Assert.Equal("nf4", host.Output("($args[0] | Undo-LoraMerge).Quantization", model!)[0].BaseObject);
    }

    [Fact]
    public void A_warning_says_which_experts_stay_as_they_are_and_how_much_of_the_memory_they_are()
    {
        var mixture = Path.Combine(folder.FullName, "mixture");
        using (var model = RecordedExpertTests.Create("mixtral", ScalarType.Float32))
        {
            model.Save(mixture);
        }

        foreach (var command in (string[])["Import-PeftModel ./mixture -Name mixture -DataType float32 -load_in_4bit", "Import-PeftModel ./mixture -Name mixture -DataType float32 | Compress-PeftModel"])
        {
            var warnings = host.Output($"$made = {command} 3>$null -WarningVariable said; $said.Message; $made | Remove-PeftModel").Select(static text => (string)text.BaseObject);

            // Two layers of four experts with three matrices of 256 x 256 in float32.
            Assert.Contains(warnings, static text => text.Contains("model.layers.*.mlp.experts.gate_up_proj, model.layers.*.mlp.experts.down_proj take 6 of the", StringComparison.Ordinal));
        }
    }

    [Theory]
    [InlineData("-load_in_8bit", "int8")]
    [InlineData("-quantization_config @{ load_in_8bit = $true; llm_int8_threshold = 4.0 }", "int8")]
    [InlineData("-Quantization (New-QuantizationConfig -load_in_4bit -bnb_4bit_quant_type nf4 -bnb_4bit_use_double_quant)", "nf4")]
    public void What_was_exported_packed_is_imported_packed_and_says_the_same(string arguments, string kind)
    {
        var texts = host.Output($$"""
            $first = Import-PeftModel $args[0] -Name first {{arguments}}
            $first | Export-PeftModel ./packed
            $second = Import-PeftModel ./packed -Name second
            foreach ($one in $first, $second) { $one.Quantization; ($one | Invoke-TextGeneration 'The capital of Texas is' -MaxNewTokens 8).Text; $one | Remove-PeftModel }
            """, PocketLlama).Select(static text => (string)text.BaseObject).ToArray();
        Assert.Equal(kind, texts[0]);
        Assert.Equal(texts[..2], texts[2..]);
        var size = new FileInfo(Path.Combine(folder.FullName, "packed", "model.safetensors")).Length;
        Assert.True(size < 0.75 * new FileInfo(Path.Combine(PocketLlama, "model.safetensors")).Length, $"{size} bytes");
    }

    [Fact]
    public void An_adapter_is_trained_on_a_base_in_eight_bits_and_a_final_merge_is_exported_packed()
    {
        var found = host.Output($$"""
            $eight = Import-PeftModel $args[0] -Name eight -DataType float32 -load_in_8bit
            $adapter = $eight | Invoke-LoraTraining (New-LoraConfig -TargetModule all-linear) ({{Rows}} | Import-TrainingDataset) -AdapterName texas -Epoch 20 -BatchSize 2 -LearningRate 1e-2 -Quiet
            $adapter.TrainingRecord.Steps[0].Loss; $adapter.TrainingRecord.FinalLoss
            $eight | Merge-LoraAdapter -Unload -WarningAction SilentlyContinue | Export-PeftModel ./merged8
            $again = Import-PeftModel ./merged8 -Name again
            $again.Quantization
            ($again | Invoke-TextGeneration 'The capital of Texas is' -MaxNewTokens 2).Text
            $eight, $again | Remove-PeftModel
            """, PocketLlama).Select(static value => value.BaseObject).ToArray();
        Assert.True(Convert.ToDouble(found[1], System.Globalization.CultureInfo.InvariantCulture) < Convert.ToDouble(found[0], System.Globalization.CultureInfo.InvariantCulture) / 2);
        Assert.Equal("int8", found[2]);
        Assert.Contains("Austin", (string)found[3], StringComparison.Ordinal);
    }

    [Fact]
    public void A_merge_into_quantised_weights_unpacked_or_original_ones_says_its_loss_and_can_be_undone()
    {
        var found = host.Output($$"""
            $data = {{Rows}} | Import-TrainingDataset
            $null = $args[0] | Invoke-LoraTraining (New-LoraConfig -TargetModule all-linear) $data -AdapterName texas -Epoch 20 -BatchSize 2 -LearningRate 1e-2 -Quiet
            foreach ($onto in 'Quantized', 'Unpacked', 'Original') {
                $lines = $args[0] | Merge-LoraAdapter -Onto $onto -Dataset $data -WarningAction SilentlyContinue 6>&1
                [regex]::Matches("$($lines | Where-Object { $_ -is [System.Management.Automation.InformationRecord] })", '\d+\.\d[\dE-]+').Value
                "$($args[0].Quantization)"
                $null = $args[0] | Undo-LoraMerge
            }
            $args[0].Quantization
            """, model!).Select(static value => (string)value.BaseObject).ToArray();
        Assert.Equal(10, found.Length);
        Assert.Equal(["nf4", "", "", "nf4"], new[] { found[2], found[5], found[8], found[9] });

        // Unpacked weights take the change as it is.
        var losses = found.Select(static text => double.TryParse(text, System.Globalization.CultureInfo.InvariantCulture, out var loss) ? loss : 0).ToArray();
        Assert.Equal(losses[3], losses[4], losses[3] / 100);
        Assert.True(losses[6] > 0 && losses[7] > 0 && Math.Abs(losses[6] - losses[7]) > losses[6] / 100, $"{losses[6]} and {losses[7]}");
    }

    [Fact]
    public void A_loaded_model_is_packed_in_place_with_its_adapter_on_it_and_exported()
    {
        var found = host.Output($$"""
            $plain = Import-PeftModel $args[0] -Name plain
            $before = $plain.MemoryBytes
            $null = $plain | Add-PeftAdapter (New-LoraConfig -TargetModule all-linear)
            $packed = $plain | Compress-PeftModel
            [object]::ReferenceEquals($plain, $packed); $packed.Quantization; $packed.MemoryBytes -lt $before
            $packed | Export-PeftModel ./compressed
            (Import-PeftModel ./compressed -Name compressed).Quantization
            Remove-PeftModel plain, compressed
            """, PocketLlama).Select(static value => value.BaseObject).ToArray();
        Assert.Equal([true, "nf4", true, "nf4"], found);
        Assert.StartsWith("WeightsPacked,", Assert.Single(host.Run("$args[0] | Compress-PeftModel -load_in_8bit", model!).Errors).FullyQualifiedErrorId, StringComparison.Ordinal);
    }

    [Fact]
    public void What_a_tutorial_gives_to_from_pretrained_is_splatted()
    {
        var result = host.Run("""
            $arguments = @{
                quantization_config = @{ load_in_4bit = $true; bnb_4bit_quant_type = 'nf4' }; device_map = @{ '' = 'cpu' }; max_memory = @{ cpu = '1GB' }
                dtype = 'float32'; use_cache = $false; peft_config = @{ r = 4; target_modules = 'all-linear'; task_type = 'CAUSAL_LM' }
            }
            $loaded = Import-PeftModel $args[0] -Name splatted @arguments 6>$null
            $loaded.Quantization; $loaded.ActiveAdapters; $loaded | Remove-PeftModel
            """, PocketLlama);
        Assert.Empty(result.Errors);
        Assert.Equal(["nf4", "default"], result.Output.Select(static value => (string)value.BaseObject));
    }

    [Fact]
    public void All_weights_of_it_can_not_be_trained()
    {
        var result = host.Run($"$data = {Rows} | Import-TrainingDataset; $args[0] | Invoke-LoraTraining -Full -Dataset $data -MaxSteps 1 -Quiet", model!);
        Assert.StartsWith("WeightsPacked,", Assert.Single(result.Errors).FullyQualifiedErrorId, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("-load_in_4bit -Quantization @{ load_in_4bit = $true }", "ParametersContradict,")]
    [InlineData("-load_in_4bit -StructureOnly", "ParametersContradict,")]
    [InlineData("-Quantization @{ load_in_4bits = $true }", "ParameterArgumentTransformationError,")]
    [InlineData("-Quantization @{ load_in_4bit = $true; llm_int8_skip_modules = 'model' }", "NothingToQuantize,")]
    public void What_can_not_be_had_is_named(string arguments, string errorId)
    {
        var error = Assert.Single(host.Run($"Import-PeftModel $args[0] -Name other {arguments}", PocketLlama).Errors);
        Assert.StartsWith(errorId, error.FullyQualifiedErrorId, StringComparison.Ordinal);
        Assert.Empty(host.Output("Get-PeftModel other*"));
    }
}
