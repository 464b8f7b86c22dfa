# The cmdlets for models.
BeforeAll {
    . "$PSScriptRoot/Support.ps1"
    $model = Import-PeftModel $base -DataType float32
    $structure = Import-PeftModel $base -StructureOnly -Name structure
    Push-Location $TestDrive
}

AfterAll {
    Pop-Location
    Get-PeftModel | Remove-PeftModel
}

Describe 'Import-PeftModel' {
    It 'puts out a model' {
        $structure | Should -BeOfType Peft.Adapters.Model.PeftModel
        $structure.IsStructureOnly | Should -BeTrue
    }

    It 'takes folders from the pipeline and reads names with brackets literally' {
        $null = New-Item -ItemType SymbolicLink 'a[1]' -Target $base
        Import-PeftModel -LiteralPath 'a[1]' -StructureOnly -trust_remote_code -Name trusted -WarningVariable warnings -WarningAction SilentlyContinue | Remove-PeftModel
        $warnings | Should -BeLike "*isn't run: the built-in family 'llama' serves it."
        (Get-Item -LiteralPath 'a[1]' | Import-PeftModel -StructureOnly).Name | Should -Be 'a[1]'
        (Import-PeftModel -LiteralPath 'a[1]' -StructureOnly -Name other).Name | Should -Be 'other'
        Remove-PeftModel other, 'a`[1`]'
    }

    It 'holds weights in the type that is asked for' {
        $half = Import-PeftModel $base -DataType bfloat16 -Name half
        $bytes = @{ whole = ($model | Measure-ModelParameter).MemoryBytes; half = ($half | Measure-ModelParameter).MemoryBytes }
        $half | Remove-PeftModel
        $bytes.half | Should -BeLessThan ($bytes.whole * 0.6)
    }

    It 'takes what a tutorial leaves open as None, torch''s other names of types, and a revision of a folder' {
        $arguments = @{ quantization_config = $null; device_map = $null; max_memory = $null; peft_config = $null; torch_dtype = $null; revision = $null; offload_folder = $null }
        Import-PeftModel $base -StructureOnly -Name open @arguments | Remove-PeftModel
        $half = Import-PeftModel $base -Name half -dtype torch.half -revision v1.0 -WarningVariable warnings -WarningAction SilentlyContinue
        "$($half.DataType)" | Should -Be 'Float16'
        $warnings | Should -BeLike '*v1.0*'
        $half | Remove-PeftModel
    }

    It 'leaves no model behind whose adapter was refused' {
        (Get-ErrorRecord { Import-PeftModel $base -Name refused -peft_config @{ target_modules = 'nothing' } -ErrorAction Stop }).FullyQualifiedErrorId | Should -BeLike 'NoModuleMatched,*'
        (Get-PeftModel).Name | Should -Not -Contain 'refused'
    }

    It 'says which device a limit of memory is for' {
        (Get-ErrorRecord { Import-PeftModel $base -Name none -max_memory 4GB -ErrorAction Stop }).Exception.Message | Should -BeLike "*cpu = '8GB'*"
    }

    It 'completes devices and names of models in the cache' {
        Get-Completion 'Import-PeftModel x -Device ' | Should -Contain 'cpu'
        { Get-Completion 'Import-PeftModel -HubName ' } | Should -Not -Throw
    }

    It 'shows its progress' {
        $progress = Get-Stream Progress 'Import-PeftModel $args[0] -Name shown | Remove-PeftModel' $base
        $progress.PercentComplete | Should -Contain 100
    }

    It 'names what is wrong: <Id>' -ForEach @(
        @{ Id = 'PathNotFound'; Make = { }; Path = 'nowhere' }
        @{ Id = 'ModelConfigMissing'; Make = { $null = New-Item -ItemType Directory empty }; Path = 'empty' }
        @{ Id = 'HubModelNotCached'; Make = { }; Hub = 'nobody/nothing' }
    ) {
        & $Make
        $env:HF_HUB_OFFLINE = '1'
        $failure = Get-ErrorRecord { if ($Hub) { Import-PeftModel -HubName $Hub -ErrorAction Stop } else { Import-PeftModel $Path -ErrorAction Stop } }
        Remove-Item Env:/HF_HUB_OFFLINE
        $failure.FullyQualifiedErrorId | Should -BeLike "$Id,*"
        $failure.ErrorDetails.RecommendedAction | Should -Not -BeNullOrEmpty
    }

    It 'says what to type for a name on the hub' {
        (Get-ErrorRecord { Import-PeftModel HuggingFaceTB/SmolLM2-135M -ErrorAction Stop }).Exception.Message | Should -BeLike '*Import-PeftModel -HubName HuggingFaceTB/SmolLM2-135M'
    }
}

