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

        It 'takes names of columns in any case, the exact one first, and says which was meant' {
            "Prompt,Completion`nA, b" | Set-Content case.csv
            (Import-TrainingDataset case.csv).Columns.Kind | Should -Be 'PromptCompletion'
            (Import-Csv case.csv | Import-TrainingDataset -PromptColumn PROMPT -CompletionColumn completion).Count | Should -Be 1
            "question,Question,answer`nA,B, c" | Set-Content both.csv
            $both = Import-TrainingDataset both.csv -PromptColumn Question -CompletionColumn answer
            $both.Columns.Prompt | Should -BeExactly 'Question'
            { Import-TrainingDataset case.csv -PromptColumn Promt -ErrorAction Stop } | Should -Throw "*Did you mean 'Prompt'*"
            (Get-ErrorRecord { Import-TrainingDataset ./case.csv -TextColumn nothing -ErrorAction Stop }).FullyQualifiedErrorId | Should -BeLike 'DatasetColumnMissing,*'
            "x,y`n1,2" | Set-Content other.csv
            (Get-ErrorRecord { Import-TrainingDataset other.csv -ErrorAction Stop }).ErrorDetails.RecommendedAction | Should -Match '-PromptColumn'
        }

        It 'takes the lines of Get-Content as the rows that they are' {
            '{"prompt":"A","completion":" b"}', '{"prompt":"C","completion":" d"}' | Set-Content lines.jsonl
            $read = Get-Content lines.jsonl | Import-TrainingDataset
            $read.Count, $read.Kind | Should -Be 2, 'PromptCompletion'
            ('prompt,completion', 'A, b' | Import-TrainingDataset -Format Csv).Kind | Should -Be 'PromptCompletion'
            ('{"prompt":"A"}', 'no JSON' | Import-TrainingDataset).Kind | Should -Be 'Text'
            ('{"text":"A"}' | Import-TrainingDataset -Format Text | Show-TrainingExample -Model $model).LearnedText | Should -Match '"text"'
        }

        It 'needs no prompt column beside a template' {
            $words = @{ English = 'cat'; German = ' Katze' } | Import-TrainingDataset -CompletionColumn German -Template "{english}: "
            ($words | Show-TrainingExample -Model $model).Segments[0].Text | Should -Match 'cat'
        }

        It 'completes columns from the header of the file, and from that of the pipeline' {
            "Question,Answer`nA,b" | Set-Content head.csv
            Get-Completion 'Import-TrainingDataset ./head.csv -PromptColumn ' | Should -Be 'Question', 'Answer'
            Get-Completion 'Import-Csv ./head.csv | Import-TrainingDataset -CompletionColumn a' | Should -Be 'Answer'
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

    Describe 'Split-TrainingDataset' {
        It 'cuts by shares and by a column, each part a data set' {
            $rows = 1..10 | ForEach-Object { @{ prompt = "What is number $_ called?"; completion = "$_"; part = if ($_ -le 3) { 'test' } else { 'train' } } } | Import-TrainingDataset
            $learnt, $held = $rows | Split-TrainingDataset 0.8
            $learnt, $held | Should -BeOfType Peft.Training.Data.TrainingDataset
            $learnt.Count, $held.Count | Should -Be 8, 2
            ($rows | Split-TrainingDataset -Column part).ForEach({ $_.Count }) | Should -Be 3, 7
        }

        It 'names what is wrong: <Id>' -ForEach @(
            @{ Id = 'DatasetSharesInvalid'; Script = { $data | Split-TrainingDataset 2 -ErrorAction Stop } }
            @{ Id = 'DatasetColumnMissing'; Script = { $data | Split-TrainingDataset -Column nothing -ErrorAction Stop } }
            @{ Id = 'DatasetPartEmpty'; Script = { $data | Split-TrainingDataset 0.01 -ErrorAction Stop } }
        ) {
            $failure = Get-ErrorRecord $Script
            $failure.FullyQualifiedErrorId | Should -BeLike "$Id,*"
            $failure.ErrorDetails.RecommendedAction | Should -Not -BeNullOrEmpty
        }
    }

    Describe 'Join-TrainingDataset' {
        It 'mixes data sets by weight, and takes them from the pipeline' {
            $many = 1..30 | ForEach-Object { @{ prompt = "$_"; completion = 'a' } } | Import-TrainingDataset
            $few = 1..5 | ForEach-Object { @{ text = "$_" } } | Import-TrainingDataset
            (Join-TrainingDataset $many, $few -Weight 3, 1).Count | Should -Be 20
            ($many, $few | Join-TrainingDataset).Count | Should -Be 35
            (Join-TrainingDataset $many, $few 3, 1 -Repeat).Layout | Should -Be 'PromptCompletion + Text'
        }

        It 'names what is wrong' {
            $failure = Get-ErrorRecord { Join-TrainingDataset $data, $data -Weight 1 -ErrorAction Stop }
            $failure.FullyQualifiedErrorId | Should -BeLike 'DatasetSharesInvalid,*'
            $failure.ErrorDetails.RecommendedAction | Should -Not -BeNullOrEmpty
        }
    }

    Describe 'Export-TrainingReport' {
        It 'writes a page about an adapter that was trained' {
            $adapter = $model | Invoke-LoraTraining $config $data -AdapterName reported -MaxSteps 2 -Force
            $file = $adapter | Export-TrainingReport (Join-Path $TestDrive page.html)
            $file | Should -BeOfType System.IO.FileInfo
            Get-Content $file -Raw | Should -Match 'Training of reported'
            $adapter | Export-TrainingReport (Join-Path $TestDrive unwritten.html) -WhatIf
            Test-Path (Join-Path $TestDrive unwritten.html) | Should -BeFalse
            (Get-ErrorRecord { $adapter | Export-TrainingReport $file -ErrorAction Stop }).FullyQualifiedErrorId | Should -BeLike 'OutputExists,*'
            $adapter | Remove-PeftAdapter
        }
    }

    Describe 'Show-TrainingReport' {
        It 'says what is no training' {
            (Get-ErrorRecord { 1 | Show-TrainingReport -ErrorAction Stop }).FullyQualifiedErrorId | Should -BeLike 'TrainingRecordMissing,*'
        }
    }

    Describe 'Select-TrainingDataset' {
        It 'filters, slices and shuffles' {
            ($data | Select-TrainingDataset { $_.prompt -eq 'C' }).Rows[0].Values['completion'] | Should -Be ' d'
            ($data | Select-TrainingDataset -Skip 1).Count | Should -Be 1
            ($data | Select-TrainingDataset -Shuffle).Count | Should -Be 2
            (Get-ErrorRecord { $data | Select-TrainingDataset { $false } -ErrorAction Stop }).FullyQualifiedErrorId | Should -BeLike 'DatasetEmpty,*'
        }

        It 'shows what columns hold' {
            $data.Preview | Out-String | Should -Match 'prompt\s+Prompt'
        }
    }

    Describe 'Show-TrainingExample' {
        It 'shows what is read and what is learnt' {
            $view = $data | Show-TrainingExample -Model $model -First 1
            $view | Should -BeOfType Peft.Cmdlets.Commands.Training.TrainingExampleView
            $view.LearnedText | Should -Match 'b'
            $view | Out-String | Should -Match 'learn \|'
        }

        It 'takes a file, and says what is noteworthy' {
            "prompt,completion`nBruno?,Bruno is a dog`nRex?," | Set-Content touch.csv
            $views = Show-TrainingExample ./touch.csv $model
            $views[0].Title | Should -Match 'no space between'
            $views[1].Title | Should -Match 'answer is empty'
            $views[0].Title | Should -MatchExactly "\. 'completion' carries loss"
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

        It 'puts out a table of several' {
            $table = $model | Invoke-LoraTraining $config, @{ r = 3; target_modules = 'v_proj' } $data -AdapterName swept -Seed 1, 2 -Epoch 1 -BatchSize 1 -EvaluationDataset $data 6>$null
            $table | Should -BeOfType Peft.Training.Sweeps.TrainingComparison
            $table.Count | Should -Be 3
            $table | Format-Table | Out-String | Should -Match 'Quality'
            $table[1].Runs[0].Adapter | Should -BeOfType Peft.Adapters.Model.PeftAdapter
            $model | Invoke-LoraTraining $config $data -LearningRate 1e-3, 1e-4 -WhatIf 6>$null | Should -BeNullOrEmpty
        }

        It 'says before the first step what fits nothing: <Word>' -ForEach @(
            @{ Word = "'q_porj'.*Did you mean 'q_proj'"; Options = @{ TargetModule = 'q_porj', 'v_proj' } }
            @{ Word = 'lm_haed'; Options = @{ TargetModule = 'v_proj'; ModulesToSave = 'lm_haed' } }
            @{ Word = 'down_porj'; Options = @{ TargetModule = 'v_proj'; ExcludeModule = 'down_porj' } }
            @{ Word = "rank_pattern names 'v_porj'.*Did you mean 'v_proj'"; Options = @{ TargetModule = 'v_proj'; RankPattern = @{ v_porj = 3 } } }
            @{ Word = 'layers_to_transform names 99'; Options = @{ TargetModule = 'v_proj'; LayerIndex = 3, 99 } }
        ) {
            $adapter = $model | Invoke-LoraTraining $Options $data -MaxSteps 1 -WarningVariable warned 3>$null 6>$null
            $warned -join "`n" | Should -Match $Word
            $adapter.TrainingRecord.Messages -join "`n" | Should -Match $Word
            $model | Remove-PeftAdapter *
            $null = $model | Add-PeftAdapter $Options -WarningVariable warned 3>$null
            $warned -join "`n" | Should -Match $Word
        }

        It 'says how many examples are cut, touch, are empty or end idly: <Word>' -ForEach @(
            @{ Word = '2 of 2 examples are longer than 4 tokens'; Options = @{ MaxLength = 4 }; Rows = @{ prompt = 'A b c'; completion = ' d e f' }, @{ prompt = 'A b'; completion = ' d e f g' } }
            @{ Word = 'In 1 of 2 examples the answer begins right behind'; Options = @{}; Rows = @{ prompt = 'Who?'; completion = 'Me' }, @{ prompt = 'Who?'; completion = ' me' } }
            @{ Word = 'In 1 of 2 examples the answer is empty'; Options = @{}; Rows = @{ prompt = 'Who?'; completion = '' }, @{ prompt = 'Who?'; completion = ' me' } }
            @{ Word = "In 1 of 2 examples messages stand behind the assistant's last"; Options = @{}; Rows = @{ messages = @(@{ role = 'user'; content = 'a' }, @{ role = 'assistant'; content = 'b' }, @{ role = 'user'; content = 'c' }) }, @{ messages = @(@{ role = 'user'; content = 'a' }, @{ role = 'assistant'; content = 'b' }) } }
        ) {
            $adapter = $model | Invoke-LoraTraining $config $Rows @Options -MaxSteps 1 -WarningVariable warned 3>$null 6>$null
            $warned -join "`n" | Should -Match $Word
            $adapter.TrainingRecord.Messages -join "`n" | Should -Match $Word
        }

        It 'counts examples that are evaluated on, also where they are packed' {
            $rows = 1..10 | ForEach-Object { @{ prompt = "A $_"; completion = ' b' } }
            $lines = $model | Invoke-LoraTraining $config $rows -AdapterName counted -MaxSteps 1 -EvaluationSplit 0.2 -Packing BestFit -MaxLength 64 6>&1 | Out-String
            $lines | Should -Match 'Evaluated on 2 examples that are not learnt, packed into 1 row\.'
            $model | Remove-PeftAdapter counted
        }

        It 'says at the beginning what is trained, and at the end what came of it' {
            $rows = 1..10 | ForEach-Object { @{ prompt = "A $_"; completion = ' b' } }
            $lines = $model | Invoke-LoraTraining $config $rows -AdapterName told -Epoch 2 -EvaluationSplit 0.2 6>&1 | Where-Object { $_ -is [Management.Automation.InformationRecord] } | Out-String
            $lines | Should -Match "Training 'told' on 8 examples"
            $lines | Should -Match 'Evaluated on 2 examples'
            $lines | Should -Match 'Trained are [\d,]+ parameters: 6 . q_proj'
            $lines | Should -Match 'Nothing is written to the disk'
            $lines | Should -Match "Trained 'told': 2 steps in 0:\d\d:\d\d, loss [\d.]+.*evaluation [\d.]+.*in memory alone"
            $model['told'].EvaluationLoss | Should -BeGreaterThan 0
            $model['told'].TrainingRecord | Format-List | Out-String | Should -Match 'EvaluationLoss +: [\d.]+'
            $lines = $model | Invoke-LoraTraining $config $rows -AdapterName kept2 -MaxSteps 1 -OutputPath told 6>&1 | Out-String
            $lines | Should -Match ([regex]::Escape("It lies in $(Join-Path $PWD told kept2)"))
        }

        It 'is quiet where -InformationAction says so' {
            $script = '$args[0] | Invoke-LoraTraining $args[1] $args[2] -MaxSteps 1 -InformationAction SilentlyContinue'
            (Get-Stream Information $script $model, $config, $data).Tags | Should -Not -Contain 'PSHOST'
        }

        It 'takes configurations as tables and files, and data sets as files and rows' {
            '{"prompt":"A","completion":" b"}' | Set-Content one.jsonl
            $adapter = $model | Invoke-LoraTraining @{ r = 3; target_modules = 'q_proj', 'v_proj' } ./one.jsonl -AdapterName table -MaxSteps 1 -OutputPath conv 6>$null
            $adapter.Config.Rank | Should -Be 3
            ($model | Invoke-LoraTraining conv/table @{ prompt = 'A'; completion = ' b' } -AdapterName file -MaxSteps 1 6>$null).Config.Rank | Should -Be 3
            ($model | Invoke-LoraTraining @{ peft_type = 'IA3' } ./one.jsonl -AdapterName ia3 -MaxSteps 1 6>$null).Config.PeftType | Should -Be 'IA3'
            ($adapter | Invoke-LoraTraining ./one.jsonl -MaxSteps 1 6>$null).Name | Should -Be 'table'
            { Invoke-LoraTraining $model $config $data } | Should -Throw "*The model 'pocket-llama' stands where*"
        }

        It 'takes schedules and optimisers in any case, and says which was meant' {
            ($model | Invoke-LoraTraining $config $data -MaxSteps 1 -Schedule LINEAR -Optimizer AdamW_Torch 6>$null).TrainingRecord.Options.Optimizer | Should -BeExactly 'adamw_torch'
            { $model | Invoke-LoraTraining $config $data -AdapterName b -Schedule linaer } | Should -Throw "*Did you mean 'linear'*"
            { $model | Invoke-LoraTraining $config $data -AdapterName b -Optimizer adamw } | Should -Throw "*adamw_torch*"
            { $model | Invoke-LoraTraining $config $data -AdapterName b -LearningRate -1 } | Should -Throw '*LearningRate (learning_rate)*'
        }

        It 'trains longer after its end, says from where, and leaves what is done' {
            $first = $model | Invoke-LoraTraining $config $data -AdapterName long -Epoch 2 -BatchSize 1 -OutputPath longer 6>$null
            $model | Remove-PeftAdapter long
            $lines = $model | Invoke-LoraTraining $config $data -AdapterName long -Epoch 3 -BatchSize 1 -OutputPath longer -Resume -WarningVariable warned 3>$null 6>&1 | Out-String
            $lines | Should -Match 'Goes on after step 4 of 6'
            $warned -join "`n" | Should -Match 'Epochs \(num_train_epochs\) was 2, is 3'
            $model['long'].TrainingRecord.ResumedFrom, $model['long'].TrainingRecord.StepCount | Should -Be 4, 6
            $model['long'].TrainingRecord.Losses[0..3] | Should -Be $first.TrainingRecord.Losses
            $lines = $model | Invoke-LoraTraining $config $data -AdapterName long -Epoch 3 -BatchSize 1 -OutputPath longer -Resume 6>&1 | Out-String
            $lines | Should -Match 'All 6 steps were made before'
            { $model | Invoke-LoraTraining $config $data -AdapterName long -Epoch 3 -BatchSize 1 -LearningRate 1 -OutputPath longer -Resume } | Should -Throw '*LearningRate (learning_rate)*'
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
            $global:someConfig, $global:someData = $config, $data
            Get-Completion '$model | Invoke-LoraTraining -Config ' | Should -Contain '$someConfig'
            Get-Completion '$model | Invoke-LoraTraining -Dataset $someD' | Should -Be '$someData'
            $line = '$model | Invoke-LoraTraining $config $data -Schedule '
            (TabExpansion2 $line $line.Length).CompletionMatches | ForEach-Object { $_.ToolTip | Should -Not -Be $_.CompletionText }
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
            @{ Id = 'PackingNotPossible'; Script = { $model | Invoke-PreferenceTraining $config $pairs -Packing BestFit -ErrorAction Stop } }
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

    Describe 'Invoke-PolicyTraining' {
        BeforeAll {
            $prompts = 'One two', 'Four five' | Import-TrainingDataset
            $short = @{ GroupSize = 2; BatchSize = 4; MaxCompletionLength = 3 }
        }

        It 'learns from answers that a script block rates' {
            $adapter = $model | Invoke-PolicyTraining $config $prompts { param($prompt, $completion) $completion.Length } @short -MaxSteps 2 6>$null
            $adapter | Should -BeOfType Peft.Adapters.Model.PeftAdapter
            $adapter.IsActive | Should -BeTrue
            $adapter.TrainingRecord.Steps[-1].Metrics['reward'] | Should -BeGreaterThan 0
        }

        It 'takes an adapter from the pipeline and goes by the usual name' {
            $learnt = $model | Add-PeftAdapter $config a
            ($learnt | Invoke-GrpoTraining $prompts { 1 } @short -Objective rloo -MaxSteps 1 6>$null).Name | Should -Be 'a'
        }

        It 'trains nothing under -WhatIf' {
            $model | Invoke-PolicyTraining $config $prompts { 1 } -AdapterName never -WhatIf
            $model.Adapters.Count | Should -Be 0
        }

        It 'shows progress and completes losses' {
            Get-Stream Progress '$args[0] | Invoke-PolicyTraining $args[1] $args[2] { 1 } -GroupSize 2 -MaxCompletionLength 3 -MaxSteps 2' $model, $config, $prompts | Should -Not -BeNullOrEmpty
            Get-Completion '$model | Invoke-PolicyTraining $config $prompts -LossType dr' | Should -Be 'dr_grpo'
        }

        It 'names what is wrong: <Id>' -ForEach @(
            @{ Id = 'RewardFailed'; Script = { $model | Invoke-PolicyTraining $config $prompts { throw 'no' } @short -ErrorAction Stop } }
            @{ Id = 'RewardInvalid'; Script = { $model | Invoke-PolicyTraining $config $prompts { 'many' } @short -ErrorAction Stop } }
            @{ Id = 'TrainingOptionInvalid'; Script = { $model | Invoke-PolicyTraining $config $prompts { 1 } -GroupSize 3 -ErrorAction Stop } }
        ) {
            $failure = Get-ErrorRecord $Script
            $failure.FullyQualifiedErrorId | Should -BeLike "$Id,*"
            $failure.ErrorDetails.RecommendedAction | Should -Not -BeNullOrEmpty
        }

        It 'gives the prompt back within two seconds of Ctrl-C' {
            $stopped = Stop-Script '$args[0] | Invoke-PolicyTraining $args[1] $args[2] { 1 } -MaxSteps 1000000' $model, $config, $prompts
            $stopped.State | Should -Be 'Stopped'
            $stopped.Seconds | Should -BeLessThan 2
        }
    }
}
