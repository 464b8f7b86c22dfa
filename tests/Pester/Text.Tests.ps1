# The cmdlets for texts and tokens.
BeforeAll {
    . "$PSScriptRoot/Support.ps1"
    $model = Import-PeftModel $base -DataType float32
    $adapter = $model | Add-PeftAdapter (New-LoraConfig -TargetModule q_proj -Rank 2 -Initialization false) style -Seed 1
    Push-Location $TestDrive
}

AfterAll {
    Pop-Location
    $model | Remove-PeftModel
}

Describe 'Invoke-TextGeneration' {
    It 'puts out a result for each prompt of the pipeline' {
        $results = 'The cat', 'The dog' | Invoke-TextGeneration -Model $model -MaxNewTokens 3
        $results | Should -HaveCount 2
        $results | Should -BeOfType Peft.Generation.GenerationResult
        $results.Prompt | Should -Be 'The cat', 'The dog'
        "$($results[0])" | Should -Be $results[0].Text
    }

    It 'puts out pieces of the same text with -Stream' {
        $whole = $model | Invoke-TextGeneration 'Once upon a time' -MaxNewTokens 6
        -join ($model | Invoke-TextGeneration 'Once upon a time' -MaxNewTokens 6 -Stream) | Should -BeExactly $whole.Text
    }

    It 'asks an adapter or the base without switching' {
        $null = $model | Invoke-TextGeneration 'The cat' -MaxNewTokens 1 -AdapterName base
        $null = $adapter | Invoke-TextGeneration 'The cat' -MaxNewTokens 1
        $model.ActiveAdapters | Should -Be 'style'
    }

    It 'repeats a draw by its seed' {
        $draws = 1..2 | ForEach-Object { ($model | Invoke-TextGeneration 'The cat' -MaxNewTokens 5 -Temperature 1 -Seed 3).Text }
        $draws[0] | Should -BeExactly $draws[1]
    }

    It 'completes adapters and the base' {
        Get-Completion '$model | Invoke-TextGeneration x -AdapterName ' | Should -Contain 'base'
        Get-Completion '$model | Invoke-TextGeneration x -AdapterName st' | Should -Contain 'style'
    }

    It 'names what is wrong: <Id>' -ForEach @(
        @{ Id = 'AdapterNotFound'; Script = { $model | Invoke-TextGeneration 'x' -AdapterName nothing -ErrorAction Stop } }
        @{ Id = 'GenerationOptionInvalid'; Script = { $model | Invoke-TextGeneration 'x' -Temperature -1 -ErrorAction Stop } }
        @{ Id = 'PeftModelBusy'; Script = { $model | Invoke-TextGeneration 'x' -MaxNewTokens 50 -Stream | ForEach-Object { $model | Invoke-TextGeneration 'y' -ErrorAction Stop } } }
    ) {
        (Get-ErrorRecord $Script).FullyQualifiedErrorId | Should -BeLike "$Id,*"
    }

    It 'ends its work with Select-Object -First' {
        $clock = [System.Diagnostics.Stopwatch]::StartNew()
        $piece = $model | Invoke-TextGeneration 'Once upon a time' -MaxNewTokens 100000 -Stream | Select-Object -First 1
        $piece | Should -Not -BeNullOrEmpty
        $clock.Elapsed.TotalSeconds | Should -BeLessThan 60
        { $model | Invoke-TextGeneration 'A' -MaxNewTokens 1 -ErrorAction Stop } | Should -Not -Throw
    }

    It 'gives the prompt back within two seconds of Ctrl-C, and leaves the model usable' {
        $stopped = Stop-Script '$args[0] | Invoke-TextGeneration "Once upon a time" -MaxNewTokens 100000 -Stream -Temperature 1 -Seed 1' $model
        $stopped.Began | Should -BeTrue
        $stopped.State | Should -Be 'Stopped'
        $stopped.Seconds | Should -BeLessThan 2
        ($model | Invoke-TextGeneration 'A' -MaxNewTokens 1).TokenIds.Count | Should -Be 1
    }
}

