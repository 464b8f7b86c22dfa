# The contract of the cmdlets in a whole PowerShell: what needs more than its engine. The engine alone is tested in tests/Peft.Tests/PowerShell.
BeforeDiscovery {
    Import-Module "$PSScriptRoot/../../Peft.psd1" -Force
    $cmdlets = (Get-Module Peft).ExportedCmdlets.Values | Sort-Object Name | ForEach-Object { @{ Name = $_.Name; Command = $_ } }
}

BeforeAll {
    $root = (Resolve-Path "$PSScriptRoot/../..").Path
    Import-Module "$root/Peft.psd1" -Force
    $pwsh = Join-Path $PSHOME ($IsWindows ? 'pwsh.exe' : 'pwsh')
    if (-not (Test-Path $pwsh)) { $pwsh = 'pwsh' }
}

Describe 'Cmdlet <Name>' -ForEach $cmdlets {
    It 'has help with a synopsis, parameters and an example' {
        $help = Get-Help $Name -Full
        $help.Synopsis | Should -Match '\.$'
        $help.examples.example | Should -Not -BeNullOrEmpty
        foreach ($parameter in $help.parameters.parameter) { $parameter.description.Text | Should -Not -BeNullOrEmpty }
    }

    It 'has an approved verb and names its output' {
        (Get-Verb).Verb | Should -Contain $Command.Verb
        $Command.OutputType.Count -gt 0 -or $Command.Verb -eq 'Remove' | Should -BeTrue
    }

    It 'can be mocked' {
        Mock $Name { 'mocked' }
        Get-Command $Name | Should -Not -BeNullOrEmpty
        $arguments = @{}
        foreach ($parameter in $Command.ParameterSets[0].Parameters | Where-Object IsMandatory) {
            if ($parameter.ParameterType -eq [string[]] -or $parameter.ParameterType -eq [string]) { $arguments[$parameter.Name] = 'x' }
        }
        if (($Command.ParameterSets[0].Parameters | Where-Object IsMandatory).Count -eq $arguments.Count) {
            & $Name @arguments | Should -Be 'mocked'
        }
    }
}