Describe 'New-QuantizationConfig' {
    It 'puts out a configuration by BitsAndBytesConfig''s names too' {
        $arguments = @{ load_in_4bit = $true; bnb_4bit_quant_type = 'nf4'; bnb_4bit_compute_dtype = 'torch.bfloat16'; bnb_4bit_use_double_quant = $true; llm_int8_skip_modules = 'lm_head'; bnb_4bit_quant_storage = 'uint8' }
        $config = New-QuantizationConfig @arguments
        $config | Should -BeOfType Peft.Quantization.QuantizationConfig
        "$($config.QuantType) $($config.ComputeType) $($config.UseDoubleQuant) $($config.SkipModules)" | Should -Be 'nf4 BFloat16 True lm_head'
        "$((New-QuantizationConfig -LoadIn4Bit).QuantType)" | Should -Be 'fp4'
    }

    It 'completes types' {
        Get-Completion 'New-QuantizationConfig -QuantType n' | Should -Contain 'nf4'
        Get-Completion 'New-QuantizationConfig -ComputeType b' | Should -Contain 'bfloat16'
    }

    It 'names what is wrong or not supported: <Id>' -ForEach @(
        @{ Id = 'QuantizationInvalid'; Arguments = @{} }
        @{ Id = 'QuantizationInvalid'; Arguments = @{ load_in_4bit = $true; load_in_8bit = $true } }
        @{ Id = 'QuantizationNotSupported'; Arguments = @{ load_in_4bit = $true; bnb_4bit_compute_dtype = 'float8' } }
        @{ Id = 'QuantizationNotSupported'; Arguments = @{ load_in_4bit = $true; llm_int8_enable_fp32_cpu_offload = $true } }
    ) {
        $failure = Get-ErrorRecord { New-QuantizationConfig @Arguments -ErrorAction Stop }
        $failure.FullyQualifiedErrorId | Should -BeLike "$Id,*"
        $failure.ErrorDetails.RecommendedAction | Should -Not -BeNullOrEmpty
    }

    It 'is taken as an object or as a table, and the model shows what its packed weights occupy' {
        $packed = Import-PeftModel $base -Name packed -Quantization (New-QuantizationConfig -LoadIn4Bit -QuantType nf4)
        $pasted = Import-PeftModel $base -Name pasted -quantization_config @{ load_in_4bit = $true; bnb_4bit_quant_type = 'nf4'; quant_method = 'bitsandbytes'; _load_in_8bit = $false }
        $packed.Quantization, $pasted.Quantization | Should -Be 'nf4', 'nf4'
        $packed.MemoryBytes | Should -Be $pasted.MemoryBytes
        $packed.MemoryBytes | Should -BeLessThan ($model.MemoryBytes / 2)
        $packed | Export-PeftModel quantised
        $again = Import-PeftModel quantised -Name again
        $again.Quantization, $again.MemoryBytes | Should -Be 'nf4', $packed.MemoryBytes
        $packed, $pasted, $again | Remove-PeftModel
    }

    It 'takes null where Python says None, and the size of a block' {
        $arguments = @{ load_in_4bit = $true; bnb_4bit_quant_type = $null; bnb_4bit_compute_dtype = $null; llm_int8_skip_modules = $null }
        $config = New-QuantizationConfig @arguments
        "$($config.QuantType) $($config.ComputeType) $($config.BlockSize)" | Should -Be 'fp4 Float32 64'
        $coarse = Import-PeftModel $base -Name coarse -Quantization (New-QuantizationConfig -LoadIn4Bit -BlockSize 256)
        $fine = Import-PeftModel $base -Name fine -quantization_config @{ load_in_4bit = $true; BlockSize = 64 }
        $coarse.MemoryBytes | Should -BeLessThan $fine.MemoryBytes
        $coarse | Export-PeftModel coarse
        (Import-PeftModel coarse -Name again).MemoryBytes | Should -Be $coarse.MemoryBytes
        Remove-PeftModel coarse, fine, again
        Get-Completion 'New-QuantizationConfig -BlockSize 1' | Should -Contain '128'
        (Get-ErrorRecord { New-QuantizationConfig -LoadIn4Bit -BlockSize 100 -ErrorAction Stop }).FullyQualifiedErrorId | Should -BeLike 'QuantizationInvalid,*'
    }

    It 'says which field or method is none: <Text>' -ForEach @(
        @{ Text = 'bnb_4bit_quant_type'; Table = @{ load_in_4bit = $true; bnb_4bit_quant_tpe = 'nf4' } }
        @{ Text = "aren't quantised by gptq"; Table = @{ quant_method = 'gptq'; bits = 4 } }
        @{ Text = 'New-QuantizationConfig'; Table = 'nf4' }
    ) {
        (Get-ErrorRecord { Import-PeftModel $base -Name none -quantization_config $Table -ErrorAction Stop }).Exception.Message | Should -BeLike "*$Text*"
    }

    It 'holds a base in eight bits' {
        $eight = Import-PeftModel $base -Name eight -Quantization (New-QuantizationConfig -load_in_8bit)
        $eight.Quantization | Should -Not -BeNullOrEmpty
        $eight.MemoryBytes | Should -BeLessThan $model.MemoryBytes
        $eight | Remove-PeftModel
    }
}