Describe 'An adapter that remembers how it is asked' {
    BeforeAll {
        $rows = ('cat', 'Katze'), ('dog', 'Hund') | ForEach-Object { [pscustomobject]@{ English = $_[0]; German = " $($_[1])" } }
        $words = $rows | Import-TrainingDataset -CompletionColumn German -Template "English: {English}`nGerman:"
        $pets = $model | Invoke-LoraTraining (New-LoraConfig -Rank 4) $words -AdapterName pets -Epoch 50 -LearningRate 1e-2 -OutputPath asked 3>$null 6>$null
        $turns = 'hi', 'bye' | ForEach-Object { @{ messages = @(@{ role = 'system'; content = 'Be brief.' }, @{ role = 'user'; content = $_ }, @{ role = 'assistant'; content = 'Yes' }) } }
        $talk = $model | Invoke-LoraTraining (New-LoraConfig -Rank 4) ($turns | Import-TrainingDataset) -AdapterName talk -Epoch 15 -LearningRate 1e-2 -OutputPath asked 6>$null
    }

    AfterAll { $model | Remove-PeftAdapter pets, talk }

    It 'shows its form, and has it back from the disk and in an export' {
        "$($pets.PromptForm)" | Should -BeExactly "English: {English}`nGerman:"
        $pets | Format-List | Out-String | Should -Match 'PromptForm +: English: \{English\}'
        "$($talk.PromptForm)", $talk.PromptForm.SystemMessage | Should -Be 'chat', 'Be brief.'
        $pets | Export-PeftAdapter exported
        $back = Import-PeftAdapter ./exported -Model $model -AdapterName back
        "$($back.PromptForm)" | Should -BeExactly "$($pets.PromptForm)"
        $model | Remove-PeftAdapter back
    }

    It 'is asked by rows: tables, objects of Import-Csv, in any case' {
        ($pets | Invoke-TextGeneration -Row @{ english = 'cat' } -MaxNewTokens 8).Text.Trim() | Should -Be 'Katze'
        $rows | Export-Csv pets.csv
        (Import-Csv pets.csv | Invoke-TextGeneration -Adapter $pets -MaxNewTokens 8).Text.Trim() | Should -Be 'Katze', 'Hund'
        ($model | Invoke-TextGeneration -Row @{ English = 'dog' } -AdapterName pets -MaxNewTokens 8).Prompt | Should -BeExactly "English: dog`nGerman:"
        ($model | Invoke-TextGeneration -Row @{ English = 'dog' } -AdapterName base -Template 'The {English}' -MaxNewTokens 1).Prompt | Should -BeExactly 'The dog'
    }

    It 'is asked by messages' {
        ($talk | Invoke-TextGeneration -Message 'hi' -MaxNewTokens 4).Text | Should -Be 'Yes'
        ($talk | Invoke-TextGeneration 'hi' -Chat -MaxNewTokens 4).Text | Should -Be 'Yes'
        ($talk | Invoke-TextGeneration -Row $turns[1] -MaxNewTokens 4).Text | Should -Be 'Yes'
        $long = $talk | Invoke-TextGeneration -Message 'hi', @{ role = 'assistant'; content = 'Yes' }, 'bye' -MaxNewTokens 1
        $long.PromptTokens | Should -BeGreaterThan ($talk | Invoke-TextGeneration -Message 'bye' -MaxNewTokens 1).PromptTokens
    }

    It 'says once where it is asked otherwise: <Script>' -ForEach @(
        @{ Script = { 'cat', 'dog' | Invoke-TextGeneration -Adapter $pets -MaxNewTokens 1 -WarningVariable script:warned 3>$null }; Word = '-Row @\{' }
        @{ Script = { $talk | Invoke-TextGeneration 'hi' -MaxNewTokens 1 -WarningVariable script:warned 3>$null }; Word = '-Chat' }
    ) {
        $null = & $Script
        $script:warned | Should -HaveCount 1
        $script:warned | Should -Match $Word
    }

    It 'says nothing where the form is right' {
        $null = $pets | Invoke-TextGeneration "English: cat`nGerman:" -MaxNewTokens 1 -WarningVariable warned
        $warned | Should -BeNullOrEmpty
        $null = $model | ConvertTo-ChatPrompt 'hi' | Invoke-TextGeneration -Adapter $talk -MaxNewTokens 1 -WarningVariable warned
        $warned | Should -BeNullOrEmpty
    }

    It 'names what is wrong: <Id>' -ForEach @(
        @{ Id = 'PromptColumnMissing'; Script = { $pets | Invoke-TextGeneration -Row @{ French = 'chat' } -ErrorAction Stop } }
        @{ Id = 'PromptFormMissing'; Script = { $model | Invoke-TextGeneration -Row @{ English = 'cat' } -AdapterName base -ErrorAction Stop } }
        @{ Id = 'TextMissing'; Script = { $model | Invoke-TextGeneration -ErrorAction Stop } }
    ) {
        $failure = Get-ErrorRecord $Script
        $failure.FullyQualifiedErrorId | Should -BeLike "$Id,*"
        $failure.ErrorDetails.RecommendedAction | Should -Not -BeNullOrEmpty
    }

    It 'says once what is wrong with the command, not once for each prompt' {
        'a', 'b', 'c' | Invoke-TextGeneration -Model $model -AdapterName pest -ErrorVariable failed -ErrorAction SilentlyContinue
        $failed | Should -HaveCount 1
        "$failed" | Should -Match "Did you mean 'pets'"
    }

    It 'comes alone with its base, its log and its losses in a new shell' {
        $script = "Import-Module '$root/Peft.psd1'; `$p = Import-PeftAdapter '$PWD/asked/pets'; `$p.Model.Name; [string]::Join(',', `$p.TrainingRecord.Losses); (`$p | Invoke-TextGeneration -Row @{ English = 'cat' } -MaxNewTokens 8).Text"
        $said = & $pwsh -NoProfile -Command $script
        $said[0] | Should -Be 'pocket-llama'
        $said[1] | Should -Be ([string]::Join(',', $pets.TrainingRecord.Losses))
        $said[2].Trim() | Should -Be 'Katze'
    }

    It 'is loaded with a warning on another base whose shapes fit' {
        $copy = New-Item -ItemType Directory other-base
        Copy-Item "$base/*" $copy
        $weights = [IO.File]::ReadAllBytes("$copy/model.safetensors")
        foreach ($at in 1..($weights.Length / 100 - 1)) { if ($at * 100 -gt 20000) { $weights[$at * 100] = $weights[$at * 100] -bxor 1; $weights[$at * 100 + 1] = $weights[$at * 100 + 1] -bxor 1 } }
        [IO.File]::WriteAllBytes("$copy/model.safetensors", $weights)
        $other = Import-PeftModel $copy -WarningAction SilentlyContinue
        $null = $other | Import-PeftAdapter ./asked/pets -WarningVariable warned 3>$null
        $warned | Should -Match 'another base model'
        $other | Remove-PeftModel
        $same = Import-PeftModel $base -DataType bfloat16
        $null = $same | Import-PeftAdapter ./asked/pets -WarningVariable warned
        $warned | Should -BeNullOrEmpty
        $same | Remove-PeftModel
    }

    It 'takes the base that is loaded already, and says where there is none' {
        (Import-PeftAdapter ./asked/pets -AdapterName other).Model | Should -BeOfType Peft.Adapters.Model.PeftModel
        $checkpoint = Get-ChildItem asked/pets/checkpoints | Select-Object -First 1
        $again = Import-PeftAdapter $checkpoint -Model $model -AdapterName checkpoint
        $again.TrainingRecord.StepCount, "$($again.PromptForm)" | Should -Be 50, "$($pets.PromptForm)"
        $model | Remove-PeftAdapter other, checkpoint
        Copy-Item asked/pets stray -Recurse
        (Get-Content stray/adapter_config.json -Raw) -replace '"base_model_name_or_path": "[^"]*"', '"base_model_name_or_path": "no/such-model"' | Set-Content stray/adapter_config.json
        (Get-ErrorRecord { Import-PeftAdapter ./stray -ErrorAction Stop }).FullyQualifiedErrorId | Should -BeLike 'BaseModelNotFound,*'
        Remove-Item asked/talk/adapter_config.json
        (Get-ErrorRecord { Import-PeftAdapter ./asked/talk -Model $model -AdapterName x -ErrorAction Stop }).ErrorDetails.RecommendedAction | Should -Match 'step-15'
        (Get-ErrorRecord { Import-PeftModel ./asked/pets -ErrorAction Stop }).ErrorDetails.RecommendedAction | Should -Match 'Import-PeftAdapter'
        (Get-ErrorRecord { Import-PeftModel "$root/README.md" -ErrorAction Stop }).Exception.Message | Should -Match 'is a file'
    }
}