Describe 'A model and its adapters' {
    BeforeEach {
        $model = Import-PeftModel "$root/assets/pocket-llama" -DataType float32
        Set-Location $TestDrive
    }

    AfterEach {
        $model | Remove-PeftModel
        Set-Location $root
    }

    It 'flows into a function that declares its types' {
        function Get-Name([Peft.Adapters.Model.PeftModel] $Model, [Peft.Adapters.Model.PeftAdapter[]] $Adapter) { "$($Model.Name) $($Adapter.Count)" }
        $adapter = $model | Add-PeftAdapter (New-LoraConfig -TargetModule q_proj) a
        Get-Name $model $adapter | Should -Be 'pocket-llama 1'
    }

    It 'completes names on the command line' {
        $null = $model | Add-PeftAdapter (New-LoraConfig -TargetModule q_proj) capitals
        $line = 'Get-PeftAdapter -AdapterName cap'
        (TabExpansion2 $line $line.Length).CompletionMatches.CompletionText | Should -Contain 'capitals'
        $line = 'New-LoraConfig -TargetModule gat'
        (TabExpansion2 $line $line.Length).CompletionMatches.CompletionText | Should -Contain 'gate_proj'
    }

    It 'is switched off and on' {
        $adapter = $model | Add-PeftAdapter (New-LoraConfig -TargetModule q_proj) a
        ($model | Disable-PeftAdapter -PassThru).AdaptersEnabled | Should -BeFalse
        $model | Enable-PeftAdapter | Should -BeNullOrEmpty
        $model.AdaptersEnabled | Should -BeTrue
        $adapter.IsActive | Should -BeTrue
    }

    It 'is listed until it is removed' {
        (Get-PeftModel pocket*).Name | Should -Contain 'pocket-llama'
        $other = Import-PeftModel -LiteralPath "$root/assets/pocket-llama" -StructureOnly -Name 'other[1]'
        $other | Remove-PeftModel
        Get-PeftModel other* | Should -BeNullOrEmpty
    }

    It 'is trained, merged and restored under the names for every method' {
        $data = @{ prompt = 'A'; completion = ' b' } | Import-TrainingDataset
        $adapter = $model | Invoke-PeftTraining (New-LoraConfig -TargetModule q_proj) $data -MaxSteps 1
        ($adapter | Merge-PeftAdapter).IsMerged | Should -BeTrue
        ($model | Undo-PeftMerge).IsMerged | Should -BeFalse
    }

    It 'puts a conversation into the form of its template' {
        'Name a bird.' | ConvertTo-ChatPrompt -Model $model -SystemMessage 'Be brief.' | Should -Be '<|system|>Be brief.<|user|>Name a bird.<|assistant|>'
    }

    It 'is shared with thread jobs and parallel loops' {
        Start-ThreadJob { Import-Module "$using:root/Peft.psd1"; ($using:model | Measure-ModelParameter).Total } | Receive-Job -Wait -AutoRemoveJob | Should -BeGreaterThan 0
        $totals = 1..2 | ForEach-Object -Parallel { Import-Module "$using:root/Peft.psd1"; ($using:model | Measure-ModelParameter).Total }
        $totals | Should -HaveCount 2
    }

    It 'is not shared with another process, and says so' {
        $copy = Start-Job { Import-Module "$using:root/Peft.psd1"; Import-PeftModel "$using:root/assets/pocket-llama" -StructureOnly } | Receive-Job -Wait -AutoRemoveJob
        { $copy | Measure-ModelParameter -ErrorAction Stop } | Should -Throw '*ModelDeserialized*'
    }

    It 'fits 80 columns' {
        $adapter = $model | Add-PeftAdapter (New-LoraConfig -TargetModule all-linear) capitals
        foreach ($value in $model, $adapter, ($model | Get-ModelModule -Summary), ($model | Get-ModelModule), (New-LoraConfig), (Get-PeftDevice), ($model | ConvertTo-ModelToken 'Hello')) {
            $lines = ($value | Out-String -Width 80) -split "`n"
            ($lines | Measure-Object Length -Maximum).Maximum | Should -BeLessOrEqual 80
        }
    }

    It 'shows results as texts, and as tables or lists where those are asked for' {
        $result = $model | Invoke-TextGeneration 'The cat' -MaxNewTokens 3
        ($result | Out-String).Trim() | Should -Be $result.Text.Trim()
        $result | Format-Table Prompt, Text | Out-String | Should -Match 'Prompt\s+Text'
        $result | Format-List | Out-String | Should -Match 'FinishReason\s*: Length'
        $model | Measure-ModelParameter | Format-Table Model, Total | Out-String | Should -Match 'pocket-llama\s+3221952'
    }

    It 'shows what matters where objects of several types follow each other' {
        $adapter = $model | Add-PeftAdapter (New-LoraConfig) style
        $text = $model, $adapter, ($model | Invoke-TextGeneration 'The cat' -MaxNewTokens 3), (New-LoraConfig) | Out-String
        $text | Should -Match 'Prompt\s*: The cat'
        $text | Should -Match 'Model\s*: pocket-llama'
        $text | Should -Not -Match 'AdaptedModules|TokenIds|OtherKeys'
        $model, $adapter | Format-List | Out-String | Should -Match 'Class\s*: LlamaForCausalLM'
    }

    It 'counts the hours of a long training beyond a day' {
        $step = [Peft.Training.StepRecord]::new(1, 1, 0.5, 0, 0, 1, 1, 26 * 3600 + 184)
        [Peft.Training.TrainingRecord]@{ AdapterName = 'a'; Options = [Peft.Training.TrainingOptions]::new(); Objective = 'o'; Steps = [Peft.Training.StepRecord[]]$step; Evaluations = [Peft.Training.EvaluationRecord[]]@(); TrainedParameters = 1 } |
            Out-String | Should -Match '26:03:04'
    }

    It 'ends its work with Select-Object -First' {
        $clock = [System.Diagnostics.Stopwatch]::StartNew()
        $piece = $model | Invoke-TextGeneration 'Once upon a time' -MaxNewTokens 100000 -Stream | Select-Object -First 1
        $piece | Should -Not -BeNullOrEmpty
        $clock.Elapsed.TotalSeconds | Should -BeLessThan 60
        { $model | Invoke-TextGeneration 'A' -MaxNewTokens 1 -ErrorAction Stop } | Should -Not -Throw
    }

    It 'takes rows from Import-Csv' {
        "question;answer`nWho?;Me`nWhat?;That" | Set-Content faq.csv
        $data = Import-Csv faq.csv -Delimiter ';' | Import-TrainingDataset -PromptColumn question -CompletionColumn answer
        $data.Count | Should -Be 2
        (Import-TrainingDataset ./faq.csv -PromptColumn question -CompletionColumn answer).Count | Should -Be 2
        ($data | Show-TrainingExample -Model $model -First 1).LearnedText | Should -Match 'Me'
    }

    It 'reads a path with brackets literally' {
        $null = New-Item -ItemType Directory 'a[1]'
        '{"text":"x"}' | Set-Content -LiteralPath 'a[1]/d.jsonl'
        (Import-TrainingDataset -LiteralPath 'a[1]/d.jsonl').Count | Should -Be 1
        (Get-ChildItem -LiteralPath 'a[1]' | Import-TrainingDataset).Count | Should -Be 1
        { Import-TrainingDataset 'nothing*' -ErrorAction Stop } | Should -Throw -ErrorId 'PathNotFound,*'
    }
}

