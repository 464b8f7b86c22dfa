<#
.SYNOPSIS
    Runs the Pester tests and writes their counts; exit code 3 where no Pester 5 can be had.
#>
param(
    # The folder of the *.Tests.ps1 files.
    [Parameter(Mandatory)] [string] $TestPath,
    # The JSON file with passed, failed and skipped.
    [Parameter(Mandatory)] [string] $ResultPath,
    # Where a Pester that is missing is saved to, once.
    [Parameter(Mandatory)] [string] $ModulePath
)

$ErrorActionPreference = 'Stop'
$env:PSModulePath = $ModulePath + [IO.Path]::PathSeparator + $env:PSModulePath

function Find-Pester {
    Get-Module -ListAvailable Pester | Where-Object { $_.Version.Major -eq 5 } | Sort-Object Version -Descending | Select-Object -First 1
}

$pester = Find-Pester
if (-not $pester -and -not (Test-Path $ModulePath)) {
    # The folder itself remembers that it was tried.
    New-Item $ModulePath -ItemType Directory | Out-Null
    if (Get-Command Save-PSResource -ErrorAction Ignore) {
        Write-Host 'No Pester 5 here: saving it from the PowerShell Gallery into artifacts.'
        Save-PSResource -Name Pester -Version '[5.5.0,6.0.0)' -Path $ModulePath -TrustRepository -ErrorAction SilentlyContinue -ErrorVariable refused
        $refused | ForEach-Object { Write-Host "  not to be had: $_" }
        $pester = Find-Pester
    }
}

if (-not $pester) {
    exit 3
}

Import-Module $pester.Path
$configuration = New-PesterConfiguration
$configuration.Run.Path = $TestPath
$configuration.Run.PassThru = $true
$configuration.Output.Verbosity = 'Normal'
$result = Invoke-Pester -Configuration $configuration
@{
    passed  = $result.PassedCount
    failed  = $result.FailedCount + $result.FailedContainersCount
    skipped = $result.SkippedCount + $result.InconclusiveCount
} | ConvertTo-Json | Set-Content $ResultPath
exit 0
