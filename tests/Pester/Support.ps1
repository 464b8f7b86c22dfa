# What the test files share. Dot-source it in BeforeAll.
$root = (Resolve-Path "$PSScriptRoot/../..").Path
$base = "$root/assets/pocket-llama"
$pwsh = Join-Path $PSHOME ($IsWindows ? 'pwsh.exe' : 'pwsh')
if (-not (Test-Path $pwsh)) { $pwsh = 'pwsh' }
Import-Module "$root/Peft.psd1"

# What completion offers at the end of a line.
function Get-Completion([string] $Line) {
    (TabExpansion2 $Line $Line.Length).CompletionMatches.CompletionText
}

# The record of the one error that a script block ends in.
function Get-ErrorRecord([scriptblock] $Script) {
    try { $null = & $Script } catch { return $_ }
    throw "No error came of: $Script"
}

# What a script writes to one stream in a runspace of its own: Progress, Information, Warning, Error.
function Get-Stream([string] $Name, [string] $Script, [object[]] $Argument = @()) {
    $shell = New-Shell $Script $Argument
    try {
        $null = $shell.Invoke()
        , @($shell.Streams.$Name)
    }
    finally { $shell.Runspace.Dispose(); $shell.Dispose() }
}

# Starts a script and stops it, as Ctrl-C does, once it shows progress or puts something out: how long that takes, and in what state it ends.
function Stop-Script([string] $Script, [object[]] $Argument = @()) {
    $shell = New-Shell $Script $Argument
    $output = [Management.Automation.PSDataCollection[psobject]]::new()
    try {
        $running = $shell.BeginInvoke([Management.Automation.PSDataCollection[psobject]]::new(), $output)
        $patience = [Diagnostics.Stopwatch]::StartNew()
        while (-not ($output.Count -or $shell.Streams.Progress.Count -or $running.IsCompleted) -and $patience.Elapsed.TotalSeconds -lt 120) { Start-Sleep -Milliseconds 20 }
        $began = -not $running.IsCompleted
        $clock = [Diagnostics.Stopwatch]::StartNew()
        $shell.Stop()
        [pscustomobject]@{ Began = $began; Seconds = $clock.Elapsed.TotalSeconds; State = "$($shell.InvocationStateInfo.State)" }
    }
    finally { $shell.Runspace.Dispose(); $shell.Dispose() }
}

function New-Shell([string] $Script, [object[]] $Argument) {
    $state = [initialsessionstate]::CreateDefault2()
    $state.ImportPSModule("$root/Peft.psd1")
    $runspace = [runspacefactory]::CreateRunspace($state)
    $runspace.Open()
    $shell = [powershell]::Create($runspace).AddScript($Script)
    foreach ($value in $Argument) { $null = $shell.AddArgument($value) }
    $shell
}