Describe 'Measure-TextAnswer' {
    BeforeAll {
        $known = @{ prompt = 'A:'; completion = ' b' }, @{ prompt = 'C:'; completion = ' d' }, @{ prompt = 'E:'; completion = ' f' } | Import-TrainingDataset
        $learnt = $model | Invoke-LoraTraining (New-LoraConfig -Rank 4) $known -AdapterName learnt -Epoch 80 -LearningRate 1e-2 3>$null 6>$null
    }

    AfterAll { $model | Remove-PeftAdapter learnt }

    It 'counts answers by several measures, with the bounds of their share' {
        $measured = $learnt | Measure-TextAnswer $known
        $measured | Should -BeOfType Peft.Training.Evaluation.AnswerMeasurement
        $measured.Exact.Hits, $measured.Normalized.Hits, $measured.Contains.Hits, $measured.Exact.Count | Should -Be 3, 3, 3, 3
        $measured.Exact.Share | Should -Be 1
        $measured.Exact.Low | Should -BeGreaterThan 0.3
        $measured.Exact.Low | Should -BeLessThan 0.5
        $measured.Answers.Expected.Trim() | Should -Be 'b', 'd', 'f'
        $measured | Format-List | Out-String | Should -Match 'Exact +: 3 of 3 \(100 %'
    }

    It 'shows measurements of several kinds each by its own view' {
        $text = & { $learnt | Measure-TextAnswer $known; $learnt | Measure-TextAnswer $known -Choice ' b', ' d', ' f' } | Out-String
        $text | Should -Match 'Exact +: 3 of 3'
        $text | Should -Match 'AccuracyByLength +: '
        $text | Should -Not -Match 'Answers +:|Bleu'
    }

    It 'takes a test of one''s own, and asks the base' {
        ($learnt | Measure-TextAnswer $known { $_.Answer -match 'b' }).Passed.Hits | Should -Be 1
        ($model | Measure-TextAnswer $known -AdapterName base -MaxNewTokens 2).Exact.Hits | Should -BeLessThan 3
    }

    It 'asks conversations for the assistant''s last message' {
        $talk = @{ messages = @(@{ role = 'user'; content = 'a' }, @{ role = 'assistant'; content = 'b' }, @{ role = 'user'; content = 'c' }) }
        ($model | Measure-TextAnswer $talk -MaxNewTokens 1).Answers[0].Expected | Should -Be 'b'
        (Get-ErrorRecord { $model | Measure-TextAnswer ('whole text' | Import-TrainingDataset) -ErrorAction Stop }).FullyQualifiedErrorId | Should -BeLike 'AnswersMissing,*'
    }

    It 'shows progress' {
        Get-Stream Progress '$args[0] | Measure-TextAnswer $args[1] -BatchSize 1 -MaxNewTokens 1' $model, $known | Should -Not -BeNullOrEmpty
    }
}