Describe 'Save-HubModel' {
    It 'asks nobody where nothing may be asked' {
        $env:HF_HUB_OFFLINE = '1'
        $failure = Get-ErrorRecord { Save-HubModel nobody/nothing -ErrorAction Stop }
        Remove-Item Env:/HF_HUB_OFFLINE
        $failure.FullyQualifiedErrorId | Should -BeLike 'HubOffline,*'
        $failure.ErrorDetails.RecommendedAction | Should -Not -BeNullOrEmpty
    }

    It 'does nothing with -WhatIf' {
        Save-HubModel nobody/nothing -WhatIf | Should -BeNullOrEmpty
    }

    It 'refuses what is no name on the hub' {
        (Get-ErrorRecord { Save-HubModel ../../etc -ErrorAction Stop }).FullyQualifiedErrorId | Should -BeLike 'HubNameInvalid,*'
    }
}

Describe 'Get-PeftModel' {
    It 'lists what is loaded, by name and wildcard' {
        (Get-PeftModel).Name | Should -Contain 'structure'
        (Get-PeftModel struct*).Name | Should -Be 'structure'
        Get-PeftModel nothing* | Should -BeNullOrEmpty
        Get-PeftModel | Should -BeOfType Peft.Adapters.Model.PeftModel
    }

    It 'completes names' {
        Get-Completion 'Get-PeftModel str' | Should -Contain 'structure'
    }

    It 'says what is not loaded' {
        (Get-ErrorRecord { Get-PeftModel nothing -ErrorAction Stop }).FullyQualifiedErrorId | Should -BeLike 'ModelNotFound,*'
    }
}

