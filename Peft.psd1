@{
    RootModule           = 'bin/Peft.psm1'
    ModuleVersion        = '0.1.0'
    GUID                 = '7c3e0b52-5a3c-4e1e-9a58-2f8b1f1c6d10'
    Author               = 'Peft for PowerShell contributors'
    CompanyName          = 'Peft for PowerShell contributors'
    Copyright            = '(c) Peft for PowerShell contributors'
    Description          = 'Fine-tunes language models with small adapters (LoRA and its relatives), in process, reading and writing the files of the Python ecosystem.'

    # Windows PowerShell 5.1 runs on another .NET and is refused by these two lines.
    PowerShellVersion    = '7.6'
    CompatiblePSEditions = @('Core')

    FormatsToProcess     = @('bin/Peft.Format.ps1xml')
    TypesToProcess       = @('bin/Peft.Types.ps1xml')

    FunctionsToExport    = @()
    VariablesToExport    = @()
    CmdletsToExport      = @(
        'Add-ModelToken'
        'Add-PeftAdapter'
        'Compare-ModelOutput'
        'Compress-PeftModel'
        'ConvertFrom-ModelToken'
        'Convert-PeftAdapter'
        'ConvertTo-ChatPrompt'
        'ConvertTo-LoraAdapter'
        'ConvertTo-ModelToken'
        'Disable-PeftAdapter'
        'Enable-PeftAdapter'
        'Enter-PeftChat'
        'Export-PeftAdapter'
        'Export-PeftModel'
        'Export-TrainingReport'
        'Get-ModelModule'
        'Get-PeftAdapter'
        'Get-PeftDevice'
        'Get-PeftModel'
        'Import-PeftAdapter'
        'Import-PeftModel'
        'Import-TrainingDataset'
        'Invoke-ImageGeneration'
        'Invoke-LoraTraining'
        'Invoke-PolicyTraining'
        'Invoke-PreferenceTraining'
        'Invoke-TextGeneration'
        'Join-PeftAdapter'
        'Join-TrainingDataset'
        'Measure-IntruderDimension'
        'Measure-ModelParameter'
        'Measure-Perplexity'
        'Measure-TextAnswer'
        'Merge-LoraAdapter'
        'New-AdaLoraConfig'
        'New-IA3Config'
        'New-LoHaConfig'
        'New-LoKrConfig'
        'New-LoraConfig'
        'New-MultitaskPromptTuningConfig'
        'New-PeftConfig'
        'New-PrefixTuningConfig'
        'New-PromptEncoderConfig'
        'New-PromptTuningConfig'
        'New-QuantizationConfig'
        'Remove-PeftAdapter'
        'Remove-PeftModel'
        'Save-HubModel'
        'Select-TrainingDataset'
        'Set-ActiveAdapter'
        'Show-TrainingExample'
        'Show-TrainingReport'
        'Split-TrainingDataset'
        'Undo-LoraMerge'
    )
    AliasesToExport      = @(
        'Invoke-GrpoTraining'
        'Invoke-PeftTraining'
        'Merge-PeftAdapter'
        'New-PTuningConfig'
        'Undo-PeftMerge'
    )

    PrivateData          = @{
        PSData = @{
            Tags = @('LoRA', 'PEFT', 'fine-tuning', 'LLM', 'adapter', 'TorchSharp', 'PSEdition_Core', 'Windows', 'Linux', 'MacOS')
        }
    }
}
