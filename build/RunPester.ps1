<#
.SYNOPSIS
    Runs Pester tests and writes a result for each; exit code 3 where this version of Pester can't be had.
#>
param(
    # The folders of the *.Tests.ps1 files, separated like those of PATH.
    [Parameter(Mandatory)] [string] $TestPath,
    # The JSON file with name, outcome and message of each test.
    [Parameter(Mandatory)] [string] $ResultPath,
    # The version of Pester.
    [Parameter(Mandatory)] [version] $Version,
    # Where the version lies if the package feed has it.
    [Parameter(Mandatory)] [string] $PackagePath,
    # Where it is saved to from the PowerShell Gallery, once, if neither the feed nor this machine has it.
    [Parameter(Mandatory)] [string] $ModulePath
)

$ErrorActionPreference = 'Stop'
$PSStyle.OutputRendering = 'PlainText'
$env:PSModulePath = $ModulePath + [IO.Path]::PathSeparator + $env:PSModulePath

# From the package, or else whatever of the same major version is installed.
function Find-Pester {
    $manifest = Join-Path $PackagePath Pester.psd1
    if (Test-Path $manifest) { return $manifest }
    Get-Module -ListAvailable Pester | Where-Object { $_.Version.Major -eq $Version.Major } |
        Sort-Object Version -Descending | Select-Object -First 1 -ExpandProperty Path
}

$pester = Find-Pester
$tried = Join-Path $ModulePath "tried-pester-$Version"
if (-not $pester -and -not (Test-Path $tried) -and (Get-Command Save-PSResource -ErrorAction Ignore)) {
    $null = New-Item $tried -ItemType File -Force
    Write-Host "Saving Pester $Version from the PowerShell Gallery into artifacts."
    Save-PSResource -Name Pester -Version $Version -Path $ModulePath -TrustRepository -ErrorAction SilentlyContinue -ErrorVariable refused
    $refused | ForEach-Object { Write-Host "  not to be had: $_" }
    $pester = Find-Pester
}

if (-not $pester) { exit 3 }

Import-Module $pester
$configuration = New-PesterConfiguration
$configuration.Run.Path = $TestPath -split [IO.Path]::PathSeparator
$configuration.Run.PassThru = $true
$configuration.Output.Verbosity = 'Detailed'
$configuration.Output.RenderMode = 'Plaintext'
$configuration.Output.CIFormat = 'None'
$run = Invoke-Pester -Configuration $configuration

function Get-Message($Result) { ($Result.ErrorRecord | ForEach-Object { "$_" }) -join ' ' -replace '\s+', ' ' -replace '^is skipped, because ' }

$results = @(
    foreach ($test in $run.Tests | Where-Object Result -ne 'NotRun') {
        $outcome = switch ($test.Result) { 'Passed' { 'Passed' } 'Failed' { 'Failed' } default { 'Skipped' } }
        @{ name = $test.ExpandedPath; outcome = $outcome; message = (Get-Message $test) }
    }
    # What fails beside the tests: a file that can't be read, a block that sets up or cleans up.
    foreach ($container in $run.FailedContainers) { @{ name = "$container"; outcome = 'Failed'; message = (Get-Message $container) } }
    foreach ($block in $run.FailedBlocks | Where-Object ErrorRecord) { @{ name = $block.ExpandedPath; outcome = 'Failed'; message = (Get-Message $block) } }
)
ConvertTo-Json -InputObject $results | Set-Content $ResultPath
exit 0
