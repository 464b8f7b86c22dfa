# The cmdlets for data and training.
Describe 'The cmdlets for data and training' {
    BeforeAll {
        . "$PSScriptRoot/Support.ps1"
        $model = Import-PeftModel $base -DataType float32
        $config = New-LoraConfig -TargetModule q_proj -Rank 2
        $data = @{ prompt = 'A'; completion = ' b' }, @{ prompt = 'C'; completion = ' d' } | Import-TrainingDataset
        Push-Location $TestDrive
    }

    AfterEach {
        if ($model.IsMerged) { $null = $model | Undo-LoraMerge }
        $model | Remove-PeftAdapter *
    }

    AfterAll {
        Pop-Location
        $model | Remove-PeftModel
    }

    Describe 'Import-TrainingDataset' {
        It 'takes rows from the pipeline, and files from Get-ChildItem' {
            $data | Should -BeOfType Peft.Training.Data.TrainingDataset
            $data.Count | Should -Be 2
            '{"text":"x"}' | Set-Content rows.jsonl
            (Get-Item rows.jsonl | Import-TrainingDataset).Count | Should -Be 1
        }

        It 'takes rows from Import-Csv' {
            "question;answer`nWho?;Me`nWhat?;That" | Set-Content faq.csv
            $faq = Import-Csv faq.csv -Delimiter ';' | Import-TrainingDataset -PromptColumn question -CompletionColumn answer
            $faq.Count | Should -Be 2
            (Import-TrainingDataset ./faq.csv -PromptColumn question -CompletionColumn answer).Count | Should -Be 2
            ($faq | Show-TrainingExample -Model $model -First 1).LearnedText | Should -Match 'Me'
        }

        It 'reads a path with brackets literally' {
            $null = New-Item -ItemType Directory 'a[1]'
            '{"text":"x"}' | Set-Content -LiteralPath 'a[1]/d.jsonl'
            (Import-TrainingDataset -LiteralPath 'a[1]/d.jsonl').Count | Should -Be 1
            (Get-ChildItem -LiteralPath 'a[1]' | Import-TrainingDataset).Count | Should -Be 1
            { Import-TrainingDataset 'nothing*' -ErrorAction Stop } | Should -Throw -ErrorId 'PathNotFound,*'
        }

        It 'says file, line and field of a bad row' {
            '{"prompt":"a","completion":"b"}', '{"prompt":"c","completion":null}' | Set-Content bad.jsonl
            $failure = Get-ErrorRecord { Import-TrainingDataset bad.jsonl -ErrorAction Stop }
            $failure.Exception.Message | Should -Match 'bad\.jsonl'
            $failure.Exception.Message | Should -Match '\b2\b'
            $failure.Exception.Message | Should -Match 'completion'
        }

        It 'completes encodings and templates' {
            Get-Completion 'Import-TrainingDataset x -Encoding shift' | Should -Contain 'shift_jis'
            Get-Completion 'Import-TrainingDataset x -Template ' | Should -Not -BeNullOrEmpty
        }
    }

    Describe 'Show-TrainingExample' {
        It 'shows what is read and what is learnt' {
            $view = $data | Show-TrainingExample -Model $model -First 1
            $view | Should -BeOfType Peft.Cmdlets.Commands.Training.TrainingExampleView
            $view.LearnedText | Should -Match 'b'
            $view | Out-String | Should -Match 'learn \|'
        }

        It 'takes examples by their place, and says which are not there' {
            ($data | Show-TrainingExample -Model $model -Index 1).LearnedText | Should -Match 'd'
            { $data | Show-TrainingExample -Model $model -Index 7 -ErrorAction Stop } | Should -Throw
        }

        It 'completes names of models' {
            Get-Completion 'Show-TrainingExample $data -Model pock' | Should -Contain 'pocket-llama'
        }
    }

    Describe 'Invoke-LoraTraining' {
        It 'puts out the adapter with its record' {
            $adapter = $model | Invoke-LoraTraining $config $data -AdapterName tiny -Epoch 2 -BatchSize 1 6>$null
            $adapter | Should -BeOfType Peft.Adapters.Model.PeftAdapter
            $adapter.Name, $adapter.TrainingRecord.StepCount | Should -Be 'tiny', 4
            $adapter.TrainingRecord.FinalLoss | Should -BeGreaterThan 0
        }

        It 'goes on with an adapter from the pipeline' {
            $adapter = $model | Add-PeftAdapter $config a
            ($adapter | Invoke-LoraTraining $data -MaxSteps 1 6>$null).Name | Should -Be 'a'
        }

        It 'writes the adapter and its checkpoints, and goes on from them' {
            $null = $model | Invoke-LoraTraining $config $data -AdapterName kept -MaxSteps 2 -OutputPath out 6>$null
            'out/kept/adapter_model.safetensors', 'out/kept/checkpoints' | Should -Exist
            $model | Remove-PeftAdapter kept
            (Get-ErrorRecord { $model | Invoke-LoraTraining $config $data -AdapterName kept -MaxSteps 2 -OutputPath out -ErrorAction Stop 6>$null }).FullyQualifiedErrorId | Should -BeLike 'OutputExists,*'
            $again = $model | Invoke-LoraTraining $config $data -AdapterName kept -MaxSteps 2 -OutputPath out -Resume 6>$null
            $again.TrainingRecord.ResumedFrom | Should -Be 2
        }

        It 'trains nothing under -WhatIf' {
            $model | Invoke-LoraTraining $config $data -AdapterName never -OutputPath unwritten -WhatIf
            $model.Adapters.Count | Should -Be 0
            'unwritten' | Should -Not -Exist
        }

        It 'completes schedules, optimisers and adapters' {
            Get-Completion '$model | Invoke-LoraTraining $config $data -Schedule cos' | Should -Contain 'cosine'
            Get-Completion '$model | Invoke-LoraTraining $config $data -Optimizer adam' | Should -Contain 'adamw_torch'
        }

        It 'names what is wrong: <Id>' -ForEach @(
            @{ Id = 'AdapterExists'; Script = { $null = $model | Add-PeftAdapter $config default; $model | Invoke-LoraTraining $config $data -ErrorAction Stop } }
            @{ Id = 'ModelIsMerged'; Script = { $null = $model | Add-PeftAdapter $config a | Merge-LoraAdapter; $model | Invoke-LoraTraining $config $data -AdapterName b -ErrorAction Stop } }
            @{ Id = 'ParametersContradict'; Script = { $model | Invoke-LoraTraining $config $data -Resume -ErrorAction Stop } }
        ) {
            $failure = Get-ErrorRecord $Script
            $failure.FullyQualifiedErrorId | Should -BeLike "$Id,*"
            $failure.ErrorDetails.RecommendedAction | Should -Not -BeNullOrEmpty
        }

        It 'shows progress and what is learnt' {
            $script = '$args[0] | Invoke-LoraTraining $args[1] $args[2] -MaxSteps 2'
            (Get-Stream Progress $script $model, $config, $data).Count | Should -BeGreaterThan 0
            $model | Remove-PeftAdapter *
            Get-Stream Information $script $model, $config, $data | Out-String | Should -Match 'learn \|'
        }

        It 'gives the prompt back within two seconds of Ctrl-C, and leaves the model usable' {
            $stopped = Stop-Script '$args[0] | Invoke-LoraTraining $args[1] $args[2] -MaxSteps 1000000' $model, $config, $data
            $stopped.Began | Should -BeTrue
            $stopped.State | Should -Be 'Stopped'
            $stopped.Seconds | Should -BeLessThan 2
            $model | Remove-PeftAdapter *
            ($model | Invoke-TextGeneration 'A' -MaxNewTokens 1).TokenIds.Count | Should -Be 1
        }

        It 'is there under the name for every method' {
            ($model | Invoke-PeftTraining $config $data -MaxSteps 1 6>$null).Name | Should -Be 'default'
        }
    }

    Describe 'Invoke-PreferenceTraining' {
        BeforeAll {
            $pairs = @{ prompt = 'A'; chosen = ' b'; rejected = ' c' }, @{ prompt = 'C'; chosen = ' d'; rejected = ' a' } | Import-TrainingDataset
            $judged = @{ prompt = 'A'; completion = ' b'; label = $true }, @{ prompt = 'C'; completion = ' d'; label = $false } | Import-TrainingDataset
        }

        It 'learns from pairs and says how much it prefers the better answers' {
            $adapter = $model | Invoke-PreferenceTraining $config $pairs -AdapterName better -MaxSteps 3 -LearningRate 1e-2 6>$null
            $adapter | Should -BeOfType Peft.Adapters.Model.PeftAdapter
            $adapter.IsActive | Should -BeTrue
            $adapter.TrainingRecord.Objective | Should -Be 'dpo'
            $adapter.TrainingRecord.Steps[-1].Metrics['rewards/margins'] | Should -BeGreaterThan 0
        }

        It 'learns from answers with a label' {
            ($model | Invoke-PreferenceTraining $config $judged -MaxSteps 2 6>$null).TrainingRecord.Objective | Should -Be 'kto'
        }

        It 'takes losses and options by TRL''s names' {
            $adapter = $model | Invoke-PreferenceTraining $config $pairs -Objective cpo -LossType simpo -Beta 2 -ObjectiveOption @{ cpo_alpha = 0; simpo_gamma = 0.5 } -MaxSteps 1 6>$null
            $adapter.TrainingRecord.Options.ObjectiveOptions.ToString() | Should -Match '"loss_type":\s*"simpo"'
            ($model | Invoke-PreferenceTraining $config $pairs -AdapterName ipo -loss_type ipo -MaxSteps 1 6>$null).TrainingRecord.FinalLoss | Should -Be 25
        }

        It 'goes on with an adapter from the pipeline, compared with itself at the start' {
            $learnt = $model | Invoke-PreferenceTraining $config $pairs -MaxSteps 3 -LearningRate 1e-2 6>$null
            $again = $learnt | Invoke-PreferenceTraining $pairs -MaxSteps 1 -LearningRate 0 6>$null
            $again.TrainingRecord.FinalLoss | Should -BeGreaterThan 0.693
        }

        It 'trains nothing under -WhatIf' {
            $model | Invoke-PreferenceTraining $config $pairs -AdapterName never -WhatIf
            $model.Adapters.Count | Should -Be 0
        }

        It 'shows both answers' {
            $pairs | Show-TrainingExample -Model $model -First 1 | Out-String | Should -Match 'learn \|[\s\S]*avoid \|'
            Get-Stream Progress '$args[0] | Invoke-PreferenceTraining $args[1] $args[2] -MaxSteps 2' $model, $config, $pairs | Should -Not -BeNullOrEmpty
        }

        It 'completes losses of the objective' {
            Get-Completion '$model | Invoke-PreferenceTraining $config $pairs -LossType apo' | Should -Contain 'apo_zero'
            Get-Completion '$model | Invoke-PreferenceTraining $config $pairs -Objective cpo -LossType si' | Should -Be 'sigmoid', 'simpo'
        }

        It 'names what is wrong: <Id>' -ForEach @(
            @{ Id = 'DatasetKindUnfit'; Script = { $model | Invoke-PreferenceTraining $config $data -ErrorAction Stop } }
            @{ Id = 'TrainingOptionInvalid'; Script = { $model | Invoke-PreferenceTraining $config $pairs -LossType nothing -ErrorAction Stop } }
            @{ Id = 'TrainingOptionUnknown'; Script = { $model | Invoke-PreferenceTraining $config $pairs -ObjectiveOption @{ no_such = 1 } -ErrorAction Stop } }
            @{ Id = 'PackingNotPossible'; Script = { $model | Invoke-PreferenceTraining $config $pairs -Packing -ErrorAction Stop } }
        ) {
            $failure = Get-ErrorRecord $Script
            $failure.FullyQualifiedErrorId | Should -BeLike "$Id,*"
            $failure.ErrorDetails.RecommendedAction | Should -Not -BeNullOrEmpty
        }

        It 'gives the prompt back within two seconds of Ctrl-C' {
            $stopped = Stop-Script '$args[0] | Invoke-PreferenceTraining $args[1] $args[2] -MaxSteps 1000000' $model, $config, $pairs
            $stopped.State | Should -Be 'Stopped'
            $stopped.Seconds | Should -BeLessThan 2
        }
    }
}
