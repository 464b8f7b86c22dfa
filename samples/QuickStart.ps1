#Requires -Version 7.6
<#
.SYNOPSIS
    The module's main job on real input: train two adapters, switch between them, merge one, save and load; fails when one isn't learnt.
.PARAMETER OutputPath
    Where the adapters and the merged model go.
#>
param(
    [string] $OutputPath = (Join-Path $PSScriptRoot '../artifacts/demo')
)

$ErrorActionPreference = 'Stop'
$InformationPreference = 'Continue'
$root = Split-Path $PSScriptRoot
Import-Module (Join-Path $root Peft.psd1)

$clock = [Diagnostics.Stopwatch]::StartNew()
$recipe = @{ Epoch = 60; BatchSize = 10; LearningRate = 6e-3; Seed = 0; OutputPath = $OutputPath; Force = $true }
$answer = @{ MaxNewTokens = 24; StopString = "`n" }
$wanted = 48

function Write-Title([string] $Text) {
    Write-Information "`n$Text"
}

function Import-Question([string] $File) {
    Get-Content (Join-Path $root assets data $File) | ConvertFrom-Json
}

# How many questions the model, with what is active on it, answers word for word.
function Measure-Answer($Model, [object[]] $Question) {
    $given = $Model | Invoke-TextGeneration $Question.prompt @answer
    @(0..($Question.Count - 1) | Where-Object { $given[$_].Text.Trim() -ceq $Question[$_].completion.Trim() }).Count
}

function Invoke-Lesson($Model, [string] $Name, [string] $File) {
    Write-Title "Training the adapter '$Name' on $File"
    $config = New-LoraConfig -Rank 16 -Alpha 32 -TargetModule all-linear -TaskType CAUSAL_LM
    $data = Import-TrainingDataset (Join-Path $root assets data $File)
    $adapter = $Model | Invoke-LoraTraining -Config $config -Dataset $data -AdapterName $Name @recipe
    $adapter | Set-ActiveAdapter
    $questions = Import-Question $File
    $right = Measure-Answer $Model $questions
    Write-Information "  '$Name' gets $right of $($questions.Count) right"
    if ($right -lt $wanted) {
        throw "The adapter '$Name' gets only $right right; at least $wanted were expected."
    }
    $adapter
}

$model = Import-PeftModel (Join-Path $root assets pocket-llama) -DataType float32
Write-Title "$($model.Name): what an adapter can attach to"
$model | Get-ModelModule -Kind Linear -Summary | Format-Table | Out-String | Write-Information

$questions = Import-Question capitals.jsonl
Write-Title 'Three questions to the base model'
$model | Invoke-TextGeneration $questions[0..2].prompt @answer | ForEach-Object { Write-Information "  $($_.FullText -replace '\n', ' ')" }

$capitals = Invoke-Lesson $model capitals capitals.jsonl
Write-Title "The same questions with the adapter 'capitals'"
$model | Invoke-TextGeneration $questions[0..2].prompt @answer | ForEach-Object { Write-Information "  $($_.FullText -replace '\n', ' ')" }

$sentences = Invoke-Lesson $model sentences capitals-sentence.jsonl
Write-Title 'Switching between the two'
foreach ($adapter in $capitals, $sentences) {
    $adapter | Set-ActiveAdapter
    Write-Information ("  {0,-10} {1}" -f $adapter.Name, ($model | Invoke-TextGeneration $questions[0].prompt @answer).Text.Trim())
}

Write-Title "Merging 'capitals' into the weights"
$capitals | Set-ActiveAdapter
$text = $questions | ForEach-Object { $_.prompt + $_.completion }
$adapted = foreach ($line in $text) { ($model | Measure-Perplexity $line).Loss }
$merged = $capitals | Merge-LoraAdapter -Unload -Safe
$folder = Join-Path $OutputPath merged
$merged | Export-PeftModel $folder -Force
$again = Import-PeftModel $folder

function Measure-Difference($Model) {
    $index = 0
    $differences = foreach ($line in $text) { [Math]::Abs(($Model | Measure-Perplexity $line).Loss - $adapted[$index++]) }
    ($differences | Measure-Object -Maximum).Maximum
}

$inPlace = Measure-Difference $merged
$fromDisk = Measure-Difference $again
Write-Information ('  largest difference in loss on {0} texts: merged {1:0.0E-0}, loaded again from disk {2:0.0E-0}' -f $text.Count, $inPlace, $fromDisk)
Write-Information "  $(($again | Invoke-TextGeneration $questions[0].prompt @answer).FullText -replace '\n', ' ')"
if ([Math]::Max($inPlace, $fromDisk) -ge 1e-3) {
    throw 'The merged model does not say what the adapted model said.'
}

Write-Title ('Written, in {0:N0} seconds in all' -f $clock.Elapsed.TotalSeconds)
'capitals', 'sentences', 'merged' | ForEach-Object { Write-Information "  $(Resolve-Path (Join-Path $OutputPath $_) -Relative)" }