Describe 'Compare-ModelOutput' {
    It 'puts the base and adapters side by side' {
        $rows = $model | Compare-ModelOutput 'Once upon a time' base, style -MaxNewTokens 3
        $rows | Should -BeOfType Peft.Generation.OutputComparison
        $rows.AdapterName | Should -Be 'base', 'style'
        $rows[1].LargestDifference | Should -BeGreaterThan 0
    }

    It 'completes names, and says what is not there' {
        Get-Completion '$model | Compare-ModelOutput x -AdapterName st' | Should -Contain 'style'
        (Get-ErrorRecord { $model | Compare-ModelOutput 'x' nothing -ErrorAction Stop }).FullyQualifiedErrorId | Should -BeLike 'AdapterNotFound,*'
    }
}

Describe 'Measure-Perplexity' {
    It 'measures texts and files, each on its own' {
        'A cat sat.', 'A dog ran.' | Measure-Perplexity -Model $model | Should -HaveCount 2
        'A cat sat.' | Set-Content -NoNewline text.txt
        $file = $model | Measure-Perplexity -Path text.txt
        $file | Should -BeOfType Peft.Generation.PerplexityResult
        $file.Loss | Should -Be ($model | Measure-Perplexity 'A cat sat.').Loss
    }

    It 'measures what of a data set would be learnt' {
        $data = @{ prompt = 'A cat'; completion = ' sat on a mat.' }, @{ prompt = 'A dog'; completion = ' ran.' } | Import-TrainingDataset
        $measured = $model | Measure-Perplexity $data -AdapterName base
        $measured.Tokens | Should -Be (($data | Show-TrainingExample -Model $model).LearnedCount | Measure-Object -Sum).Sum
        $measured.Perplexity | Should -Be $measured.Value
        $measured.Loss | Should -BeGreaterThan 1
    }

    It 'completes names, and says what is not there' {
        Get-Completion '$model | Measure-Perplexity x -AdapterName ba' | Should -Contain 'base'
        (Get-ErrorRecord { $model | Measure-Perplexity -Path nothing.txt -ErrorAction Stop }).FullyQualifiedErrorId | Should -BeLike 'PathNotFound,*'
    }

    It 'gives the prompt back within two seconds of Ctrl-C, and leaves the model usable' {
        $stopped = Stop-Script '$m = $args[0]; , 1; "A cat sat on a mat. " * 100000 | Measure-Perplexity -Model $m' $model
        $stopped.Began | Should -BeTrue
        $stopped.State | Should -Be 'Stopped'
        $stopped.Seconds | Should -BeLessThan 2
    }
}

