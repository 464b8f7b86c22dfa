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
