#Requires -Version 7.6
<#
.SYNOPSIS
    Builds, tests and demonstrates Peft.
.DESCRIPTION
    Installs what is missing, says what it does, and starts in seconds when everything is there. build.sh hands over to this script
    where there is a PowerShell; the work itself is in the build folder.
.PARAMETER Task
    Demo trains, switches and merges adapters on the embedded model. Test runs xUnit and Pester. Build compiles everything into bin,
    so that Import-Module ./Peft.psd1 works. Bench measures speed and memory. Golden runs reference cases. Faults runs random
    damage, kills and races at length. Pack makes
    artifacts/Peft/<version>. Gpu-Check packs what has to work on a GPU. Clean removes what the other tasks made, but for the build's own program.
.PARAMETER Argument
    Golden: the folder of the cases and, if wanted, a wildcard for their paths. Faults: the seconds for all trials together and, if
    wanted, the seed of the first. Bench: the names of the benchmarks.
.PARAMETER Engine
    NuGet or SystemLibtorch. Chosen by asking the feed where it isn't given; the choice is kept in TorchEngine.props.
.PARAMETER Backend
    What NuGet's engine computes on: cpu, cuda-windows or cuda-linux.
.PARAMETER Libtorch
    A folder with a libtorch to build on: an unpacked zip, or the torch folder of a Python installation. LIBTORCH in the environment
    names it as well.
.PARAMETER Runtime
    Pack: the system that the module is to run on, where it isn't this one: win-x64, linux-x64 or osx-arm64.
.EXAMPLE
    ./build.ps1 -Task Demo
.EXAMPLE
    ./build.ps1 -Task Golden ./cases 'adapters/*'
#>
[CmdletBinding()]
param(
    [Parameter(Mandatory, Position = 0)]
    [ValidateSet('Demo', 'Test', 'Build', 'Bench', 'Golden', 'Faults', 'Pack', 'Gpu-Check', 'Clean')]
    [string] $Task,

    [Parameter(Position = 1, ValueFromRemainingArguments)]
    [string[]] $Argument = @(),

    [ValidateSet('NuGet', 'SystemLibtorch')]
    [string] $Engine,

    [ValidateSet('cpu', 'cuda-windows', 'cuda-linux')]
    [string] $Backend,

    [string] $Libtorch,

    [ValidateSet('win-x64', 'linux-x64', 'osx-arm64')]
    [string] $Runtime
)

$sdk = if (Get-Command dotnet -CommandType Application -ErrorAction Ignore) {
    & dotnet --list-sdks | Where-Object { $_ -match '^(\d+)\.' -and [int]$Matches[1] -ge 10 }
}

if (-not $sdk) {
    throw 'Peft is built with the .NET SDK 10 or later, which is not on the path. Install it (https://dotnet.microsoft.com/download) and try again.'
}

$shell = 'pwsh', 'pwsh.exe', 'pwsh.dll' | ForEach-Object { Join-Path $PSHOME $_ } | Where-Object { Test-Path $_ } | Select-Object -First 1
$options = @('--powershell', $shell)
if ($Engine) { $options += '--engine', $Engine }
if ($Backend) { $options += '--backend', $Backend }
if ($Libtorch) { $options += '--libtorch', (Resolve-Path -LiteralPath $Libtorch).ProviderPath }

if ($Runtime) { $Argument += $Runtime }

& dotnet run --project (Join-Path $PSScriptRoot build) --verbosity quiet -- @options $Task.ToLowerInvariant() @Argument
exit $LASTEXITCODE