Describe 'Compress-PeftModel' {
    BeforeEach {
        $whole = Import-PeftModel $base -Name whole
    }

    AfterEach {
        $whole | Remove-PeftModel
    }

    It 'packs the model in place and puts it out' {
        $whole | Compress-PeftModel @{ load_in_4bit = $true; bnb_4bit_quant_type = 'nf4' } | Should -Be $whole
        $whole.Quantization | Should -Be 'nf4'
    }

    It 'changes nothing under -WhatIf' {
        $whole | Compress-PeftModel -WhatIf
        $whole.Quantization | Should -BeNullOrEmpty
    }

    It 'says what contradicts, and what is packed already' {
        (Get-ErrorRecord { $whole | Compress-PeftModel @{ load_in_8bit = $true } -LoadIn4Bit -ErrorAction Stop }).FullyQualifiedErrorId | Should -BeLike 'ParametersContradict,*'
        $null = $whole | Compress-PeftModel -LoadIn8Bit
        (Get-ErrorRecord { $whole | Compress-PeftModel -ErrorAction Stop }).FullyQualifiedErrorId | Should -BeLike 'WeightsPacked,*'
    }
}

Describe 'Export-PeftModel as GGUF' {
    It 'is what a path that ends in .gguf asks for, calibrated by a file of rows' {
        $rows = Join-Path $TestDrive 'rows.jsonl'
        1..3 | ForEach-Object { @{ text = "The sea is wide and deep, $_ times." } | ConvertTo-Json -Compress } | Set-Content $rows
        $made = $model | Export-PeftModel ./named.gguf -Type Q4_K_M -Calibration $rows -WarningAction SilentlyContinue
        (Get-Content ./named.gguf -AsByteStream -TotalCount 4) -join ' ' | Should -Be '71 71 85 70'
        $made.PerplexityAfter | Should -BeGreaterThan 0
        $adapter = $model | Add-PeftAdapter (New-LoraConfig -TargetModule q_proj) named
        $adapter | Export-PeftAdapter ./adapter.gguf
        (Get-Content ./adapter.gguf -AsByteStream -TotalCount 4) -join ' ' | Should -Be '71 71 85 70'
        (Get-ErrorRecord { $model | Import-PeftAdapter ./adapter.gguf -ErrorAction Stop }).FullyQualifiedErrorId | Should -BeLike 'AdapterFormatNotSupported,*'
        $adapter | Remove-PeftAdapter
    }

    It 'keeps a Modelfile that has lines of its own' {
        $model | Export-PeftModel ./kept/one.gguf
        $model | Export-PeftModel ./kept/two.gguf
        (Get-Content ./kept/Modelfile)[0] | Should -Be 'FROM ./two.gguf'
        Add-Content ./kept/Modelfile 'SYSTEM "Answer in one word."'
        $model | Export-PeftModel ./kept/three.gguf -WarningVariable warnings -WarningAction SilentlyContinue
        (Get-Content ./kept/Modelfile)[0] | Should -Be 'FROM ./two.gguf'
        $warnings | Should -BeLike '*FROM ./three.gguf*'
    }

    It 'refuses what is said of safetensors alone: <Name>' -ForEach @(
        @{ Name = 'DataType'; Arguments = @{ DataType = 'bfloat16' } }
        @{ Name = 'MaxShardSize'; Arguments = @{ MaxShardSize = 1GB } }
    ) {
        (Get-ErrorRecord { $model | Export-PeftModel ./refused.gguf -Format Gguf @Arguments -ErrorAction Stop }).FullyQualifiedErrorId | Should -BeLike 'ParametersContradict,*'
        './refused.gguf' | Should -Not -Exist
    }
}

Describe 'Remove-PeftModel' {
    BeforeEach {
        $gone = Import-PeftModel $base -StructureOnly -Name gone
    }

    It 'frees a model from the pipeline, and a second time does no harm' {
        $gone | Remove-PeftModel | Should -BeNullOrEmpty
        { $gone | Remove-PeftModel -ErrorAction Stop } | Should -Not -Throw
        Get-PeftModel gone* | Should -BeNullOrEmpty
    }

    It 'frees nothing under -WhatIf' {
        Remove-PeftModel gone -WhatIf
        (Get-PeftModel gone).Name | Should -Be 'gone'
        Remove-PeftModel gone
    }

    It 'completes names, and says what is not loaded' {
        Get-Completion 'Remove-PeftModel go' | Should -Contain 'gone'
        (Get-ErrorRecord { Remove-PeftModel nothing -ErrorAction Stop }).FullyQualifiedErrorId | Should -BeLike 'ModelNotFound,*'
        $gone | Remove-PeftModel
    }
}

