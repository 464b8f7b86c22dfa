# The module in a whole PowerShell: what needs more than its engine. The engine alone is tested in tests/Peft.Tests/PowerShell.
BeforeAll {
    . "$PSScriptRoot/Support.ps1"
}

Describe 'A model and its adapters' {
    BeforeEach {
        $model = Import-PeftModel $base -DataType float32
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

    It 'shows a loss that rounds to zero without a sign' {
        $library = [Peft.Adapters.Model.PeftModel].Assembly
        [activator]::CreateInstance($library.GetType('Peft.Generation.PerplexityResult'), @(1.0, -1e-9, 2)) | Out-String | Should -Match ' 0\.0000 '
        [activator]::CreateInstance($library.GetType('Peft.Generation.PerplexityResult'), @(1.0, -0.5, 2)) | Out-String | Should -Match '-0\.5000'
    }

    It 'counts the hours of a long training beyond a day' {
        $library = [Peft.Adapters.Model.PeftModel].Assembly
        $steps = [array]::CreateInstance($library.GetType('Peft.Training.StepRecord'), 1)
        $steps[0] = [activator]::CreateInstance($steps.GetType().GetElementType(), @(1, 1.0, 0.5, 0.0, 0.0, 1L, 1L, [double](26 * 3600 + 184)))
        $evaluations = [array]::CreateInstance($library.GetType('Peft.Training.EvaluationRecord'), 0)
        $fields = @{ AdapterName = 'a'; Options = [activator]::CreateInstance($library.GetType('Peft.Training.TrainingOptions')); Objective = 'o'; Steps = $steps; Evaluations = $evaluations; TrainedParameters = 1 }
        [System.Management.Automation.LanguagePrimitives]::ConvertTo($fields, $library.GetType('Peft.Training.TrainingRecord')) |
            Out-String | Should -Match '26:03:04'
    }
}

Describe 'A view' {
    It 'has labels that are properties: <Type>' -ForEach @(
        [xml] $views = Get-Content "$PSScriptRoot/../../src/Peft.Cmdlets/Display/Peft.Format.ps1xml" -Raw
        foreach ($view in $views.Configuration.ViewDefinitions.View) {
            foreach ($type in $view.ViewSelectedBy.TypeName) {
                $own = $view.SelectSingleNode(".//ListEntry[EntrySelectedBy/TypeName = '$type']") ?? $view.SelectSingleNode('.//ListEntry[not(EntrySelectedBy)]') ?? $view
                @{ Type = $type; Labels = @($own.SelectNodes('.//Label').InnerText) }
            }
        }
    ) {
        $class = [Peft.Adapters.Model.PeftModel].Assembly.GetType($Type) ?? ($Type -as [type])
        $known = @($class.GetProperties().Name)
        for ($at = $class; $at; $at = $at.BaseType) { $known += (Get-TypeData $at.FullName).Members.Keys }
        foreach ($label in $Labels) { $known | Should -Contain $label }
    }
}

Describe 'What is put out' {
    BeforeAll {
        $model = Import-PeftModel $base
        $data = @{ prompt = 'A'; completion = ' b' }, @{ prompt = 'C'; completion = ' d' } | Import-TrainingDataset
        $adapter = $model | Invoke-LoraTraining @{ r = 2; target_modules = 'q_proj' } $data -AdapterName a -MaxSteps 2 6>$null
        $outputs = @{
            model = $model; adapter = $adapter; config = $adapter.Config; record = $adapter.TrainingRecord; data = $data
            module = $model | Get-ModelModule model.layers.0.self_attn.q_proj; summary = ($model | Get-ModelModule -Kind Linear -Summary)[0]
            counts = $model | Measure-ModelParameter; device = (Get-PeftDevice)[0]
            generation = $model | Invoke-TextGeneration 'A' -MaxNewTokens 2; comparison = ($model | Compare-ModelOutput 'A' -MaxNewTokens 2)[0]
            perplexity = $model | Measure-Perplexity 'A cat sat.'; answers = $model | Measure-TextAnswer $data -MaxNewTokens 1
            token = ($model | ConvertTo-ModelToken 'A')[0]; example = ($data | Show-TrainingExample -Model $model)[0]
        }
    }

    AfterAll { $model | Remove-PeftModel }

    It 'is clean in a CSV file and in JSON: <_>' -ForEach 'model', 'adapter', 'record', 'data', 'module', 'summary', 'counts', 'device', 'generation', 'comparison', 'perplexity', 'answers', 'token', 'example' {
        $outputs[$_] | Should -Not -BeNullOrEmpty
        $outputs[$_] | ConvertTo-Csv | Out-String | Should -Not -Match '<>|`\d\[|\w\[\]|\w \{ \w+ = |"Peft\.'
        # A model and its adapters are live objects: JSON goes into all that they are made of.
        if ($_ -in 'model', 'adapter') { return }
        $json = $outputs[$_] | ConvertTo-Json -Depth ($_ -eq 'data' ? 4 : 2) -WarningAction SilentlyContinue -ErrorAction Stop
        $json | Should -Not -Match '<>|`\d\['
        $json.Length | Should -BeLessThan 20000
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
        $before = $env:NO_COLOR
        $env:NO_COLOR = '1'
        try { $text = & $pwsh -NoProfile -File $file | Out-String } finally { $env:NO_COLOR = $before }
        $text | Should -Not -Match "`e"
        $text | Should -Match 'step 2 of 2'
    }

    It 'is told at Ctrl-C how far a training came, and how to go on' -Skip:$IsWindows {
        $script = @"
Import-Module '$root/Peft.psd1'
`$data = @{ prompt = 'A'; completion = ' b' } | Import-TrainingDataset
Import-PeftModel '$root/assets/pocket-llama' | Invoke-LoraTraining (New-LoraConfig -TargetModule q_proj -Rank 2) `$data -AdapterName cut -MaxSteps 100000 -OutputPath '$TestDrive/stopped'
"@
        $file = Join-Path $TestDrive 'stopped.ps1'
        Set-Content $file $script
        $start = [Diagnostics.ProcessStartInfo]::new($pwsh, [string[]] ('-NoProfile', '-File', $file))
        $start.RedirectStandardOutput = $true
        $start.Environment['NO_COLOR'] = '1'
        $process = [Diagnostics.Process]::Start($start)
        $lines = do { ($line = $process.StandardOutput.ReadLine()) } until ($null -eq $line -or $line -match '^step')
        kill -INT $process.Id
        $text = ($lines -join "`n") + $process.StandardOutput.ReadToEnd()
        $process.WaitForExit()
        $text | Should -Match "The training of 'cut' was stopped after step \d+ of 100000: .*loss"
        $text | Should -Match 'the same command with -Resume goes on from it'
        "$TestDrive/stopped/cut/checkpoints/step-*" | Should -Exist
    }
}

Describe 'The README' {
    BeforeAll {
        $blocks = [regex]::Matches((Get-Content "$root/README.md" -Raw), '(?s)```powershell\r?\n(.*?)```').ForEach({ $_.Groups[1].Value })
        $place = New-Item -ItemType Directory (Join-Path $TestDrive 'readme')
        foreach ($name in 'Peft.psd1', 'bin', 'assets') { New-Item -ItemType SymbolicLink -Path "$place/$name" -Target "$root/$name" | Out-Null }

        # What a block says in a shell of its own, beside what the blocks before it left.
        function Invoke-Block([string] $Block) {
            $Block | Should -Not -BeNullOrEmpty
            $file = Join-Path $place 'block.ps1'
            Set-Content $file $Block
            Push-Location $place
            try { & $pwsh -NoProfile -File $file 2>&1 | Out-String } finally { Pop-Location }
        }
    }

    It 'begins with a block that runs as it stands' {
        Invoke-Block $blocks[0] | Should -Match 'Austin'
        "$place/out/capitals/adapter_model.safetensors" | Should -Exist
        "$place/merged/model.safetensors" | Should -Exist
        "$place/merged/tokenizer.json" | Should -Exist
    }

    It 'goes on with a block that writes the merged model as GGUF and runs that' {
        $text = Invoke-Block ($blocks -match '-Format Gguf')[0]
        $text | Should -Match 'Austin'
        $text | Should -Match 'FROM \./pocket-llama\.Q4_K_M\.gguf'
        "$place/out/gguf/pocket-llama.Q4_K_M.gguf" | Should -Exist
        "$place/out/gguf/Modelfile" | Should -Exist
    }

    It 'shows the sample of tests as it stands' {
        $readme = Get-Content "$root/README.md" -Raw
        $block = [regex]::Match($readme, '(?s)```powershell\r?\n(    It .*?)```').Groups[1].Value.Trim() -split '\r?\n' | Where-Object { $_.Trim() }
        $block.Count | Should -BeGreaterThan 3
        $sample = Get-Content "$root/samples/Pipeline.Tests.ps1"
        foreach ($line in $block) { $sample.Trim() | Should -Contain $line.Trim() }
    }
}