Describe 'Add-ModelToken' {
    BeforeEach {
        $learning = Import-PeftModel $base -DataType float32 -Name learning
    }

    AfterEach {
        $learning | Remove-PeftModel
    }

    It 'puts out the tokens with the ids that an adapter trains' {
        $tokens = $learning | Add-ModelToken '<think>', '</think>' -Phrase 'a thought' -Special
        $tokens | Should -BeOfType Peft.Cmdlets.Commands.Text.ModelToken
        $tokens.IsSpecial | Should -Be $true, $true
        ($learning | ConvertTo-ModelToken '<think>' -NoSpecialToken).Id | Should -Be $tokens[0].Id
        $trained = $learning | Add-PeftAdapter (New-LoraConfig -TargetModule q_proj -TrainableToken $tokens.Id) thinker
        $trained | Export-PeftAdapter ./thinker
        $fresh = Import-PeftModel $base -DataType float32 -Name fresh
        $null = $fresh | Import-PeftAdapter ./thinker -WarningVariable said -WarningAction SilentlyContinue
        "$said" | Should -BeLike '*<think>*came with*'
        ($fresh | ConvertTo-ModelToken '</think>' -NoSpecialToken).Id | Should -Be $tokens[1].Id
        $fresh | Remove-PeftModel
    }

    It 'changes nothing under -WhatIf, and asks for as many phrases as tokens' {
        $learning | Add-ModelToken '<x>' -WhatIf
        $learning.Tokenizer.TokenId('<x>') | Should -BeNullOrEmpty
        (Get-ErrorRecord { $learning | Add-ModelToken a1, b2, c3 -Phrase one, two -ErrorAction Stop }).FullyQualifiedErrorId | Should -BeLike 'ParametersContradict,*'
    }
}