Describe 'Export-PeftModel' {
    It 'writes a model that is read again, and puts out nothing unless it is asked to' {
        $model | Export-PeftModel written | Should -BeNullOrEmpty
        'written/config.json', 'written/model.safetensors', 'written/tokenizer.json' | Should -Exist
        $again = Import-PeftModel written -Name again
        ($again | Measure-ModelParameter).Total | Should -Be ($model | Measure-ModelParameter).Total
        $again | Remove-PeftModel
        $model | Export-PeftModel written -Force -PassThru | Should -BeOfType Peft.Adapters.Model.PeftModel
    }

    It 'leaves what is there without -Force' {
        $model | Export-PeftModel kept
        (Get-ErrorRecord { $model | Export-PeftModel kept -ErrorAction Stop }).FullyQualifiedErrorId | Should -BeLike 'OutputExists,*'
    }

    It 'puts no model beside an adapter, -Force or not, and no adapter beside a model' {
        $adapter = $model | Add-PeftAdapter (New-LoraConfig -Rank 2 -TargetModule q_proj) -AdapterName beside
        $adapter | Export-PeftAdapter apart
        (Get-ErrorRecord { $model | Export-PeftModel apart -Force -ErrorAction Stop }).FullyQualifiedErrorId | Should -BeLike 'OutputExists,*'
        'apart/config.json' | Should -Not -Exist
        $model | Export-PeftModel whole
        (Get-ErrorRecord { $adapter | Export-PeftAdapter whole -ErrorAction Stop }).FullyQualifiedErrorId | Should -BeLike 'OutputExists,*'
        'whole/adapter_config.json' | Should -Not -Exist
        $adapter | Remove-PeftAdapter
    }

    It 'writes nothing under -WhatIf' {
        $model | Export-PeftModel never -WhatIf
        'never' | Should -Not -Exist
    }

    It 'cuts into shards of the size that is asked for' {
        $model | Export-PeftModel sharded -MaxShardSize 4MB
        (Get-ChildItem sharded -Filter *.safetensors).Count | Should -BeGreaterThan 1
        'sharded/model.safetensors.index.json' | Should -Exist
    }

    It 'says that weights are missing where only the structure was loaded' {
        (Get-ErrorRecord { $structure | Export-PeftModel none -ErrorAction Stop }).FullyQualifiedErrorId | Should -BeLike 'WeightsNotLoaded,*'
        'none' | Should -Not -Exist
    }

    It 'shows its progress' {
        (Get-Stream Progress '$args[0] | Export-PeftModel $args[1]' $model, "$TestDrive/shown").PercentComplete | Should -Contain 100
    }
}

Describe 'Freeing models of one name' {
    It 'asks which one is meant, and says what was never saved' {
        $first, $second = (Import-PeftModel $base -Name twice -DataType float32), (Import-PeftModel $base -Name twice -DataType float32)
        (Get-ErrorRecord { Remove-PeftModel twice -ErrorAction Stop }).FullyQualifiedErrorId | Should -BeLike 'ModelNameAmbiguous,*'
        $null = $first | Invoke-LoraTraining @{ r = 2 } @{ prompt = 'A'; completion = ' b' } -AdapterName lost -MaxSteps 1 6>$null
        Get-PeftModel twice | Remove-PeftModel -WarningVariable warned 3>$null
        $warned | Should -Match 'lost'
    }
}

Describe 'Merging and writing in one line' {
    It 'merges nothing for good where the folder is taken' {
        $base2 = Import-PeftModel $base -DataType float32
        $adapter = $base2 | Add-PeftAdapter (New-LoraConfig -TargetModule q_proj) a
        $taken = Join-Path $TestDrive taken
        $base2 | Export-PeftModel $taken
        (Get-ErrorRecord { $adapter | Merge-LoraAdapter -Unload | Export-PeftModel $taken -ErrorAction Stop }).FullyQualifiedErrorId | Should -BeLike 'OutputExists,*'
        $base2.Adapters.Count, $base2.IsMerged | Should -Be 1, $false
        $base2 | Remove-PeftModel
    }
}

