#Requires -Version 7.6
#Requires -Modules @{ ModuleName = 'Pester'; ModuleVersion = '5.5' }
# How to test what you build on Peft. Its logic runs on mocks, in milliseconds; the adapter that it trains is held to thresholds.
BeforeAll {
    Import-Module "$PSScriptRoot/../Peft.psd1"
    . "$PSScriptRoot/Pipeline.ps1"
    $base = "$PSScriptRoot/../assets/pocket-llama"
    $questions = Get-Content "$PSScriptRoot/../assets/data/capitals.jsonl" | ConvertFrom-Json | Select-Object -First 8
}

Describe 'The pipeline, without any training' {
    BeforeAll {
        # The tree without weights: a real model and adapter for what declares their types, at no cost. In a mock's body $Model would be
        # the mocked cmdlet's own parameter, so they have other names.
        $anyModel = Import-PeftModel $base -StructureOnly -Name assistant-test
        $anyAdapter = $anyModel | Add-PeftAdapter (New-LoraConfig -TargetModule q_proj) assistant
        Mock Import-PeftModel { $anyModel }
        Mock Invoke-LoraTraining { $anyAdapter }
        Mock Merge-LoraAdapter { $anyModel }
        Mock Export-PeftModel
    }

    AfterAll {
        $anyModel | Remove-PeftModel
    }

    It 'publishes an assistant that is good enough' {
        Mock Measure-Accuracy { 0.97 }
        Publish-Assistant -BasePath $base -Question $questions -PublishPath TestDrive:/assistant
        Should -Invoke Invoke-LoraTraining -Times 1 -Exactly -ParameterFilter { $AdapterName -eq 'assistant' -and $LearningRate -eq 6e-3 }
        Should -Invoke Export-PeftModel -Times 1 -Exactly -ParameterFilter { $Path -eq 'TestDrive:/assistant' }
    }

    It 'publishes none that is not, and says by how much' {
        Mock Measure-Accuracy { 0.5 }
        { Publish-Assistant -BasePath $base -Question $questions -PublishPath TestDrive:/assistant } | Should -Throw '*50*95*'
        Should -Invoke Merge-LoraAdapter -Times 0 -Exactly
        Should -Invoke Export-PeftModel -Times 0 -Exactly
    }

    It 'publishes nothing under -WhatIf' {
        Mock Measure-Accuracy { 1 }
        Publish-Assistant -BasePath $base -Question $questions -PublishPath TestDrive:/assistant -WhatIf
        Should -Invoke Export-PeftModel -Times 0 -Exactly
    }

    It 'counts an answer that differs by a letter as wrong' {
        Mock Invoke-TextGeneration { @{ Text = ' Montgomery' }, @{ Text = ' Juneao' } }
        $anyAdapter | Measure-Accuracy -Question $questions[0..1] | Should -Be 0.5
    }
}

Describe 'The trained assistant' {
    BeforeAll {
        $model = Import-PeftModel $base -DataType float32
        $general = 'The cat is a small animal that lives with people.'
        $before = $model | Measure-Perplexity $general
        $adapter = $model | Invoke-LoraTraining (New-LoraConfig -Rank 16 -Alpha 32 -TargetModule all-linear) ($questions | Import-TrainingDataset) `
            -AdapterName assistant -Epoch 40 -BatchSize 8 -LearningRate 6e-3 -Seed 0 6>$null
    }

    AfterAll {
        $model | Remove-PeftModel
    }

    It 'answers at least 7 of 8 questions' {
        $adapter | Measure-Accuracy -Question $questions | Should -BeGreaterOrEqual (7 / 8)
    }

    It 'has learnt what the base does not know' {
        # Of the answers alone, which is what was learnt.
        $data = $questions | Import-TrainingDataset
        $base = ($model | Measure-Perplexity $data -AdapterName base).Perplexity
        ($adapter | Measure-Perplexity $data).Perplexity | Should -BeLessThan ($base / 5)
    }

    It 'ended at a loss below 0.05, and never diverged' {
        $adapter.TrainingRecord.Steps[-1].Loss | Should -BeLessThan 0.05
        $adapter.TrainingRecord.Steps.Loss | ForEach-Object { [double]::IsFinite($_) | Should -BeTrue }
    }

    It 'leaves the base as it was' {
        ($model | Measure-Perplexity $general -AdapterName base).Loss | Should -Be $before.Loss
    }

    It 'says the same each time' {
        $answers = 1..2 | ForEach-Object { ($adapter | Invoke-TextGeneration $questions[0].prompt -MaxNewTokens 8).Text }
        $answers[0] | Should -BeExactly $answers[1]
    }
}
