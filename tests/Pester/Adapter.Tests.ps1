# The cmdlets for adapters.
Describe 'The cmdlets for adapters' {
    BeforeAll {
        . "$PSScriptRoot/Support.ps1"
        $model = Import-PeftModel $base -DataType float32
        $config = New-LoraConfig -TargetModule q_proj -Rank 2 -Initialization false
        Push-Location $TestDrive
        function Get-Score { ($model | Measure-Perplexity 'Once upon a time there was a cat.').Loss }
    }

    BeforeEach {
        $adapter = $model | Add-PeftAdapter $config a -Seed 1
    }

    AfterEach {
        if ($model.IsMerged) { $null = $model | Undo-LoraMerge }
        $model | Remove-PeftAdapter *
    }

    AfterAll {
        Pop-Location
        $model | Remove-PeftModel
    }

    Describe 'Add-PeftAdapter with data' {
        It 'lets data decide the start and shows progress' {
            $data = 'Once upon a time there was a cat.', 'The dog ran home.', 'She sang a song.' | ForEach-Object { @{ text = $_ } }
            $made = $model | Add-PeftAdapter (New-LoraConfig -TargetModule q_proj -Rank 2 -Initialization eva -eva_config @{ rho = 1 }) fresh -Dataset $data
            $made.Config.Initialisation | Should -Be 'eva'
        }

        It 'refuses to start without data' {
            { $model | Add-PeftAdapter (New-LoraConfig -TargetModule q_proj -Initialization corda) fresh -ErrorAction Stop } | Should -Throw -ErrorId 'StartNeedsData,*'
        }
    }

    Describe 'Convert-PeftAdapter' {
        BeforeAll {
            # A LoRA of rank 1 on one convolution of Stable Diffusion 1, as kohya's scripts name it.
            $header = [Text.Encoding]::UTF8.GetBytes('{"__metadata__":{"ss_base_model_version":"sd_v1"},"lora_unet_conv_in.lora_down.weight":{"dtype":"F32","shape":[1,4,3,3],"data_offsets":[0,144]},"lora_unet_conv_in.lora_up.weight":{"dtype":"F32","shape":[320,1,1,1],"data_offsets":[144,1424]}}')
            [IO.File]::WriteAllBytes("$TestDrive/kohya.safetensors", [BitConverter]::GetBytes([long]$header.Length) + $header + [byte[]]::new(1424))
        }

        It 'writes another format and says what came of it' {
            $report = Convert-PeftAdapter ./kohya.safetensors ./diffusers.safetensors Diffusers
            $report | Should -BeOfType Peft.Diffusion.Adapters.AdapterFormatReport
            $report.Modules, $report.Lost.Count | Should -Be 1, 0
            [Text.Encoding]::UTF8.GetString([IO.File]::ReadAllBytes("$TestDrive/diffusers.safetensors")) | Should -Match 'unet\.conv_in\.lora_A\.weight'
        }

        It 'writes nothing with -WhatIf, and over nothing without -Force' {
            Convert-PeftAdapter ./kohya.safetensors ./none.safetensors LyCORIS -WhatIf
            './none.safetensors' | Should -Not -Exist
            { Convert-PeftAdapter ./kohya.safetensors ./kohya.safetensors LyCORIS -ErrorAction Stop } | Should -Throw -ErrorId 'OutputExists,*'
        }

        It 'refuses what is no such file, and a model that it is not for' {
            $adapter | Export-PeftAdapter ./llama
            { Convert-PeftAdapter ./llama/adapter_model.safetensors ./none.safetensors Kohya -ErrorAction Stop } | Should -Throw -ErrorId 'AdapterModelUnclear,*'
            { Convert-PeftAdapter ./kohya.safetensors ./none.safetensors Kohya -Model $model -ErrorAction Stop } | Should -Throw -ErrorId 'AdapterModelMismatch,*'
            { $model | Import-PeftAdapter ./kohya.safetensors -ErrorAction Stop } | Should -Throw -ErrorId 'AdapterModelMismatch,*'
            { $adapter | Export-PeftAdapter ./none -Layout PerExpert -ErrorAction Stop } | Should -Throw -ErrorId 'AdapterFormatNotSupported,*'
            { $adapter | Export-PeftAdapter ./none -Layout PerExpert -Format Mlx } | Should -Throw -ErrorId 'ParametersContradict,*'
            { $adapter | Export-PeftAdapter ./none.safetensors -Format Kohya -ErrorAction Stop } | Should -Throw -ErrorId 'AdapterModelMismatch,*'
        }
    }

    Describe 'ConvertTo-LoraAdapter' {
        It 'makes LoRA of another method and says what is lost' {
            $loha = $model | Add-PeftAdapter (New-LoHaConfig -TargetModule q_proj -Rank 2 -StartAtZero $false) loha -Seed 1
            $lora = $loha | ConvertTo-LoraAdapter -Rank 4 -NewName lora -InformationVariable said
            $lora | Should -BeOfType Peft.Adapters.Model.PeftAdapter
            $lora.Config.PeftType, $lora.Config.Rank | Should -Be 'LORA', 4
            "$said" | Should -Match 'of the change is lost'
            $lora.Conversion.Layers.Count | Should -Be $loha.AdaptedModules.Count
            $loha | Set-ActiveAdapter
            $before = Get-Score
            $lora | Set-ActiveAdapter
            Get-Score | Should -BeGreaterThan ($before - 0.01)
            Get-Score | Should -BeLessThan ($before + 0.01)
        }

        It 'changes nothing with -WhatIf' {
            $adapter | ConvertTo-LoraAdapter -WhatIf
            ($model | Get-PeftAdapter).Name | Should -Be 'a'
        }

        It 'refuses a name that is taken, and what has no weights' {
            { $adapter | ConvertTo-LoraAdapter -NewName a -ErrorAction Stop } | Should -Throw -ErrorId 'AdapterExists,*'
            $prompt = $model | Add-PeftAdapter (New-PromptTuningConfig -VirtualTokenCount 2) prompt
            { $prompt | ConvertTo-LoraAdapter -ErrorAction Stop } | Should -Throw -ErrorId 'AdapterConversionNotPossible,*'
        }

        It 'extracts what a model has that another has not' {
            $tuned = Import-PeftModel $base -DataType float32 -Name tuned
            $null = $tuned | Add-PeftAdapter $config b -Seed 1 | Merge-LoraAdapter -Unload
            $learnt = ConvertTo-LoraAdapter -BaseModel $model -TunedModel $tuned -Rank 2 -NewName learnt
            $learnt.Conversion.Error | Should -BeLessThan 0.001
            $learnt.Config.TargetModules.Names | Should -Be 'q_proj'
            $tuned | Remove-PeftModel
        }

        It 'completes names of adapters' {
            Get-Completion 'ConvertTo-LoraAdapter -Model $model -AdapterName ' | Should -Contain 'a'
        }
    }

    Describe 'Measure-IntruderDimension' {
        It 'finds the directions that a strong change of low rank brings' {
            $strong = $model | Add-PeftAdapter (New-LoraConfig -TargetModule q_proj -Rank 2 -Alpha 2000 -Initialization false) strong -Seed 1
            $found = $strong | Measure-IntruderDimension -Leading 4
            $found | Should -BeOfType Peft.Adapters.Conversion.IntruderReport
            ($found | Measure-Object Count -Sum).Sum | Should -BeGreaterThan 0
            $found[0].Likeness.Count | Should -Be 4
        }

        It 'finds none where nothing changes' {
            $idle = $model | Add-PeftAdapter (New-LoraConfig -TargetModule q_proj -Rank 2) idle
            ($idle | Measure-IntruderDimension | Measure-Object Count -Sum).Sum | Should -Be 0
        }

        It 'refuses an adapter that is not there' {
            { $model | Measure-IntruderDimension nobody -ErrorAction Stop } | Should -Throw -ErrorId 'AdapterNotFound,*'
        }
    }

    Describe 'New-PeftConfig' {
        It 'makes the configuration of any method, with the method''s fields for parameters' {
            $made = New-PeftConfig -Method IA3 -TargetModule k_proj, down_proj -FeedforwardModule down_proj
            $made | Should -BeOfType Peft.Adapters.AdapterConfig
            $made.PeftType | Should -Be 'IA3'
            ($made.FeedforwardModules.Names) | Should -Be 'down_proj'
            ($model | Add-PeftAdapter $made other).Config.PeftType | Should -Be 'IA3'
        }

        It 'takes Hugging Face''s spelling of fields' {
            $peer = @{ Method = 'LOHA'; r = 4; alpha = 8; target_modules = 'q_proj' }
            $made = New-PeftConfig @peer
            $made.PeftType, $made.Rank | Should -Be 'LOHA', 4
        }

        It 'completes methods' {
            Get-Completion 'New-PeftConfig -Method IA' | Should -Contain 'IA3'
        }

        It 'refuses a method that is none' {
            (New-PeftConfig -Method LOHA -r 4 | Out-String) | Should -Match 'Settings +: .*r=4, alpha=8'
            { New-PeftConfig -Method NOTHING -ErrorAction Stop } | Should -Throw
        }
    }

    Describe 'New-LoraConfig' {
        It 'takes a configuration in Hugging Face''s spelling' {
            $peer = @{ r = 4; lora_alpha = 8; target_modules = 'q_proj', 'v_proj'; lora_dropout = 0.1; task_type = 'CAUSAL_LM' }
            $made = New-LoraConfig @peer
            $made | Should -BeOfType Peft.Adapters.Methods.Lora.LoraConfig
            $made.Rank, $made.Alpha, $made.Dropout | Should -Be 4, 8, 0.1
        }

        It 'completes names of modules' {
            Get-Completion 'New-LoraConfig -TargetModule gat' | Should -Contain 'gate_proj'
            Get-Completion 'New-LoraConfig -TargetModule all' | Should -Contain 'all-linear'
        }

        It 'refuses what is no rank' {
            { New-LoraConfig -Rank 0 -ErrorAction Stop } | Should -Throw
        }
    }

    Describe 'New-AdaLoraConfig' {
        It 'takes a configuration in Hugging Face''s spelling' {
            $peer = @{ init_r = 6; target_r = 2; tinit = 3; tfinal = 5; total_step = 20; deltaT = 2; target_modules = 'q_proj' }
            $made = New-AdaLoraConfig @peer
            $made.InitialRank, $made.TargetRank, $made.TotalSteps | Should -Be 6, 2, 20
        }

        It 'refuses a schedule without a step to prune in' {
            { New-AdaLoraConfig -WarmupSteps 10 -FinalSteps 10 -TotalSteps 20 -ErrorAction Stop } | Should -Throw
        }
    }

    Describe 'New-IA3Config' {
        It 'takes a configuration in Hugging Face''s spelling' {
            $made = New-IA3Config -target_modules k_proj, v_proj, down_proj -feedforward_modules down_proj
            $made.PeftType, $made.FeedforwardModules.Names | Should -Be 'IA3', 'down_proj'
        }

        It 'refuses feed-forward modules that are no targets' {
            { New-IA3Config -TargetModule k_proj -FeedforwardModule down_proj -ErrorAction Stop } | Should -Throw
        }
    }

    Describe 'New-LoHaConfig' {
        It 'takes a configuration in Hugging Face''s spelling' {
            $made = New-LoHaConfig -r 4 -alpha 8 -rank_dropout 0.1
            $made.PeftType, $made.Rank, $made.Alpha, $made.RankDropout | Should -Be 'LOHA', 4, 8, 0.1
        }

        It 'refuses what is no rank' {
            { New-LoHaConfig -Rank 0 -ErrorAction Stop } | Should -Throw
        }
    }

    Describe 'New-LoKrConfig' {
        It 'takes a configuration in Hugging Face''s spelling' {
            $made = New-LoKrConfig -r 4 -decompose_factor 8
            $made.PeftType, $made.Rank, $made.DecomposeFactor | Should -Be 'LOKR', 4, 8
        }

        It 'refuses what is no rank' {
            { New-LoKrConfig -Rank 0 -ErrorAction Stop } | Should -Throw
        }
    }

    Describe 'New-PromptTuningConfig' {
        It 'makes a configuration whose adapter the model takes' {
            $made = New-PromptTuningConfig -num_virtual_tokens 4
            $made.PeftType, $made.VirtualTokens | Should -Be 'PROMPT_TUNING', 4
            ($model | Add-PeftAdapter $made front).Config.PeftType | Should -Be 'PROMPT_TUNING'
        }

        It 'refuses none' {
            { New-PromptTuningConfig -VirtualTokenCount 0 -ErrorAction Stop } | Should -Throw
        }
    }

    Describe 'New-MultitaskPromptTuningConfig' {
        It 'makes a configuration whose adapter the model takes' {
            $made = New-MultitaskPromptTuningConfig -num_virtual_tokens 4 -num_tasks 2
            $made.PeftType, $made.TaskCount | Should -Be 'MULTITASK_PROMPT_TUNING', 2
            ($model | Add-PeftAdapter $made front).Config.PeftType | Should -Be 'MULTITASK_PROMPT_TUNING'
        }

        It 'refuses a start from another adapter without its file' {
            { New-MultitaskPromptTuningConfig -VirtualTokenCount 4 -Initialization EXACT_SOURCE_TASK -ErrorAction Stop } | Should -Throw
        }
    }

    Describe 'New-PrefixTuningConfig' {
        It 'makes a configuration whose adapter the model takes' {
            $made = New-PrefixTuningConfig -num_virtual_tokens 4
            $made.PeftType, $made.VirtualTokens | Should -Be 'PREFIX_TUNING', 4
            ($model | Add-PeftAdapter $made front).Config.PeftType | Should -Be 'PREFIX_TUNING'
        }

        It 'refuses none' {
            { New-PrefixTuningConfig -VirtualTokenCount 0 -ErrorAction Stop } | Should -Throw
        }
    }

    Describe 'New-PromptEncoderConfig' {
        It 'makes a configuration whose adapter the model takes' {
            $made = New-PromptEncoderConfig -num_virtual_tokens 4
            $made.PeftType, $made.VirtualTokens | Should -Be 'P_TUNING', 4
            ($model | Add-PeftAdapter $made front).Config.PeftType | Should -Be 'P_TUNING'
        }

        It 'refuses none' {
            { New-PromptEncoderConfig -VirtualTokenCount 0 -ErrorAction Stop } | Should -Throw
        }
    }

    Describe 'Add-PeftAdapter' {
        It 'puts out the adapter, active where it is the first' {
            $adapter | Should -BeOfType Peft.Adapters.Model.PeftAdapter
            $adapter.IsActive | Should -BeTrue
            ($model | Add-PeftAdapter $config b).IsActive | Should -BeFalse
        }

        It 'adds nothing under -WhatIf' {
            $model | Add-PeftAdapter $config b -WhatIf
            $model.Adapters.Name | Should -Be 'a'
        }

        It 'names what is wrong: <Id>' -ForEach @(
            @{ Id = 'AdapterExists'; Name = 'a'; Target = 'q_proj' }
            @{ Id = 'AdapterNameInvalid'; Name = 'a:b'; Target = 'q_proj' }
            @{ Id = 'NoModuleMatched'; Name = 'b'; Target = 'nothing' }
        ) {
            (Get-ErrorRecord { $model | Add-PeftAdapter (New-LoraConfig -TargetModule $Target) $Name -ErrorAction Stop }).FullyQualifiedErrorId | Should -BeLike "$Id,*"
            $model.Adapters.Name | Should -Be 'a'
        }
    }

    Describe 'Get-PeftAdapter' {
        It 'lists the adapters of a model, or of all' {
            $null = $model | Add-PeftAdapter $config b
            ($model | Get-PeftAdapter).Name | Should -Be 'a', 'b'
            (Get-PeftAdapter b).Name | Should -Be 'b'
            Get-PeftAdapter | Should -BeOfType Peft.Adapters.Model.PeftAdapter
        }

        It 'completes names, and says what is not there' {
            Get-Completion '$model | Get-PeftAdapter -AdapterName ' | Should -Contain 'a'
            (Get-ErrorRecord { $model | Get-PeftAdapter nothing -ErrorAction Stop }).FullyQualifiedErrorId | Should -BeLike 'AdapterNotFound,*'
        }
    }

    Describe 'Export-PeftAdapter' {
        It 'writes files that are read again' {
            $adapter | Export-PeftAdapter saved | Should -BeNullOrEmpty
            'saved/adapter_config.json', 'saved/adapter_model.safetensors' | Should -Exist
            $with = Get-Score
            $model | Remove-PeftAdapter a
            ($model | Import-PeftAdapter saved -AdapterName again).Name | Should -Be 'again'
            Get-Score | Should -Be $with
        }

        It 'leaves what is there without -Force, and writes nothing under -WhatIf' {
            $adapter | Export-PeftAdapter kept
            (Get-ErrorRecord { $adapter | Export-PeftAdapter kept -ErrorAction Stop }).FullyQualifiedErrorId | Should -BeLike 'OutputExists,*'
            $adapter | Export-PeftAdapter never -WhatIf
            'never' | Should -Not -Exist
        }

        It 'completes names' {
            Get-Completion '$model | Export-PeftAdapter x -AdapterName ' | Should -Contain 'a'
        }
    }

    Describe 'Import-PeftAdapter' {
        BeforeAll {
            $null = $model | Add-PeftAdapter $config source | Export-PeftAdapter source
            $model | Remove-PeftAdapter source
        }

        It 'takes folders from the pipeline and names adapters after them' {
            $read = Get-Item source | Import-PeftAdapter -Model $model
            $read | Should -BeOfType Peft.Adapters.Model.PeftAdapter
            $read.Name | Should -Be 'source'
        }

        It 'replaces with -Force alone, and loads nothing under -WhatIf' {
            (Get-ErrorRecord { $model | Import-PeftAdapter source a -ErrorAction Stop }).FullyQualifiedErrorId | Should -BeLike 'AdapterExists,*'
            ($model | Import-PeftAdapter source a -Force).Name | Should -Be 'a'
            $model | Import-PeftAdapter source b -WhatIf
            $model.Adapters.Name | Should -Be 'a'
        }

        It 'says what is not there' {
            (Get-ErrorRecord { $model | Import-PeftAdapter nowhere -ErrorAction Stop }).FullyQualifiedErrorId | Should -BeLike 'PathNotFound,*'
            $null = New-Item -ItemType Directory bare
            (Get-ErrorRecord { $model | Import-PeftAdapter bare -ErrorAction Stop }).FullyQualifiedErrorId | Should -BeLike 'AdapterNotFound,*'
        }
    }

    Describe 'Remove-PeftAdapter' {
        It 'gives the base back' {
            $with = Get-Score
            $adapter | Remove-PeftAdapter | Should -BeNullOrEmpty
            Get-Score | Should -Not -Be $with
            $model.Adapters.Count | Should -Be 0
        }

        It 'removes nothing under -WhatIf, and says what is not there' {
            $model | Remove-PeftAdapter a -WhatIf
            $model.Adapters.Name | Should -Be 'a'
            (Get-ErrorRecord { $model | Remove-PeftAdapter nothing -ErrorAction Stop }).FullyQualifiedErrorId | Should -BeLike 'AdapterNotFound,*'
        }

        It 'completes names' {
            Get-Completion '$model | Remove-PeftAdapter -AdapterName ' | Should -Contain 'a'
            $global:completedAdapter = $model | Get-PeftAdapter a
            Get-Completion 'Remove-PeftAdapter -Adapter ' | Should -Contain '$completedAdapter'
            Remove-Variable completedAdapter -Scope Global
        }
    }

    Describe 'Set-ActiveAdapter' {
        It 'activates all of its pipeline, and puts them out where it is asked to' {
            $other = $model | Add-PeftAdapter $config b -Seed 2
            $adapter, $other | Set-ActiveAdapter | Should -BeNullOrEmpty
            $model.ActiveAdapters | Should -Be 'a', 'b'
            ($other | Set-ActiveAdapter -PassThru).Name | Should -Be 'b'
            $model.ActiveAdapters | Should -Be 'b'
        }

        It 'switches nothing under -WhatIf, and says what is not there' {
            $null = $model | Add-PeftAdapter $config b
            $model | Set-ActiveAdapter b -WhatIf
            $model.ActiveAdapters | Should -Be 'a'
            (Get-ErrorRecord { $model | Set-ActiveAdapter nothing -ErrorAction Stop }).FullyQualifiedErrorId | Should -BeLike 'AdapterNotFound,*'
        }

        It 'completes names' {
            Get-Completion '$model | Set-ActiveAdapter ' | Should -Contain 'a'
        }
    }

    Describe 'Disable-PeftAdapter' {
        It 'leaves the base alone, and the active set in mind' {
            $with = Get-Score
            $model | Disable-PeftAdapter | Should -BeNullOrEmpty
            $model.AdaptersEnabled | Should -BeFalse
            Get-Score | Should -Not -Be $with
            $adapter | Should -HaveCount 1
            $model.ActiveAdapters | Should -Be 'a'
            $model | Enable-PeftAdapter
        }

        It 'changes nothing under -WhatIf' {
            $model | Disable-PeftAdapter -WhatIf
            $model.AdaptersEnabled | Should -BeTrue
        }
    }

    Describe 'Enable-PeftAdapter' {
        It 'takes them up again, and puts out the model where it is asked to' {
            $with = Get-Score
            $model | Disable-PeftAdapter
            $adapter | Enable-PeftAdapter -PassThru | Should -BeOfType Peft.Adapters.Model.PeftModel
            Get-Score | Should -Be $with
        }

        It 'changes nothing under -WhatIf' {
            $model | Disable-PeftAdapter
            $model | Enable-PeftAdapter -WhatIf
            $model.AdaptersEnabled | Should -BeFalse
            $model | Enable-PeftAdapter
        }
    }

    Describe 'Join-PeftAdapter' {
        BeforeEach {
            $other = $model | Add-PeftAdapter $config b -Seed 2
        }

        It 'adds the sum of its pipeline as a new adapter' {
            $sum = $adapter, $other | Join-PeftAdapter -NewName both -Weight 0.5, 0.5 -Type Linear
            $sum | Should -BeOfType Peft.Adapters.Model.PeftAdapter
            $sum.Name | Should -Be 'both'
            $model.Adapters.Name | Should -Be 'a', 'b', 'both'
        }

        It 'adds nothing under -WhatIf, and says what does not fit' {
            $adapter, $other | Join-PeftAdapter -NewName both -WhatIf
            (Get-ErrorRecord { $adapter, $other | Join-PeftAdapter -NewName both -Weight 1, 2, 3 -ErrorAction Stop }).ErrorDetails.RecommendedAction | Should -Not -BeNullOrEmpty
            $model.Adapters.Name | Should -Be 'a', 'b'
        }

        It 'completes names' {
            Get-Completion '$model | Join-PeftAdapter -AdapterName ' | Should -Contain 'b'
        }
    }

    Describe 'Merge-LoraAdapter' {
        It 'puts out the model, which says what the adapter said' {
            $with = Get-Score
            $merged = $adapter | Merge-LoraAdapter
            [object]::ReferenceEquals($merged, $model) | Should -BeTrue
            $model.IsMerged | Should -BeTrue
            Get-Score | Should -BeGreaterThan ($with - 1e-4)
            Get-Score | Should -BeLessThan ($with + 1e-4)
        }

        It 'merges nothing under -WhatIf, and says what is not there' {
            $adapter | Merge-LoraAdapter -WhatIf
            $model.IsMerged | Should -BeFalse
            (Get-ErrorRecord { $model | Merge-LoraAdapter nothing* -ErrorAction Stop }).FullyQualifiedErrorId | Should -BeLike 'AdapterNotFound,*'
        }

        It 'merges from folder to folder without a loaded model' {
            $adapter | Export-PeftAdapter ./a
            $with = Get-Score
            $folder = Merge-LoraAdapter -Path $base -AdapterPath ./a -OutputPath ./out -MaxShardSize 1MB
            $folder | Should -BeOfType System.IO.DirectoryInfo
            $merged = Import-PeftModel ./out -DataType float32 -Name merged
            ($merged | Measure-Perplexity 'Once upon a time there was a cat.').Loss | Should -BeLessThan ($with + 0.05)
            $merged | Remove-PeftModel
            { Merge-LoraAdapter -Path $base -AdapterPath ./a -OutputPath ./out -ErrorAction Stop } | Should -Throw -ErrorId 'OutputExists,*'
        }

        It 'has an alias for every method' {
            ($adapter | Merge-PeftAdapter).IsMerged | Should -BeTrue
        }
    }

    Describe 'Undo-LoraMerge' {
        It 'restores the base bit for bit, and puts out the model' {
            $null = $model | Disable-PeftAdapter
            $before = Get-Score
            $model | Enable-PeftAdapter
            $null = $adapter | Merge-LoraAdapter
            $model | Undo-PeftMerge | Should -BeOfType Peft.Adapters.Model.PeftModel
            $null = $model | Disable-PeftAdapter
            Get-Score | Should -Be $before
            $model | Enable-PeftAdapter
        }

        It 'undoes nothing under -WhatIf' {
            $null = $adapter | Merge-LoraAdapter
            $model | Undo-LoraMerge -WhatIf
            $model.IsMerged | Should -BeTrue
        }
    }
}
