# The examples of every help page, run as they stand: those of a page one after the other, in a session of their own, beside the module's assets.
BeforeDiscovery {
    $pages = Get-ChildItem "$PSScriptRoot/../../docs/commands" -Filter *-*.md | ForEach-Object {
        $text = (Get-Content $_ -Raw) -replace '\r\n', "`n"
        $examples = [regex]::Match($text, '(?ms)^## Examples$(.*?)(?=^## |\z)').Groups[1].Value
        $code = [regex]::Matches($examples, '(?ms)^```powershell\n(.*?)^```$') | ForEach-Object { $_.Groups[1].Value }
        @{ Page = $_.BaseName; Code = @($code) }
    }
}

BeforeAll {
    . "$PSScriptRoot/Support.ps1"
}

Describe 'The examples of <Page>' -ForEach $pages {
    It 'run as they stand' {
        $Code | Should -Not -BeNullOrEmpty
        $place = New-Item -ItemType Directory (Join-Path $TestDrive $Page)
        $null = New-Item -ItemType SymbolicLink -Path "$place/assets" -Target "$root/assets"
        $shell = [powershell]::Create()
        try {
            $null = $shell.AddScript({
                param($Manifest, $Place)
                Import-Module $Manifest
                Set-Location $Place
                $ErrorActionPreference = 'Stop'
                $PSStyle.OutputRendering = 'PlainText'
            }).AddArgument("$root/Peft.psd1").AddArgument($place.FullName).Invoke()
            foreach ($example in $Code) {
                # What asks the hub needs a network, and what opens a browser somebody who looks: they are only read.
                if ($example -match '-HubName|Save-HubModel|Enter-PeftChat|Show-TrainingReport') {
                    $null = [scriptblock]::Create($example)
                    continue
                }
                $shell.Commands.Clear()
                $shell.Streams.ClearStreams()
                try { $shown = $shell.AddScript($example).AddCommand('Out-String').Invoke() }
                catch { throw "$example`n$_" }
                $shell.HadErrors | Should -BeFalse -Because "$example`n$($shell.Streams.Error)"
            }
        }
        finally {
            $shell.Commands.Clear()
            $null = $shell.AddScript('Get-PeftModel | Remove-PeftModel; Set-Location /').Invoke()
            $shell.Dispose()
        }
    }
}
