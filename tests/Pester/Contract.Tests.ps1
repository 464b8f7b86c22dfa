# What every cmdlet promises.
BeforeDiscovery {
    Import-Module "$PSScriptRoot/../../Peft.psd1"
    $cmdlets = (Get-Module Peft).ExportedCmdlets.Values | Sort-Object Name | ForEach-Object { @{ Name = $_.Name; Command = $_ } }
    $aliases = (Get-Module Peft).ExportedAliases.Values | Sort-Object Name | ForEach-Object { @{ Name = $_.Name; Definition = $_.Definition } }
}

BeforeAll {
    . "$PSScriptRoot/Support.ps1"
    $described = Get-ChildItem $PSScriptRoot -Filter *.Tests.ps1 | Select-String "^\s*Describe '(\w+-\w+)'" | ForEach-Object { $_.Matches[0].Groups[1].Value }
}

Describe 'Cmdlet <Name>' -ForEach $cmdlets {
    It 'has help with a synopsis, parameters and an example' {
        $help = Get-Help $Name -Full
        $help.Synopsis | Should -Match '\.$'
        $help.examples.example | Should -Not -BeNullOrEmpty
        foreach ($parameter in $help.parameters.parameter) { $parameter.description.Text | Should -Not -BeNullOrEmpty }
    }

    It 'has help without marks of Markdown' {
        $help = Get-Help $Name -Full
        $help.Synopsis, $help.description.Text, $help.parameters.parameter.description.Text, $help.returnValues.returnValue.type.name | Out-String | Should -Not -Match '`|\*\*|\]\('
    }

    It 'has an approved verb, a singular noun and names its output' {
        (Get-Verb).Verb | Should -Contain $Command.Verb
        $Command.Noun | Should -Not -Match '(?<!s)s$'
        $Command.OutputType.Count -gt 0 -or $Command.Verb -eq 'Remove' | Should -BeTrue
    }

    It 'says its output as types that the prompt knows' {
        foreach ($output in $Command.OutputType) { $output.Name -as [type] | Should -Not -BeNullOrEmpty }
    }

    It 'asks before it changes something, and only then' {
        $changes = $Command.Verb -in 'Add', 'Set', 'Remove', 'Export', 'Enable', 'Disable', 'Join', 'Merge', 'Undo' -and $Name -ne 'Join-TrainingDataset' -or $Name -in 'Compress-PeftModel', 'Convert-PeftAdapter', 'ConvertTo-LoraAdapter', 'Import-PeftAdapter', 'Import-PeftModel', 'Invoke-LoraTraining', 'Invoke-PolicyTraining', 'Invoke-PreferenceTraining', 'Save-HubModel'
        $Command.Parameters.ContainsKey('WhatIf') | Should -Be $changes
    }

    It 'can be mocked' {
        Mock $Name { 'mocked' }
        Get-Command $Name | Should -Not -BeNullOrEmpty
        $arguments = @{}
        foreach ($parameter in $Command.ParameterSets[0].Parameters | Where-Object IsMandatory) {
            if ($parameter.ParameterType -eq [string[]] -or $parameter.ParameterType -eq [string]) {
                $words = ($parameter.Attributes | Where-Object { $_ -is [ValidateSet] }).ValidValues
                $arguments[$parameter.Name] = $words ? $words[0] : 'x'
            }
        }
        if (($Command.ParameterSets[0].Parameters | Where-Object IsMandatory).Count -eq $arguments.Count) {
            & $Name @arguments | Should -Be 'mocked'
        }
    }

    It 'has tests of its own' {
        $described | Should -Contain $Name
    }
}

Describe 'Alias <Name>' -ForEach $aliases {
    It 'stands for a cmdlet of the module' {
        (Get-Command $Definition).ModuleName | Should -Be 'Peft'
    }
}
