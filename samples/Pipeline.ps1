#Requires -Version 7.6
<#
    A team's own pipeline: train an adapter, measure what it knows, and publish the merged model only where that is good enough.
    Pipeline.Tests.ps1 beside it holds it to its promises. Dot-source this file after Import-Module Peft.
#>

# The share of questions that a model or an adapter answers word for word.
function Measure-Accuracy {
    [OutputType([double])]
    param(
        [Parameter(Mandatory, ValueFromPipeline)] [Peft.Adapters.Model.PeftAdapter] $Adapter,
        # Rows with a prompt and a completion.
        [Parameter(Mandatory)] [object[]] $Question
    )

    process {
        $answer = @($Adapter | Invoke-TextGeneration $Question.prompt -MaxNewTokens 12 -StopString "`n")
        $right = @(0..($Question.Count - 1) | Where-Object { $answer[$_].Text.Trim() -ceq $Question[$_].completion.Trim() })
        $right.Count / $Question.Count
    }
}

# Trains on the questions and publishes the merged model, or throws where too few are answered right.
function Publish-Assistant {
    [CmdletBinding(SupportsShouldProcess)]
    param(
        [Parameter(Mandatory)] [string] $BasePath,
        [Parameter(Mandatory)] [object[]] $Question,
        [Parameter(Mandatory)] [string] $PublishPath,
        [ValidateRange(0, 1)] [double] $MinimumAccuracy = 0.95,
        # What Invoke-LoraTraining takes beyond the adapter and the data.
        [hashtable] $Recipe = @{ Epoch = 40; BatchSize = 8; LearningRate = 6e-3; Seed = 0 }
    )

    $model = Import-PeftModel $BasePath
    $config = New-LoraConfig -Rank 16 -Alpha 32 -TargetModule all-linear
    $adapter = $model | Invoke-LoraTraining $config ($Question | Import-TrainingDataset) -AdapterName assistant @Recipe
    $accuracy = $adapter | Measure-Accuracy -Question $Question
    if ($accuracy -lt $MinimumAccuracy) {
        throw "The assistant answers $('{0:P0}' -f $accuracy) right; at least $('{0:P0}' -f $MinimumAccuracy) were asked for."
    }

    if ($PSCmdlet.ShouldProcess($PublishPath, 'Publish the assistant')) {
        $adapter | Merge-LoraAdapter -Unload | Export-PeftModel $PublishPath
    }
}