Describe 'Get-ModelModule' {
    It 'lists modules, and groups of those that are alike' {
        $structure | Get-ModelModule *.layers.0.self_attn.q_proj | Should -BeOfType Peft.Cmdlets.Commands.Model.ModelModule
        $groups = $structure | Get-ModelModule -Kind Linear -Summary
        $groups.Name | Should -Contain 'q_proj'
        ($groups | Where-Object Name -EQ q_proj).Count | Should -Be 6
    }

    It 'completes paths and kinds' {
        Get-Completion '$structure | Get-ModelModule model.layers.0.self' | Should -Contain 'model.layers.0.self_attn.q_proj'
        Get-Completion '$structure | Get-ModelModule -Kind Lin' | Should -Contain 'Linear'
    }

    It 'says of each module what is trained, where and as what it lies, and which methods adapt it by default' {
        $wide = Import-PeftModel $base -DataType bfloat16 -Name described
        $null = $wide | Add-PeftAdapter (New-LoraConfig -Rank 2 -TargetModule q_proj) a
        $queries, $norm = ($wide | Get-ModelModule model.layers.0.self_attn.q_proj), ($wide | Get-ModelModule model.layers.0.input_layernorm)
        $queries.TrainableCount, $norm.TrainableCount, ($wide | Get-ModelModule)[0].TrainableCount | Should -Be (2 * 2 * 192), 0, (6 * 2 * 2 * 192)
        $queries.DataType, $queries.Device | Should -Be bfloat16, cpu
        $queries.DefaultMethods | Should -Contain LORA
        $queries.DefaultMethods | Should -Not -Contain IA3
        ($wide | Get-ModelModule model.layers.0.self_attn.k_proj).DefaultMethods | Should -Contain IA3
        $norm.DefaultMethods | Should -Be LN_TUNING
        $wide | Remove-PeftModel
    }

    It 'says what is no module' {
        (Get-ErrorRecord { $structure | Get-ModelModule nothing -ErrorAction Stop }).FullyQualifiedErrorId | Should -BeLike 'ModuleNotFound,*'
    }
}

Describe 'Measure-ModelParameter' {
    It 'counts, as an object and in the peer''s words' {
        $measured = $structure | Measure-ModelParameter
        $measured.Total | Should -Be 3221952
        "$measured" | Should -Match '^trainable params: 0 \|\| all params: 3,221,952 \|\| trainable%: 0\.0000$'
    }

    It 'tells file and memory before weights are loaded, GPT-3''s too' {
        $null = New-Item -ItemType Directory gpt3
        '{ "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 12288, "n_layer": 96, "n_head": 96, "n_positions": 2048 }' | Set-Content gpt3/config.json
        $gpt3 = Import-PeftModel gpt3 -StructureOnly
        $null = $gpt3 | Add-PeftAdapter (New-LoraConfig -Rank 4) a
        $measured = $gpt3 | Measure-ModelParameter
        $base3 = $measured.Total - $measured.Trainable
        $measured.AdapterBytes, $measured.TrainingBytes, $measured.FullTrainingBytes | Should -Be (4 * $measured.Trainable), ((4 * $base3) + (16 * $measured.Trainable)), (16 * $base3)
        $gpt3 | Remove-PeftModel
    }

    It 'takes a loaded model by its name' {
        (Measure-ModelParameter -Model structure).Total | Should -Be 3221952
        (Get-ErrorRecord { Measure-ModelParameter -Model nothing -ErrorAction Stop }) | Should -BeLike '*nothing*'
    }
}

Describe 'Get-PeftDevice' {
    It 'lists the processor at least' {
        (Get-PeftDevice).Name | Should -Contain 'cpu'
        Get-PeftDevice | Should -BeOfType Peft.Cmdlets.Commands.Model.DeviceInformation
    }
}