Describe 'ConvertTo-ModelToken' {
    It 'cuts a text into tokens, or ids alone' {
        $tokens = $model | ConvertTo-ModelToken 'Hello world'
        $tokens | Should -BeOfType Peft.Cmdlets.Commands.Text.ModelToken
        -join $tokens.Text | Should -Be 'Hello world'
        $ids = $model | ConvertTo-ModelToken 'Hello world' -IdOnly
        $ids | Should -Be $tokens.Id
    }

    It 'reads files, and says what is not there' {
        'Hello' | Set-Content -NoNewline hello.txt
        ($model | ConvertTo-ModelToken -Path hello.txt).Text -join '' | Should -Be 'Hello'
        (Get-ErrorRecord { $model | ConvertTo-ModelToken -Path nothing.txt -ErrorAction Stop }).FullyQualifiedErrorId | Should -BeLike 'PathNotFound,*'
    }
}

Describe 'ConvertFrom-ModelToken' {
    It 'puts tokens together again' {
        $model | ConvertTo-ModelToken 'Hello world' -IdOnly | ConvertFrom-ModelToken -Model $model | Should -Be 'Hello world'
    }

    It 'leaves out special tokens unless it is asked to show them' {
        $id = ($model | ConvertTo-ModelToken '<|user|>').Id
        ConvertFrom-ModelToken $id -Model $model | Should -BeNullOrEmpty
        ConvertFrom-ModelToken $id -Model $model -ShowSpecialToken | Should -Be '<|user|>'
    }
}

Describe 'ConvertTo-ChatPrompt' {
    It 'puts a conversation into the form of its template' {
        'Name a bird.' | ConvertTo-ChatPrompt -Model $model -SystemMessage 'Be brief.' | Should -Be '<|system|>Be brief.<|user|>Name a bird.<|assistant|>'
    }

    It 'takes a template as a text, and says what is wrong with it' {
        'x' | ConvertTo-ChatPrompt -Model $model -Template '[{{ messages[0].content }}]' | Should -Be '[x]'
        (Get-ErrorRecord { 'x' | ConvertTo-ChatPrompt -Model $model -Template '{{ messages' -ErrorAction Stop }).FullyQualifiedErrorId | Should -BeLike 'ChatTemplate*,*'
    }
}

Describe 'Enter-PeftChat' {
    It 'completes adapters and names one that is not there' {
        Get-Completion 'Enter-PeftChat $model -AdapterName ' | Should -Contain 'base'
        (Get-ErrorRecord { Enter-PeftChat $model -AdapterName nobody -ErrorAction Stop }).FullyQualifiedErrorId | Should -BeLike 'AdapterNotFound,*'
    }
}

Describe 'A model in several runspaces' {
    It 'is taken in turn' {
        $manifest = "$root/Peft.psd1"
        $texts = 1..3 | ForEach-Object -Parallel { Import-Module $using:manifest; ($using:model | Invoke-TextGeneration 'The cat' -MaxNewTokens 3).Text }
        $texts | Should -HaveCount 3
        $texts | Select-Object -Unique | Should -HaveCount 1
    }
}