Describe 'The help' {
    It 'says what the module is about' {
        Get-Help about_Peft | Should -Match 'SHORT DESCRIPTION'
    }
}

Describe 'A redirected host' {
    It 'writes no escape codes and plain progress lines' {
        $script = @"
Import-Module '$root/Peft.psd1'
`$data = @{ prompt = 'A'; completion = ' b' } | Import-TrainingDataset
Import-PeftModel '$root/assets/pocket-llama' | Invoke-LoraTraining (New-LoraConfig -TargetModule q_proj -Rank 2) `$data -Epoch 2
"@
        $file = Join-Path $TestDrive 'redirected.ps1'
        Set-Content $file $script
        $env:NO_COLOR = '1'
        $text = & $pwsh -NoProfile -File $file | Out-String
        $env:NO_COLOR = $null
        $text | Should -Not -Match "`e"
        $text | Should -Match 'step 2 of 2'
    }
}

Describe 'The README' {
    It 'begins with a block that runs as it stands' {
        $readme = Get-Content "$root/README.md" -Raw
        $block = [regex]::Match($readme, '(?s)```powershell\r?\n(.*?)```').Groups[1].Value
        $block | Should -Not -BeNullOrEmpty
        $place = New-Item -ItemType Directory (Join-Path $TestDrive 'readme')
        foreach ($name in 'Peft.psd1', 'bin', 'assets') { New-Item -ItemType SymbolicLink -Path "$place/$name" -Target "$root/$name" | Out-Null }
        $file = Join-Path $place 'block.ps1'
        Set-Content $file $block
        Push-Location $place
        try { $text = & $pwsh -NoProfile -File $file 2>&1 | Out-String } finally { Pop-Location }
        $text | Should -Match 'Austin'
        "$place/out/capitals/adapter_model.safetensors" | Should -Exist
        "$place/merged/model.safetensors" | Should -Exist
        "$place/merged/tokenizer.json" | Should -Exist
    }
}
